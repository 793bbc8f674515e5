"""Record what PyTorch's Stable Diffusion makes of tiny random models.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 diffusers==0.39.0 transformers==4.57.6 safetensors==0.8.0
    python tests/oracles/make_stable_diffusion_oracle.py

It writes `tests/oracles/stable_diffusion.json` (the models' configurations, and the names and
shapes of their weights as PyTorch has them) and `tests/oracles/stable_diffusion.npz` (outputs). The
weights follow from their names by numpy's frozen generator, so that they need not be stored: the
test writes the very folder that PyTorch read here, and compares its hash.

With diffusers==0.42.1 and transformers==5.24.0,

    python tests/oracles/make_stable_diffusion_oracle.py today

writes `tests/oracles/stable_diffusion_today.json` and `.npz`: a model of four levels, whose files
have the names that these versions give, and a tokenizer as they save it. With the same versions,

    python tests/oracles/make_stable_diffusion_oracle.py from_image

writes `tests/oracles/stable_diffusion_from_image.npz`: what that model makes of images.
"""

import hashlib
import itertools
import json
import string
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

DATA = Path(__file__).parent
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
PROMPTS = ["a photo of a sea lion", "a blue car"]
NEGATIVE = "blurry"
STEPS = 6
GUIDANCE = 4.0
STRENGTHS = (0.2, 0.8, 1.0)  # 1, 4 and 6 of 6 steps
MAX_TOKENS = 32
SCHEDULERS = ("ddim", "dpmsolver++", "euler")

