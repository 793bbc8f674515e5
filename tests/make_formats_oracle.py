"""Record what PyTorch's diffusers makes of the other formats that are read: see `tests/data`.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 peft==0.21.0
    python tests/make_formats_oracle.py

It writes `tests/data/formats.npz`: final latents and outputs of a tiny model with random weights.
As in `make_stable_diffusion_oracle`, weights and noise follow from names and seeds, so that the
tests write the very files that PyTorch read here.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import make_stable_diffusion_oracle as oracle

FILE = oracle.DATA / "formats.npz"
CONSISTENCY = ("lcm", "tcd")
CONSISTENCY_STEPS = (1, 2, 4, 8)
TCD_ETA = 0.3
STEPS = 4  # of whole loops
# LoRA files by their naming: the ends of the layers' names, by part.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LORAS = {
    "peft": {
        "unet": (*_ATTENTION, "proj_in", "ff.net.0.proj", "resnets.0.conv1", "time_emb_proj"),
        "text_encoder": ("q_proj", "out_proj", "fc1"),
    },
    "kohya": {
        "unet": (*_ATTENTION, "proj_out", "ff.net.2", "conv2", "conv_shortcut"),
        "text_encoder": ("k_proj", "v_proj", "fc2"),
    },
    "processor": {"unet": _ATTENTION},
}
LORA_METADATA = {  # as diffusers writes peft's settings
    "peft": {
        "unet.r": 4,
        "unet.rank_pattern": {"conv1": 2, "proj_in": 2},
        "unet.lora_alpha": 6,
        "unet.alpha_pattern": {"attn2.to_k": 3},
        "unet.target_modules": [*_ATTENTION, "proj_in", "proj", "resnets.0.conv1", "time_emb_proj"],
        "text_encoder.r": 4,
        "text_encoder.lora_alpha": 2,
        "text_encoder.target_modules": ["q_proj", "out_proj", "fc1"],
    }
}
LORA_SCALE = 0.7
TINY = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [2, 1],
    "latent_channels": 4,
    "scaling_factor": 1.5,
}
CONFIGS = {
    **oracle.MODELS["epsilon"],
    "text_encoder": {**oracle.MODELS["epsilon"]["text_encoder"], "vocab_size": 82},
}


def write_model(folder: Path) -> None:
    """A model of two levels, whose tokenizer joins some letters."""
    shapes = oracle.manifest()["shapes"]["epsilon"]
    text = {**shapes["text_encoder"], "text_model.embeddings.token_embedding.weight": [82, 24]}
    oracle.write_model(folder, CONFIGS, {**shapes, "text_encoder": text}, oracle.bpe_files())


def fresh(shape: tuple[int, ...], step: int) -> np.ndarray:
    """The noise that a consistency sampler mixes in after a step, channels-first."""
    return oracle.noise(shape, 100 + step)


def consistency_configs() -> list[dict]:
    """Scheduler configurations that are tried with `lcm` and `tcd` on the closed-form model."""
    first = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return [
        {**first, "prediction_type": kind, "original_inference_steps": original}
        for kind, original in (
            ("epsilon", 50),
            ("v_prediction", 50),
            ("sample", 50),
            ("epsilon", 25),
        )
    ]


def lora_tensors(name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a LoRA file of one of the `LORAS`."""
    naming = name.split("-")[0]
    shapes = oracle.manifest()["shapes"]["epsilon"]
    tensors: dict[str, np.ndarray] = {}
    for part, ends in LORAS[naming].items():
        found = [n for n in shapes[part] if n.endswith(tuple(f"{end}.weight" for end in ends))]
        for i, weight in enumerate(found):
            layer, (fan_out, fan_in, *window) = weight.removesuffix(".weight"), shapes[part][weight]
            rank = 2 if window else 4
            down = oracle.weight(f"{naming}.{layer}.down", [rank, fan_in, *window])
            up = oracle.weight(f"{naming}.{layer}.up", [fan_out, rank, *(1 for _ in window)])
            alpha = np.asarray(1 + i % 3, np.float32)
            if name == "kohya":
                key = f"{'lora_unet' if part == 'unet' else 'lora_te'}_{layer.replace('.', '_')}"
                tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
                tensors[f"{key}.alpha"] = alpha
            elif name == "processor":
                layer = layer.removesuffix(".0").replace(".to_", ".processor.to_")
                key = f"unet.{layer}_lora"
                tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
            else:
                down = down * alpha / rank if name == "kohya-as-peft" else down
                key = f"{part}.{layer}"
                tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    return tensors, LORA_METADATA.get(name, {})


def write_lora(name: str, file: Path) -> Path:
    """The file that `lora_tensors` describes."""
    tensors, settings = lora_tensors(name)
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else {}
    save_file(tensors, file, {"format": "pt", **metadata})
    return file


def tiny_shapes() -> dict[str, list[int]]:
    """Names and shapes of the decoder's weights, and of one of the encoder's, in PyTorch."""
    channels = TINY["decoder_block_out_channels"]
    shapes = {"encoder.layers.0.weight": [channels[0], 3, 3, 3]}
    convs: list[tuple[str, int, bool]] = [("layers.0", 4, True)]
    layer = 2
    for level, blocks in enumerate(TINY["num_decoder_blocks"]):
        for _ in range(blocks):
            convs += [(f"layers.{layer}.conv.{i}", channels[level], True) for i in (0, 2, 4)]
            layer += 1
        last = level == len(channels) - 1
        convs.append((f"layers.{layer if last else layer + 1}", channels[level], last))
        layer += 2
    for name, fan_in, bias in convs:
        fan_out = 3 if name == convs[-1][0] else channels[0]
        shapes[f"decoder.{name}.weight"] = [fan_out, fan_in, 3, 3]
        if bias:
            shapes[f"decoder.{name}.bias"] = [fan_out]
    return shapes


