"""Writing a Stable Diffusion model as a folder in diffusers' layout."""

import json
import shutil
from pathlib import Path

from osed_jax.diffusion.model_files.layout import CONFIGS, INDEX, PARTS
from osed_jax.diffusion.model_files.weights import save_weights
from osed_jax.diffusion.stable_diffusion import StableDiffusion
from osed_jax.errors import UserError
from osed_jax.files.atomic import partial_folder, whole_folder
from osed_jax.files.digests import write_digests

_WEIGHTS = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def save(model: StableDiffusion, folder: str) -> None:
    """Write a folder that `load` and PyTorch's diffusers open, whole or not at all.

    Raises:
        UserError: The folder exists already.
    """
    target = Path(folder)
    if target.exists():
        raise UserError(f"{target} exists already. Choose another folder or remove it first.")
    with whole_folder(target) as unfinished:
        _write(model, unfinished)


def save_into(model: StableDiffusion, folder: Path) -> None:
    """Write a model beside what a folder holds already; `model_index.json` comes last.

    A folder with that file is whole. An interrupted call is made good by the next.
    """
    with partial_folder(folder / "model") as unfinished:
        _write(model, unfinished)
        for entry in sorted(unfinished.iterdir(), key=lambda e: (e.is_file(), e.name == INDEX)):
            if (folder / entry.name).is_dir():
                shutil.rmtree(folder / entry.name)
            entry.replace(folder / entry.name)


def _write(model: StableDiffusion, folder: Path) -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", model.configs["scheduler"].get("_class_name", "DDIMScheduler")],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    files = {INDEX: index} | {CONFIGS[k]: v for k, v in model.configs.items()}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    model.tokenizer.save(folder / "tokenizer")
    for part in PARTS:
        save_weights(folder / part / _WEIGHTS[part], model.params[part])
    write_digests(folder)
