"""Stable Diffusion 1.x and 2.x: Flax modules, their weights, prompts to text embeddings.

This file and `exact.py` alone import diffusers. They take nothing from it but the modules of UNet
and VAE; all else is this project's own code. Images and latents are channels-last everywhere.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel
from diffusers.models.vae_flax import FlaxAutoencoderKL
from flax import linen as nn

from osed_jax.diffusion.as_in_pytorch import exact
from osed_jax.diffusion.clip import TextConfig, TextTower
from osed_jax.diffusion.model_files.hub import locate
from osed_jax.diffusion.model_files.layout import PARTS, read_configs, refuse_pickle
from osed_jax.diffusion.model_files.single_file import SingleFile
from osed_jax.diffusion.model_files.weights import Params, random_weights, read_weights
from osed_jax.diffusion.noise_schedule import NoiseSchedule, noise_schedule
from osed_jax.diffusion.tokenizer import Tokenizer
from osed_jax.errors import DamageError, UserError
from osed_jax.files.digests import FILE as DIGESTS
from osed_jax.files.digests import check_digests

FLOAT32 = jnp.dtype(jnp.float32)  # what jnp.float32 is differs between versions of JAX
# The Flax UNet has these built in: another value would be ignored and give wrong images.
_UNET_ONLY: Mapping[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
}
_VAE_ONLY: Mapping[str, Any] = {
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}


@dataclasses.dataclass(frozen=True, eq=False)
class StableDiffusion:
    """The parts of one model. `params` are passed in where they may be others (training, EMA).

    Attributes:
        name: The folder, file or hub id it came from.
        revision: The hub commit, or the digest of a single file; empty for a folder.
        configs: Contents of the folder's JSON files, keys as in `PARTS` and `scheduler`.
        tokenizer: CLIP's.
        text_encoder: Flax module, CLIP's text tower.
        unet: Flax module.
        vae: Flax module.
        params: Parameters by part.
        schedule: The noise levels that the UNet knows.
        tiny_decoder: Flax module that decodes instead of the VAE; None for the VAE.
    """

    name: str
    revision: str
    configs: Mapping[str, Mapping[str, Any]]
    tokenizer: Tokenizer
    text_encoder: Any
    unet: Any
    vae: Any
    params: Params
    schedule: NoiseSchedule
    tiny_decoder: Any = None

    @property
    def decoder_part(self) -> str:
        """The part whose parameters decode."""
        return "vae" if self.tiny_decoder is None else "tiny_decoder"

    @property
    def latent_channels(self) -> int:
        """Channels of a latent, 4 in all published models."""
        return self.vae.latent_channels

    @property
    def downscale(self) -> int:
        """Image pixels per latent pixel and axis, 8 in all published models."""
        return 2 ** (len(self.vae.block_out_channels) - 1)

    @property
    def size_multiple(self) -> int:
        """Image sizes must be a multiple of this, or the UNet's levels do not fit together."""
        return self.downscale * 2 ** (len(self.unet.block_out_channels) - 1)

    def tokenize(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids, int32 `[B, L]`; what exceeds the L (77) tokens is cut off."""
        return self.tokenizer(prompts)

    def encode_text(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Text embeddings `[B, L, D]` of `tokens`; `params` are those of the text encoder."""
        return self.text_encoder.apply({"params": params}, tokens)

    def denoise(
        self, params: Params, latents: jax.Array, timesteps: jax.Array, context: jax.Array
    ) -> jax.Array:
        """The UNet's prediction for noisy latents; differentiable.

        Args:
            params: Those of the UNet.
            latents: `[B, h, w, c]`.
            timesteps: int or float `[B]`, 0 to T-1.
            context: Text embeddings `[B, L, D]`.

        Returns:
            float32 `[B, h, w, c]`: noise, velocity or data, as `schedule.prediction_type` says.
        """
        latents = latents.transpose(0, 3, 1, 2)
        with exact():
            output = self.unet.apply({"params": params}, latents, timesteps, context).sample
        return output.transpose(0, 2, 3, 1).astype(jnp.float32)

    def encode_image(
        self, params: Params, image: jax.Array, noise: jax.Array | None = None
    ) -> jax.Array:
        """Latents of images, scaled to about unit deviation.

        Args:
            params: Those of the VAE.
            image: float `[B, H, W, 3]` in [0, 1].
            noise: Unit noise `[B, h, w, c]` of a draw from the VAE's posterior, as in training;
                None takes its mean.

        Returns:
            float32 `[B, H / downscale, W / downscale, latent_channels]`.
        """
        image = (2 * image - 1).transpose(0, 3, 1, 2)
        with exact():
            output = self.vae.apply({"params": params}, image, method=self.vae.encode)
        posterior = output.latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return latents.astype(jnp.float32) * self.vae.scaling_factor

    def decode_image(self, params: Params, latents: jax.Array) -> jax.Array:
        """Images of latents `[B, h, w, c]`, float32 `[B, H, W, 3]` in [0, 1].

        `params` are those of `decoder_part`.
        """
        if self.tiny_decoder is not None:
            image = self.tiny_decoder.apply({"params": params}, latents)
            return jnp.clip(image.astype(jnp.float32), 0, 1)
        latents = latents / self.vae.scaling_factor
        with exact():
            image = self.vae.apply({"params": params}, latents, method=self.vae.decode).sample
        return jnp.clip(image.transpose(0, 2, 3, 1).astype(jnp.float32) / 2 + 0.5, 0, 1)


def load(
    model: str,
    revision: str = "",
    *,
    dtype: jnp.dtype = FLOAT32,
    param_dtype: jnp.dtype | None = None,
) -> StableDiffusion:
    """Load a Stable Diffusion 1.x or 2.x model.

    Args:
        model: A local folder in diffusers' layout, the id of a model on the Hugging Face hub
            (`owner/name`), or a file in the original layout.
        revision: Branch, tag or commit on the hub; empty for its main branch.
        dtype: What the modules compute in.
        param_dtype: What parameters are kept in; None for `dtype`. Training wants float32 here.

    Raises:
        UserError: The model cannot be had, is of another kind, or its files do not fit together.
    """
    if Path(model).is_file():
        return _load_file(model, revision, dtype, param_dtype or dtype)
    folder, revision = locate(model, revision)
    try:
        check_digests(folder)
    except DamageError as error:
        raise UserError(
            f"{error}; make the generator again, or remove {folder / DIGESTS} if you changed it on "
            f"purpose"
        ) from error
    parts = _build_folder(folder, dtype)
    params = {
        part: read_weights(folder / part, _shapes(parts[part]), param_dtype or dtype)
        for part in PARTS
    }
    return StableDiffusion(name=model, revision=revision, params=params, **parts)


def _load_file(
    model: str, revision: str, dtype: jnp.dtype, param_dtype: jnp.dtype
) -> StableDiffusion:
    if revision:
        raise UserError(f"revision={revision!r} with the local file {model}; leave it empty.")
    refuse_pickle(Path(model))
    file = SingleFile(Path(model))
    parts = _build(model, file.configs, file.tokenizer, dtype)
    params = {part: file.read(part, _shapes(parts[part]), param_dtype) for part in PARTS}
    return StableDiffusion(name=model, revision=file.revision, params=params, **parts)


def init_random(
    folder: str,
    seed: int,
    *,
    dtype: jnp.dtype = FLOAT32,
    param_dtype: jnp.dtype | None = None,
) -> StableDiffusion:
    """Build a model from its configuration and tokenizer alone, with fresh random weights.

    Args:
        folder: diffusers' layout; weights in it are not read.
        seed: Of the weights.
        dtype: What the modules compute in.
        param_dtype: What parameters are kept in; None for `dtype`.

    Raises:
        UserError: A file is missing or describes another kind of model.
    """
    parts = _build_folder(Path(folder), dtype)
    shapes = {part: _shapes(parts[part]) for part in PARTS}
    params = random_weights(shapes, seed, param_dtype or dtype)
    return StableDiffusion(name=str(folder), revision="", params=params, **parts)


def parameter_shapes(folder: str) -> Params:
    """Shapes of all parameters by part, without making any."""
    parts = _build_folder(Path(folder), FLOAT32)
    return {part: _shapes(parts[part]) for part in PARTS}


@functools.lru_cache(maxsize=16)
def _shapes(module: nn.Module) -> Params:
    """Shapes of a part's parameters, to be read only; traced once for modules that are equal."""
    key = jax.random.key(0)
    if isinstance(module, TextTower):
        token = jnp.zeros((1, 1), jnp.int32)
        return jax.eval_shape(lambda: module.init(key, token)["params"])
    return jax.eval_shape(lambda: module.init_weights(key))


def _build_folder(folder: Path, dtype: jnp.dtype) -> dict[str, Any]:
    return _build(str(folder), read_configs(str(folder), folder), folder / "tokenizer", dtype)


def _build(
    name: str, configs: Mapping[str, Mapping[str, Any]], tokenizer_folder: Path, dtype: jnp.dtype
) -> dict[str, Any]:
    """The model's parts without parameters."""
    unet = _module(FlaxUNet2DConditionModel, configs["unet"], _UNET_ONLY, dtype)
    vae = _module(FlaxAutoencoderKL, configs["vae"], _VAE_ONLY, dtype)
    text = TextTower(TextConfig.from_json(configs["text_encoder"]), dtype)
    tokenizer = Tokenizer(tokenizer_folder, text.config.max_position_embeddings)
    if tokenizer.size > text.config.vocab_size:  # JAX would take another token without a word
        raise UserError(
            f"{name}: its tokenizer has {tokenizer.size} tokens, its text encoder "
            f"{text.config.vocab_size}. Take both from the same model."
        )
    return {
        "configs": configs,
        "tokenizer": tokenizer,
        "text_encoder": text,
        "unet": unet,
        "vae": vae,
        # As in PyTorch's pipeline, which puts these two right in files of early models.
        "schedule": noise_schedule(
            {**configs["scheduler"], "clip_sample": False, "steps_offset": 1}
        ),
    }


def _module(
    cls: type, config: Mapping[str, Any], only: Mapping[str, Any], dtype: jnp.dtype
) -> nn.Module:
    for key, value in only.items():
        if config.get(key, value) != value:
            raise UserError(
                f"the model's {config.get('_class_name', cls.__name__)} has {key}={config[key]!r}; "
                f"only {value!r} is supported. Choose a Stable Diffusion 1.x or 2.x model."
            )
    known = {field.name for field in dataclasses.fields(cls)} - {"dtype", "parent", "name"}
    values = {key: value for key, value in config.items() if key in known}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**values, dtype=dtype)
