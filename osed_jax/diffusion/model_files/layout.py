"""Where a model's files lie, which weights are read, and which models are refused before any is.

Told from names and configurations alone, so that nothing is downloaded or loaded in vain.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from osed_jax.errors import UserError

INDEX = "model_index.json"
PARTS = ("text_encoder", "unet", "vae")
CONFIGS = {
    "text_encoder": "text_encoder/config.json",
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}

_CONVERT = (
    "python -c \"from diffusers import StableDiffusionPipeline as P; P.from_single_file('FILE')"
    ".save_pretrained('FOLDER')\""
)
_STEMS = "model|diffusion_pytorch_model"
# In this order of preference: whole before parts, float32 before float16, PyTorch's before Flax's.
_WHOLE = [
    re.compile(rf"(?:{_STEMS})\.safetensors"),
    re.compile(rf"(?:{_STEMS})\.fp16\.safetensors"),
]
_PARTS = [
    re.compile(rf"(?:{_STEMS})-(\d{{5}})-of-(\d{{5}})\.safetensors"),
    re.compile(rf"(?:{_STEMS})\.fp16-(\d{{5}})-of-(\d{{5}})\.safetensors"),
    re.compile(rf"(?:{_STEMS})-(\d{{5}})-of-(\d{{5}})\.fp16\.safetensors"),
]
_FLAX = re.compile(r"(?:flax_model|diffusion_flax_model)\.msgpack")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")

_ONE = "Choose a Stable Diffusion 1.x or 2.x model that makes images from text."
# Pipelines whose parts are those of Stable Diffusion 1.x and 2.x.
_PIPELINES = {
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPipelineSafe",
    "FlaxStableDiffusionPipeline",
}
# The beginning of other pipelines' names, and what they are called.
_OTHERS = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusionInpaint": "an inpainting model",
    "StableDiffusionInstructPix2Pix": "InstructPix2Pix, which edits images",
    "StableDiffusionDepth2Img": "a depth-to-image model",
    "StableDiffusionUpscale": "an upscaler",
    "StableDiffusionLatentUpscale": "an upscaler",
    "StableUnCLIP": "an unCLIP model",
    "UnCLIP": "an unCLIP model",
    "LatentConsistencyModel": "a latent consistency model",
    "LDMTextToImage": "a latent diffusion model with a BERT encoder",
    "Flux": "Flux",
    "PixArt": "PixArt",
}
# By the channels of the UNet's input, where no pipeline is named.
_CHANNELS = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "InstructPix2Pix, which edits images",
    9: "an inpainting model",
}


def weight_files(names: Collection[str], where: str) -> list[str]:
    """The files to read of one part's folder: one, or all parts of one.

    Args:
      names: of the folder's files.
      where: how messages name the folder.

    Raises:
      UserError: there is none, a part is missing, or it is unclear which to read.
    """
    for whole, parts in zip([*_WHOLE, None], _PARTS, strict=True):
        if whole and (found := [name for name in names if whole.fullmatch(name)]):
            return found[:1]
        if found := sorted(name for name in names if parts.fullmatch(name)):
            _check_complete(found, parts, where)
            return found
    if found := [name for name in names if _FLAX.fullmatch(name)]:
        return found[:1]
    return _only_one(names, where)


def weight_paths(folder: Path) -> list[Path]:
    """The same of a folder here."""
    names = weight_files([path.name for path in folder.glob("*")], str(folder))
    return [folder / name for name in names]


def _check_complete(found: list[str], parts: re.Pattern[str], where: str) -> None:
    numbers = {int(match[1]) for name in found if (match := parts.fullmatch(name))}
    match = parts.fullmatch(found[0])
    count = int(match[2]) if match else 0
    if missing := sorted(set(range(1, count + 1)) - numbers):
        raise UserError(
            f"{where}: of the {count} parts of the weights, {', '.join(map(str, missing))} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Download or save the model again."
        )


def _only_one(names: Collection[str], where: str) -> list[str]:
    """A file of another name, if it is the only one."""
    wanted = [n for n in names if n.endswith((".safetensors", ".msgpack"))]
    wanted = [n for n in wanted if "lora" not in n.lower()]
    if len(wanted) == 1:
        return wanted
    if wanted:
        raise UserError(
            f"{where}: several weight files ({', '.join(sorted(wanted))}) and none with the usual "
            "name; keep one."
        )
    found = ", ".join(sorted(names)) or "nothing"
    if any(name.endswith(_PICKLES) for name in names):
        raise UserError(
            f"{where}: no weights but pickles among: {found}. Pickles can run any code and are "
            "never loaded; save the model as .safetensors (save_pretrained of today's diffusers)."
        )
    raise UserError(
        f"{where}: no weights found among: {found}. Needed is a .safetensors (PyTorch) or "
        ".msgpack (Flax) file; save the model in one of these formats."
    )


def refuse_pickle(file: Path) -> None:
    """A model in one file that is no safetensors file: says how to make a folder of it.

    Raises:
      UserError: for any other file.
    """
    if file.suffix.lower() == ".safetensors":
        return
    convert = _CONVERT.replace("FILE", str(file))
    what = (
        "is a pickle, which can run any code and is never loaded"
        if (file.suffix.lower() in _PICKLES)
        else "is no .safetensors file"
    )
    raise UserError(
        f"{file} {what}. If you trust it, convert it where PyTorch is installed: {convert}"
    )


def read_configs(model: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The contents of `CONFIGS`, of a model that this program can run.

    Args:
      model: its name, for messages: the folder, or the hub id it came from.
      folder: in diffusers' layout; weights are not looked at.

    Raises:
      UserError: a file is missing or no JSON, or the model is of another kind.
    """
    if (folder / INDEX).is_file():
        _check_kind(model, read_json(folder / INDEX))
    configs = {name: read_json(folder / file) for name, file in CONFIGS.items()}
    check_configs(model, configs)
    return configs


