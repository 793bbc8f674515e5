"""TAESD, a tiny decoder of latents (github.com/madebyollin/taesd), instead of the VAE's.

A few convolutions of 64 channels, 0.14 TFLOP for 512 pixels where the VAE's decoder takes 2.5. It
was trained to answer as the VAE of Stable Diffusion 1.x and 2.x does; the layout is that of
diffusers' `AutoencoderTiny`.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from osed_jax.diffusion.model_files.hub import locate_part
from osed_jax.diffusion.model_files.layout import read_json
from osed_jax.diffusion.model_files.weights import read_weights
from osed_jax.diffusion.stable_diffusion import StableDiffusion
from osed_jax.errors import UserError

_CLASS = "AutoencoderTiny"
_ENCODER = re.compile(r"^encoder\.")  # in the same file, not needed
_BOUND = 3.0  # latents are squeezed into ± this
_DEFAULTS: Mapping[str, Any] = {
    "decoder_block_out_channels": (64, 64, 64, 64),
    "latent_channels": 4,
    "num_decoder_blocks": (3, 3, 3, 1),
    "scaling_factor": 1.0,
}
# Other values are not written here.
_ONLY: Mapping[str, Any] = {
    "act_fn": "relu",
    "out_channels": 3,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}


class TinyDecoder(nn.Module):
    """Latents `[B, h, w, c]` to images `[B, H, W, 3]` in about [0, 1].

    Attributes:
        channels: Of each level, the coarsest first.
        num_blocks: Residual blocks of each level.
        scaling_factor: Of the latents; they are divided by it.
        dtype: What is computed in.
    """

    channels: tuple[int, ...]
    num_blocks: tuple[int, ...]
    scaling_factor: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        """Runs it; see the class."""
        # Layers have PyTorch's numbers, which count activations and enlargements, too.
        x = jnp.tanh(latents / self.scaling_factor / _BOUND) * _BOUND
        x = nn.relu(self._conv(self.channels[0], "layers_0")(x.astype(self.dtype)))
        layer = 2
        for level, (channels, blocks) in enumerate(zip(self.channels, self.num_blocks)):
            for _ in range(blocks):
                x = _Block(channels, self.dtype, name=f"layers_{layer}")(x)
                layer += 1
            if level == len(self.channels) - 1:
                return self._conv(3, f"layers_{layer}")(x)
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = self._conv(channels, f"layers_{layer + 1}", use_bias=False)(x)
            layer += 2
        raise AssertionError("there is a level")

    def _conv(self, features: int, name: str, *, use_bias: bool = True) -> nn.Conv:
        return nn.Conv(features, (3, 3), use_bias=use_bias, dtype=self.dtype, name=name)


class _Block(nn.Module):
    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for number in range(3):
            conv = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name=f"conv_{2 * number}")
            y = conv(nn.relu(y) if number else y)
        return nn.relu(x + y)


def with_tiny_decoder(model: StableDiffusion, decoder: str) -> StableDiffusion:
    """The model, decoding by a tiny decoder.

    Args:
        model: Stable Diffusion 1.x or 2.x.
        decoder: A local folder, or a hub id (`owner/name`), with `config.json` and weights.

    Raises:
        UserError: It cannot be had, is of another kind, or of another size than the model's VAE.
    """
    folder = locate_part(decoder)
    config = {**_DEFAULTS, **read_json(folder / "config.json")}
    _check(decoder, config, model)
    module = TinyDecoder(
        channels=tuple(config["decoder_block_out_channels"]),
        num_blocks=tuple(config["num_decoder_blocks"]),
        scaling_factor=config["scaling_factor"],
        dtype=model.vae.dtype,
    )
    latents = jnp.zeros((1, 1, 1, model.latent_channels))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), latents)["params"])
    dtype = jax.tree.leaves(model.params["vae"])[0].dtype
    params = read_weights(folder, {"decoder": shapes}, dtype, ignored=_ENCODER)["decoder"]
    params = {**model.params, "tiny_decoder": params}
    return dataclasses.replace(model, tiny_decoder=module, params=params)


def _check(decoder: str, config: Mapping[str, Any], model: StableDiffusion) -> None:
    name = config.get("_class_name")
    if name != _CLASS:
        raise UserError(f"{decoder} is {name}; a decoder is an {_CLASS} (TAESD).")
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise UserError(f"{decoder} has {key}={config[key]!r}; only {value!r} is supported.")
    theirs = config["latent_channels"], len(config["decoder_block_out_channels"])
    ours = model.latent_channels, len(model.vae.block_out_channels)
    if theirs != ours:
        raise UserError(
            f"{decoder} decodes latents of {theirs[0]} channels on {theirs[1]} levels; the model's "
            f"have {ours[0]} on {ours[1]}. Take the decoder of Stable Diffusion 1.x and 2.x."
        )