# "epsilon" has the shape of Stable Diffusion 1.x, "v_prediction" that of 2.x.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 32,
    "attention_head_dim": 8,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 16,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": MAX_TOKENS,
    "vocab_size": 54,
    "projection_dim": 16,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
}
SAFETY_CHECKER = {
    "architectures": ["StableDiffusionSafetyChecker"],
    "projection_dim": 12,
    "vision_config": VISION,
}
PREPROCESSOR = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": 32,
    "crop_size": 32,
    "resample": 3,
}
MODELS = {
    "epsilon": {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": {**TEXT, "hidden_act": "quick_gelu"},
        "scheduler": {**SCHEDULER, "prediction_type": "epsilon"},
    },
    "v_prediction": {
        "unet": {**UNET, "attention_head_dim": [2, 4], "use_linear_projection": True},
        "vae": {**VAE, "scaling_factor": 0.5},
        "text_encoder": {**TEXT, "hidden_act": "gelu"},
        "scheduler": {**SCHEDULER, "prediction_type": "v_prediction"},
    },
}
# Norms of a small variance show in four levels what they hide in two.
TODAY = {
    **MODELS["epsilon"],
    "text_encoder": {**TEXT, "hidden_act": "quick_gelu", "vocab_size": 82},
    "unet": {
        **UNET,
        "block_out_channels": [32, 64, 64, 64],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
}
ODD_PROMPTS = ["海獅 sea lion", "a\u200bb  car", "naïve ÉTÉ", "it's 12 o'clock!", ""]
# Settings that are tried on a closed-form model, with every scheduler.
SCHEDULES = {
    "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "steps_offset": (0, 1),
    "set_alpha_to_one": (False, True),
    "clip_sample": (False, True),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
}
SCHEDULE_STEPS = (1, 2, 5, 20, 50)


def weight(name: str, shape: list[int]) -> np.ndarray:
    """The random value, float16, of the PyTorch weight `name`."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    value = random.standard_normal(shape)
    if len(shape) > 1 and "embedding.weight" not in name:
        value /= np.sqrt(np.prod(shape[1:]))
    elif len(shape) == 1:
        value = 0.1 * value + ("norm" in name and name.endswith("weight"))
        value += 0.67 * name.endswith("embeds_weights")  # thresholds that some images exceed
    return value.astype(np.float16)


def write_model(
    folder: Path, configs: dict, shapes: dict, tokenizer: dict[str, str] | None = None
) -> str:
    """Write a model in diffusers' layout; returns the hash of its weight files.

    `tokenizer` has its files by name; without it they are those of the miniature.
    """
    digest = hashlib.sha256()
    for part, weights in shapes.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(configs[part]))
        file = folder / part / WEIGHTS[part]
        save_file({n: weight(f"{part}.{n}", s) for n, s in weights.items()}, file, {"format": "pt"})
        digest.update(file.read_bytes())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    if tokenizer is None:
        # Not above: it imports Flax modules, which the diffusers of "today" no longer has.
        from osed_jax.generation.miniature import write_tokenizer

        write_tokenizer(folder / "tokenizer", string.ascii_lowercase, MAX_TOKENS)
    else:
        (folder / "tokenizer").mkdir()
        for name, text in tokenizer.items():
            (folder / "tokenizer" / name).write_text(text)
    return digest.hexdigest()


def write_small_model_of_today(folder: Path) -> None:
    """As today's diffusers saves it; two levels are enough, and compile sooner than four."""
    today, shapes, text = manifest("stable_diffusion_today"), manifest()["shapes"], "text_encoder"
    configs = {**MODELS["epsilon"], text: TODAY[text]}
    shapes = {**shapes["epsilon"], text: today["shapes"][text]}
    write_model(folder, configs, shapes, today["tokenizer"])


def write_safety_checker(folder: Path, shapes: dict) -> None:
    """Write a safety checker into a model's folder."""
    for part, name, content in (
        ("safety_checker", "config.json", SAFETY_CHECKER),
        ("feature_extractor", "preprocessor_config.json", PREPROCESSOR),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / name).write_text(json.dumps(content))
    weights = {name: weight(f"safety.{name}", shape) for name, shape in shapes.items()}
    save_file(weights, folder / "safety_checker" / "model.safetensors", {"format": "pt"})


def images_to_check() -> np.ndarray:
    """Smooth random images, uint8 [16, 48, 48, 3]."""
    coarse = np.random.RandomState(3).randint(256, size=(16, 6, 6, 3)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def manifest(name: str = "stable_diffusion") -> dict:
    """Names and shapes of the models' weights, and hashes of the files PyTorch read."""
    return json.loads((DATA / f"{name}.json").read_text())


def bpe_files() -> dict[str, str]:
    """A tokenizer's files as they were before `tokenizer.json`; it joins some letters."""
    merges = ["c a", "ca r</w>", "s e", "se a</w>"]
    letters = [*string.ascii_lowercase, *"0123456789'!"]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *(m.replace(" ", "") for m in merges)]
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, **special}
    return {
        "vocab.json": json.dumps({t: i for i, t in enumerate([*tokens, start, end])}),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "tokenizer_config.json": json.dumps(config),
        "special_tokens_map.json": json.dumps(special),
    }


def schedule_configs() -> list[dict]:
    """All combinations of `SCHEDULES` in which two settings at most differ from the first."""
    first = {key: values[0] for key, values in SCHEDULES.items()}
    values = itertools.product(*SCHEDULES.values())
    combinations = [dict(zip(SCHEDULES, v, strict=True)) for v in values]
    few = [c for c in combinations if sum(c[key] != first[key] for key in first) <= 2]
    return [{"beta_start": 0.00085, "beta_end": 0.012, **c} for c in few]


def closed_form_model(latents, timestep):
    """Stands for a UNet where only the scheduler is tried; contracting, so errors do not grow."""
    return 0.6 * latents / (1 + latents**2) + 0.2 * timestep / 1000


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def main_today() -> None:
    """Write both files of the model of four levels."""
    from transformers import CLIPTokenizer

    shapes = torch_shapes(TODAY)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        digest = write_model(folder, TODAY, shapes, bpe_files())
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        tokenizer.save_pretrained(Path(temporary) / "saved")
        saved = {p.name: p.read_text() for p in sorted((Path(temporary) / "saved").iterdir())}
        recorded = record_model(folder, ("ddim",))
        odd = tokenizer(ODD_PROMPTS, padding="max_length", truncation=True, return_tensors="np")
        recorded["odd_tokens"] = odd.input_ids
    content = {"sha256": digest, "shapes": shapes, "tokenizer": saved}
    text = json.dumps(content, separators=(",", ":"))
    (DATA / "stable_diffusion_today.json").write_text(text + "\n")
    np.savez_compressed(DATA / "stable_diffusion_today.npz", **recorded)