def write_tiny(folder: Path) -> Path:
    """A tiny decoder's folder, in diffusers' layout."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    weights = {name: oracle.weight(f"tiny.{name}", shape) for name, shape in tiny_shapes().items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return folder


def main() -> None:
    """Write the file."""
    recorded = {"tiny/decoded": record_tiny()}
    for name in CONSISTENCY:
        recorded[f"schedules/{name}"] = record_consistency(name)
        recorded[f"{name}/latents"] = record_loop(name)
    for name in LORAS:
        # Given kohya's own names, these versions leave out alphas and layers of the text encoder.
        recorded[f"lora/{name}"] = record_lora("kohya-as-peft" if name == "kohya" else name)
    np.savez_compressed(FILE, **recorded)


def torch_scheduler(name: str, config: dict):
    """PyTorch's scheduler, whose noise is `fresh`."""
    import torch
    from diffusers import LCMScheduler, TCDScheduler

    cls = {"lcm": LCMScheduler, "tcd": TCDScheduler}[name]
    solver = cls.from_config({k: v for k, v in config.items() if k != "_class_name"})
    module = sys.modules[cls.__module__]
    module.randn_tensor = lambda shape, **_: torch.from_numpy(
        fresh(tuple(shape), solver._step_index)
    )
    return solver


def record_consistency(name: str) -> np.ndarray:
    """Results of all configurations and step counts on the closed-form model."""
    import torch

    eta = {"eta": TCD_ETA} if name == "tcd" else {}
    results = []
    for config, steps in itertools.product(consistency_configs(), CONSISTENCY_STEPS):
        solver = torch_scheduler(name, config)
        solver.set_timesteps(steps)
        latents = torch.from_numpy(oracle.noise((8,), 2))
        for timestep in solver.timesteps:
            prediction = oracle.closed_form_model(latents, timestep)
            latents = solver.step(prediction, timestep, latents, **eta).prev_sample
        results.append(latents.numpy())
    return np.stack(results).astype(np.float32)


def record_loop(name: str) -> np.ndarray:
    """Final latents of a whole guided loop, channels-first."""
    with tempfile.TemporaryDirectory() as temporary:
        write_model(Path(temporary) / "model")
        pipe = pipeline(Path(temporary) / "model")
    pipe.scheduler = torch_scheduler(name, CONFIGS["scheduler"])
    return final_latents(pipe, eta=TCD_ETA if name == "tcd" else 0.0)


def record_lora(name: str) -> np.ndarray:
    """Final latents of the model with a LoRA file merged into it."""
    with tempfile.TemporaryDirectory() as temporary:
        write_model(Path(temporary) / "model")
        pipe = pipeline(Path(temporary) / "model")
        file = write_lora(name, Path(temporary) / "lora.safetensors")
        pipe.load_lora_weights(temporary, weight_name=file.name)
    pipe.fuse_lora(components=list(LORAS[name.split("-")[0]]), lora_scale=LORA_SCALE)
    return final_latents(pipe)


def record_tiny() -> np.ndarray:
    """Images that PyTorch's AutoencoderTiny makes of latents, in [0, 1], channels-first."""
    import torch
    from diffusers import AutoencoderTiny

    module = AutoencoderTiny.from_config(TINY).eval()
    state = {
        n: torch.from_numpy(oracle.weight(f"tiny.{n}", s).astype(np.float32))
        for n, s in tiny_shapes().items()
        if n.startswith("decoder")
    }
    left = module.load_state_dict(state, strict=False)
    assert not left.unexpected_keys and all(n.startswith("encoder") for n in left.missing_keys)
    with torch.no_grad():
        latents = torch.from_numpy(oracle.noise((2, 4, 8, 8), 0)) / TINY["scaling_factor"]
        image = module.decode(latents).sample
    return (image / 2 + 0.5).clamp(0, 1).numpy()


def pipeline(folder: Path):
    """PyTorch's pipeline of a folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as Unet
    from transformers import CLIPTextModel, CLIPTokenizer

    pipe = StableDiffusionPipeline(
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder").float().eval(),
        unet=Unet.from_pretrained(folder / "unet").float().eval(),
        vae=AutoencoderKL.from_pretrained(folder / "vae").float().eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def final_latents(pipe, prompts: Sequence[str] = oracle.PROMPTS, **more) -> np.ndarray:
    """Of a guided loop of `STEPS`, channels-first."""
    import torch

    made = pipe(
        list(prompts),
        num_inference_steps=STEPS,
        guidance_scale=oracle.GUIDANCE,
        negative_prompt=[oracle.NEGATIVE] * len(prompts),
        latents=torch.from_numpy(oracle.noise((len(prompts), 4, 8, 8), 0)),
        output_type="latent",
        **more,
    )
    return made.images.numpy()


if __name__ == "__main__":
    main()