def read_json(file: Path) -> dict[str, Any]:
    """The content of one of a model's JSON files.

    Raises:
      UserError: it is missing, or no JSON.
    """
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file} is missing. Needed is a model in diffusers' layout.") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}). Download or save it again.") from error


def _check_kind(model: str, index: Mapping[str, Any]) -> None:
    """Refuses a pipeline of another kind by its name in `model_index.json`."""
    name = str(index.get("_class_name", "StableDiffusionPipeline"))
    if name in _PIPELINES:
        return
    known = (what for start, what in _OTHERS.items() if name.startswith(start))
    what = next(known, "another kind of model")
    raise UserError(f"{model} is {what} ({name} in model_index.json). {_ONE}")


def check_configs(model: str, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses parts that do not fit together, or belong to a model of another kind.

    Args:
      model: its name, for messages.
      configs: keys as in `CONFIGS`.

    Raises:
      UserError: so.
    """
    text, unet, vae = (configs[part] for part in PARTS)
    encoder = str(text.get("model_type", "clip_text_model"))
    if encoder not in ("clip_text_model", "clip"):
        raise UserError(f"{model} reads prompts by {encoder}, not by CLIP's text encoder. {_ONE}")
    latent = vae.get("latent_channels", 4)
    channels = unet.get("in_channels", 4)
    if channels != latent:
        what = _CHANNELS.get(channels, "a model of another kind")
        raise UserError(
            f"{model} is {what}: its UNet takes {channels} channels, its latents have {latent}. "
            f"{_ONE}"
        )
    if (made := unet.get("out_channels", 4)) != latent:
        raise UserError(f"{model}: its UNet makes {made} channels, its latents have {latent}.")
    width, context = text.get("hidden_size", 512), unet.get("cross_attention_dim", 1280)
    if width != context:
        raise UserError(
            f"{model}: its text encoder gives {width} numbers a token, its UNet takes {context}. "
            "Take all parts from the same model."
        )
