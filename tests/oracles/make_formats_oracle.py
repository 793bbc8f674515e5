"""Record what PyTorch's diffusers makes of the other formats that are read: see `tests/data`.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 peft==0.21.0
    python tests/oracles/make_formats_oracle.py

It writes `tests/oracles/formats.npz`: final latents and outputs of a tiny model with random
weights. As in `make_stable_diffusion_oracle`, weights and noise follow from names and seeds, so
that the tests write the very files that PyTorch read here.
"""

import hashlib
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.oracles import make_stable_diffusion_oracle as oracle

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
# Where the parts of a UNet of two levels with a layer each are in the original layout.
UNET_PLACES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0": "input_blocks.2.0",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET_PLACES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WORD = "<sea-toy>"  # of one with capitals, these versions take the first vector alone
WORD_PROMPTS = [f"a photo of a {WORD} car", f"{WORD}sea"]
VERSIONS = {"1.x": "epsilon", "2.x": "v_prediction"}
OPENCLIP_PLACES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPENCLIP_LAYER = {
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.": "attn.",
}


def model_shapes(version: str) -> dict:
    """Names and shapes of the weights of a model of two levels, whose tokenizer joins letters."""
    shapes = oracle.manifest()["shapes"][VERSIONS[version]]
    text = {**shapes["text_encoder"], "text_model.embeddings.token_embedding.weight": [82, 24]}
    return {**shapes, "text_encoder": text}


def write_model(folder: Path, version: str = "1.x") -> None:
    """A model of two levels in diffusers' layout."""
    configs = oracle.MODELS[VERSIONS[version]]
    configs = {**configs, "text_encoder": {**configs["text_encoder"], "vocab_size": 82}}
    oracle.write_model(folder, configs, model_shapes(version), oracle.bpe_files())


def fresh(shape: tuple[int, ...], step: int) -> np.ndarray:
    """The noise that a consistency sampler mixes in after a step, channels-first."""
    return oracle.noise(shape, 100 + step)


def consistency_configs() -> list[dict]:
    """Scheduler configurations that are tried with `lcm` and `tcd` on the closed-form model."""
    first = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    kinds = ("epsilon", "v_prediction", "sample")
    return [
        *({**first, "prediction_type": kind, "original_inference_steps": 50} for kind in kinds),
        {**first, "prediction_type": "epsilon", "original_inference_steps": 25},
        # With the usual scaling, 10, LCM's boundary condition is below the tolerance.
        {**first, "prediction_type": "epsilon", "timestep_scaling": 0.005},
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


def original_name(part: str, name: str) -> str:
    """The name of a weight of a model of two levels in the layout of its own training code."""
    if part == "text_encoder":
        return f"cond_stage_model.transformer.{name}"
    if part == "vae":
        for old, new in (
            (r"up_blocks\.0\.", "up.1."),  # the decoder's are counted from the other end
            (r"up_blocks\.1\.", "up.0."),
            (r"down_blocks\.", "down."),
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
            (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
            (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
            (r"\.resnets\.", ".block."),
            (r"(down|up)samplers\.0", r"\1sample"),
            (r"conv_shortcut", "nin_shortcut"),
            (r"conv_norm_out", "norm_out"),
        ):
            name = re.sub(old, new, name)
        return f"first_stage_model.{name}"
    place = next(place for place in UNET_PLACES if name.startswith(f"{place}."))
    *module, leaf = name.removeprefix(f"{place}.").split(".")
    if ".resnets." in place:
        module = [RESNET_PLACES[module[0]]]
    elif "downsamplers" in place:
        module = ["op"]
    return ".".join(["model.diffusion_model", UNET_PLACES[place], *module, leaf])


def openclip_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A text encoder's weights as OpenCLIP has them, with those that are not used."""
    prefix = "cond_stage_model.model."
    renamed = {"logit_scale": np.zeros(()), "text_projection": np.eye(24)}
    for name, value in tensors.items():
        name = name.removeprefix("text_model.")
        if name in OPENCLIP_PLACES:
            renamed[OPENCLIP_PLACES[name]] = value
        elif found := re.fullmatch(r"encoder\.layers\.(\d)\.self_attn\.q_proj\.(\w+)", name):
            parts = [tensors[f"text_model.{name}".replace("q_proj", f"{x}_proj")] for x in "qkv"]
            joint = f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"
            renamed[joint] = np.concatenate(parts)
        elif not re.search(r"[kv]_proj", name):
            for old, new in OPENCLIP_LAYER.items():
                name = name.replace(old, new)
            renamed[name.replace("encoder.layers", "transformer.resblocks")] = value
    unused = {n.replace(".1.", ".2."): v for n, v in renamed.items() if ".resblocks.1." in n}
    return {f"{prefix}{name}": value for name, value in (renamed | unused).items()}


def write_single_file(file: Path, version: str = "1.x") -> Path:
    """The model of `write_model` as one file, with what is beside the weights in real ones."""
    tensors = {"model_ema.decay": np.zeros(1), "alphas_cumprod": np.zeros(1000)}
    for part, weights in model_shapes(version).items():
        values = {name: oracle.weight(f"{part}.{name}", shape) for name, shape in weights.items()}
        if part == "text_encoder" and version == "2.x":
            tensors |= openclip_tensors(values)
            continue
        for name, value in values.items():
            if part == "vae" and ".attentions." in name and value.ndim == 2:
                value = value[:, :, None, None]
            tensors[original_name(part, name)] = value
    if version == "1.x":
        name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        tensors[name] = np.arange(32)[None]
    save_file(tensors, file)
    return file


def check_single_file(version: str) -> str:
    """Has PyTorch read the file as the folder; returns the file's digest."""
    import torch
    from diffusers import StableDiffusionPipeline

    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(folder, version)
        (folder / "model_index.json").write_text(json.dumps(index))
        file = write_single_file(folder / "x.safetensors", version)
        one = StableDiffusionPipeline.from_single_file(
            str(file), config=str(folder), safety_checker=None, local_files_only=True
        )
        other = pipeline(folder)
        for part in oracle.WEIGHTS:
            ours, theirs = (getattr(pipe, part).state_dict() for pipe in (one, other))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name].float(), theirs[name]) for name in theirs), part
        return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    """Write the file."""
    recorded = {"tiny/decoded": record_tiny()}
    recorded["words/latents"] = record_words()
    for version in VERSIONS:
        recorded[f"single_file/{version}"] = np.asarray(check_single_file(version))
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
    pipe.scheduler = torch_scheduler(name, oracle.MODELS["epsilon"]["scheduler"])
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


def write_words(file: Path) -> Path:
    """A textual-inversion file of one word with three vectors, as diffusers writes it."""
    save_file({WORD: oracle.noise((3, 24), 7)}, file)
    return file


def record_words() -> np.ndarray:
    """Final latents of prompts with the word."""
    with tempfile.TemporaryDirectory() as temporary:
        write_model(Path(temporary) / "model")
        pipe = pipeline(Path(temporary) / "model")
        pipe.load_textual_inversion(str(write_words(Path(temporary) / "word.safetensors")))
    return final_latents(pipe, WORD_PROMPTS)


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
