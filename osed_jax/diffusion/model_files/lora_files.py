"""LoRA files, as diffusers, peft and kohya's scripts write them, merged into a model.

A file holds pairs of matrices, `down` and `up`, of layers of the UNet and the text encoder, and
says how strongly each works: alpha / rank. It is read into the factors that `lora.merge` adds.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from osed_jax.diffusion.lora import merge
from osed_jax.diffusion.model_files.weights import Params, read_addition, torch_name
from osed_jax.diffusion.stable_diffusion import StableDiffusion
from osed_jax.errors import UserError

# The end of a name says what it is; the spellings are of peft, of diffusers' UNets and text
# encoders before it, of diffusers' attention processors, and of kohya.
_ROLES = {
    "down": re.compile(
        r"(\.lora_A|\.lora\.down|\.lora_linear_layer\.down|_lora\.down|\.lora_down)\.weight$"
    ),
    "up": re.compile(r"(\.lora_B|\.lora\.up|\.lora_linear_layer\.up|_lora\.up|\.lora_up)\.weight$"),
    "alpha": re.compile(r"\.alpha$"),
}
_PARTS = {
    "text_encoder": re.compile(r"^(?:text_encoder\.|lora_te1?_)(?:text_model[._])?"),
    "unet": re.compile(r"^(?:unet\.|lora_unet_|base_model\.model\.)?"),
}
_METADATA = "lora_adapter_metadata"  # where diffusers keeps peft's settings, JSON
_ONLY = {"use_dora": False, "use_rslora": False}


def with_lora(model: StableDiffusion, file: str, scale: float) -> StableDiffusion:
    """The model with a LoRA file merged into its UNet and text encoder.

    Args:
        model: Stable Diffusion 1.x or 2.x.
        file: `.safetensors`.
        scale: Of the whole update; 1 is that of its training.

    Raises:
        UserError: The file cannot be read, is of another kind, or was made for another model.
    """
    factors = read_lora(Path(file), model.params, scale)
    merged = {part: merge(model.params[part], factors[part]) for part in factors}
    return dataclasses.replace(model, params={**model.params, **merged})


def read_lora(file: Path, params: Params, scale: float = 1.0) -> dict[str, Params]:
    """The factors of a file, by part, as `lora.merge` takes them.

    Args:
        file: `.safetensors`.
        params: Of the model, or their shapes; by part.
        scale: Multiplies all of them.

    Raises:
        UserError: As `with_lora`.
    """
    values, metadata = read_addition(file, "LoRA")
    try:
        settings = json.loads(metadata.get(_METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"{file}: not a readable LoRA file ({error}).") from error
    for name, value in settings.items():
        if (key := name.split(".")[-1]) in _ONLY and value != _ONLY[key]:
            raise UserError(f"{file}: {name}={value!r} is not supported, only {_ONLY[key]!r} is.")
    pairs = _by_layer(file, values)
    layers = {part: _layers(params[part]) for part in _PARTS}
    unknown = sorted(pair["name"] for key, pair in pairs.items() if key[1] not in layers[key[0]])
    if unknown:
        raise UserError(
            f"{file}: {len(unknown)} of its {len(pairs)} layers are not in the model, the first is "
            f"{unknown[0]}. Take a LoRA that was made for this kind of model."
        )
    factors: dict[str, Params] = {part: {} for part in _PARTS}
    for (part, layer), pair in pairs.items():
        path, shape = layers[part][layer]
        strength = scale * _alpha(pair, settings, part, _layer_name(path)) / len(pair["down"])
        factors[part]["/".join(path[:-1])] = _factors(file, pair, shape, strength)
    return {part: found for part, found in factors.items() if found}


def _by_layer(file: Path, values: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Any]:
    """The tensors of each layer: (part, layer's name with underscores) -> down, up, alpha, name."""
    pairs: dict[tuple[str, str], Any] = {}
    for name, value in values.items():
        role, found = next(
            ((role, found) for role, end in _ROLES.items() if (found := end.search(name))),
            (None, None),
        )
        if role is None or found is None:
            raise UserError(
                f"{file}: {name} is no part of a LoRA (lora_down, lora_up and alpha, or lora_A and "
                "lora_B). LoHa, LoKr, DoRA and whole weights are not merged."
            )
        module = name[: found.start()]
        if "processor." in module:  # where the first to_out of two is meant
            module = re.sub(r"to_out$", "to_out.0", module.replace("processor.", ""))
        part, begin = next((p, b) for p, start in _PARTS.items() if (b := start.match(module)))
        key = (part, module[begin.end() :].replace(".", "_"))
        pairs.setdefault(key, {"name": name})[role] = value
    for pair in pairs.values():
        if missing := {"down", "up"} - pair.keys():
            raise UserError(
                f"{file}: the `{min(missing)}` that belongs to {pair['name']} is missing."
            )
    if not pairs:
        raise UserError(f"{file} holds no LoRA.")
    return pairs


def _layers(params: Params) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Layers by PyTorch's name with underscores, as kohya has it: path and shape of the kernel."""
    return {
        _layer_name(path).replace(".", "_"): (path, kernel.shape)
        for path, kernel in traverse_util.flatten_dict(params).items()
        if path[-1] == "kernel"
    }


def _layer_name(path: tuple[str, ...]) -> str:
    return torch_name(path).removesuffix(".weight").removeprefix("text_model.")


def _alpha(pair: Mapping[str, Any], settings: Mapping[str, Any], part: str, layer: str) -> float:
    """Beside the pair, or in peft's settings; else the rank, which leaves the pair as it is."""
    if "alpha" in pair:
        return float(pair["alpha"])
    for pattern, alpha in settings.get(f"{part}.alpha_pattern", {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):  # as peft's get_pattern_key
            return alpha
    return settings.get(f"{part}.lora_alpha", len(pair["down"]))


def _factors(
    file: Path, pair: Mapping[str, Any], shape: tuple[int, ...], strength: float
) -> Params:
    """`down` [..., in, rank] and `up` [rank, out] of a kernel [..., in, out], float32."""
    down, up = (pair[role].astype(np.float32) for role in ("down", "up"))
    *window, fan_in, fan_out = shape
    try:
        down = down.reshape(len(down), fan_in, *window)
        up = up.reshape(fan_out, len(down))
    except ValueError:
        raise UserError(
            f"{file}: {pair['name']} is of {pair['down'].shape} and {pair['up'].shape}, which do "
            f"not fit a layer of {fan_in} to {fan_out} channels. Take a LoRA that was made for "
            "this kind of model."
        ) from None
    return {"down": strength * down.transpose(*range(2, down.ndim), 1, 0), "up": up.T}