def real_images() -> np.ndarray:
    """Images to start from, uint8 [2, 16, 16, 3]."""
    return np.random.RandomState(6).randint(256, size=(2, 16, 16, 3)).astype(np.uint8)


def main_from_image() -> None:
    """Write what PyTorch's img2img pipeline makes of real images, channels-first."""
    import torch
    from diffusers import (
        AutoencoderKL,
        StableDiffusionImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    known, out = manifest("stable_diffusion_today"), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        assert write_model(folder, TODAY, known["shapes"], known["tokenizer"]) == known["sha256"]
        parts = {
            "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder").float(),
            "unet": UNet2DConditionModel.from_pretrained(folder / "unet").float(),
            "vae": AutoencoderKL.from_pretrained(folder / "vae").float(),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        }
    shape = 2, 4, 8, 8
    image = torch.from_numpy(real_images()).permute(0, 3, 1, 2) / 255
    # The pipeline draws these two in this order: for the VAE's posterior, and to be mixed in.
    generator = torch.Generator().manual_seed(0)
    out["posterior_noise"], out["noise"] = (
        torch.randn(shape, generator=generator).numpy() for _ in range(2)
    )
    with torch.no_grad():
        posterior = parts["vae"].encode(2 * image - 1).latent_dist
        latents = posterior.sample(torch.Generator().manual_seed(0))
        out["encoded"] = (latents * parts["vae"].config.scaling_factor).numpy()
        for name, strength in itertools.product(SCHEDULERS, STRENGTHS):
            pipe = StableDiffusionImg2ImgPipeline(
                **parts,
                scheduler=torch_scheduler(name, TODAY["scheduler"]),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipe.set_progress_bar_config(disable=True)
            out[f"{name}/{strength:g}"] = pipe(
                PROMPTS,
                image=image,
                strength=strength,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                negative_prompt=[NEGATIVE] * 2,
                generator=torch.Generator().manual_seed(0),
                output_type="latent",
            ).images.numpy()
    np.savez_compressed(DATA / "stable_diffusion_from_image.npz", **out)


def main() -> None:
    """Write both files of the models of two levels."""
    shapes, hashes, outputs = {}, {}, {}
    for name, configs in MODELS.items():
        shapes[name] = torch_shapes(configs)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            hashes[name] = write_model(folder, configs, shapes[name])
            recorded = record_model(folder)
        outputs |= {f"{name}/{key}": value for key, value in recorded.items()}
    for scheduler in SCHEDULERS:
        outputs[f"schedules/{scheduler}"] = record_schedules(scheduler)
    checker_shapes, outputs["safety_checker/margin"] = record_safety_checker()
    DATA.mkdir(exist_ok=True)
    content = {"sha256": hashes, "shapes": shapes, "safety_checker": checker_shapes}
    text = json.dumps(content, separators=(",", ":"))
    (DATA / "stable_diffusion.json").write_text(text + "\n")
    np.savez_compressed(DATA / "stable_diffusion.npz", **outputs)


def torch_shapes(configs: dict) -> dict:
    """Names and shapes of the weights, as PyTorch's modules have them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    modules = {
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])),
        "unet": UNet2DConditionModel.from_config(configs["unet"]),
        "vae": AutoencoderKL.from_config(configs["vae"]),
    }
    return {
        part: {name: list(value.shape) for name, value in module.state_dict().items()}
        for part, module in modules.items()
    }


def torch_scheduler(name: str, config: dict):
    """A PyTorch scheduler of diffusers."""
    import diffusers

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
    }
    return classes[name].from_config({k: v for k, v in config.items() if k != "_class_name"})


def record_model(folder: Path, schedulers: tuple[str, ...] = SCHEDULERS) -> dict[str, np.ndarray]:
    """Outputs of every part and of whole sampling loops, channels-first."""
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    parts = {
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "vae": AutoencoderKL.from_pretrained(folder / "vae"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }
    parts |= {k: parts[k].float().eval() for k in WEIGHTS}
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    latents = torch.from_numpy(noise((2, 4, 8, 8), 0))
    images = torch.from_numpy(noise((2, 3, 16, 16), 1)).clamp(-1, 1)
    tokens = parts["tokenizer"](
        PROMPTS, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        text = parts["text_encoder"](tokens)[0]
        out = {
            "tokens": tokens,
            "text": text,
            "unet": parts["unet"](latents, torch.tensor([7, 801]), text).sample,
            "decoded": parts["vae"].decode(latents).sample,
            "encoded": parts["vae"].encode(images).latent_dist.mean,
        }
        for name, guidance in itertools.product(schedulers, (1.0, GUIDANCE)):
            pipe = StableDiffusionPipeline(
                **parts,
                scheduler=torch_scheduler(name, config),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipe.set_progress_bar_config(disable=True)
            call = {"num_inference_steps": STEPS, "guidance_scale": guidance, "latents": latents}
            if guidance != 1:
                call["negative_prompt"] = [NEGATIVE] * 2
            final = pipe(PROMPTS, output_type="latent", **call).images
            image = pipe(PROMPTS, output_type="pt", height=16, width=16, **call).images
            out[f"{name}/{guidance:g}/latents"], out[f"{name}/{guidance:g}/image"] = final, image
    return {key: value.numpy() for key, value in out.items()}


def record_safety_checker() -> tuple[dict, np.ndarray]:
    """Shapes of the checker's weights, and the highest score it gives each image."""
    import torch
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    config = CLIPConfig.from_dict({**SAFETY_CHECKER, "text_config": {}})
    fresh = StableDiffusionSafetyChecker(config).state_dict()
    shapes = {name: list(value.shape) for name, value in fresh.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_safety_checker(folder, shapes)
        checker = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker").eval()
        processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    images = list(images_to_check())
    pixels = processor(images, return_tensors="pt").pixel_values
    highest = []
    # The checker keeps its scores to itself, but says them to whoever rounds for it.
    for row in pixels:
        scores: list[float] = []
        module = sys.modules[StableDiffusionSafetyChecker.__module__]
        module.round = lambda x, digits, to=scores: to.append(round(x, digits)) or to[-1]
        _, (flagged,) = checker(row[None], [np.ones(1)])
        highest.append(max(scores[3:]))
        assert (highest[-1] > 0) == flagged
    assert torch.is_tensor(pixels)
    return shapes, np.asarray(highest, np.float32)


def record_schedules(scheduler: str) -> np.ndarray:
    """Results of all schedule configurations and step counts on the closed-form model."""
    import torch

    results = []
    for config, steps in itertools.product(schedule_configs(), SCHEDULE_STEPS):
        solver = torch_scheduler(scheduler, config)
        solver.set_timesteps(steps)
        latents = torch.from_numpy(noise((8,), 2)) * solver.init_noise_sigma
        for timestep in solver.timesteps:
            scaled = solver.scale_model_input(latents, timestep)
            prediction = closed_form_model(scaled, timestep)
            latents = solver.step(prediction, timestep, latents).prev_sample
        results.append(latents.numpy())
    return np.stack(results).astype(np.float32)


if __name__ == "__main__":
    modes = {"today": main_today, "from_image": main_from_image}
    sys.exit(modes.get("".join(sys.argv[1:]), main)())
