"""A miniature Stable Diffusion for images of a few pixels, in the very classes of the large one.

Its text encoder stays random: it only has to tell prompts apart, and the UNet learns to read it.
Its autoencoder keeps the resolution and is trained here; its UNet is trained by `--mode=finetune`.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osed_jax.data.images import Images
from osed_jax.diffusion.as_in_pytorch import exact
from osed_jax.diffusion.stable_diffusion import Params, StableDiffusion, init_random
from osed_jax.errors import UserError
from osed_jax.runtime.console import progress

NAME = "miniature"
_START, _END = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = 2  # the last of the vocabulary, in this order: start, end (which also pads)
_STREAM = 0x56414500  # keeps these draws apart from any other use of the same seed
# CLIP's letters: one for each of the 256 bytes, so every text in every script has its tokens.
_SYMBOLS = tuple(map(chr, (*range(33, 127), *range(161, 173), *range(174, 324))))
_MAX_TOKENS = 32
_WIDTH = 32  # of text embeddings
_KL_WEIGHT = 1e-4  # keeps latents bounded; a larger one drowns what the UNet learns in noise
_LEARNING_RATE = 3e-3

# Two levels are enough for 8x8 pixels. The Flax UNet's norms have 32 groups, so no less channels.
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": _WIDTH,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 32,
    "attention_head_dim": 4,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "latent_channels": 4,
    "scaling_factor": 1.0,
}
_TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_act": "quick_gelu",
    "hidden_size": _WIDTH,
    "intermediate_size": 2 * _WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "max_position_embeddings": _MAX_TOKENS,
    "vocab_size": 2 * len(_SYMBOLS) + SPECIAL_TOKENS,
    "projection_dim": _WIDTH,
}
# The cosine schedule spends its steps where small images are decided (Nichol & Dhariwal 2021);
# it ends in pure noise, where only a velocity can be predicted (Salimans & Ho 2022).
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
}


def build(image_size: int, seed: int) -> StableDiffusion:
    """A miniature with random weights, float32.

    Args:
      image_size: of the images it is to draw, in pixels; also the latents' size.
      seed: of the weights.

    Raises:
      UserError: the size is odd.
    """
    if image_size % 2:
        raise UserError(
            f"the images have {image_size} pixels, but a miniature draws even sizes only; set "
            f"config.dataset.image_size, or fine-tune another base"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part, config in (("unet", _UNET), ("vae", _VAE), ("text_encoder", _TEXT)):
            sized = config if part == "text_encoder" else {**config, "sample_size": image_size}
            _write_json(folder / part / "config.json", sized)
        _write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
        write_tokenizer(folder / "tokenizer", _SYMBOLS, _MAX_TOKENS)
        model = init_random(str(folder), seed)
    return dataclasses.replace(model, name=NAME)


def train_autoencoder(
    model: StableDiffusion, images: Images, *, num_steps: int, batch_size: int, seed: int
) -> StableDiffusion:
    """The model with an autoencoder that reproduces `images`, its latents of unit deviation.

    Args:
      model: a fresh miniature.
      images: what to train on.
      num_steps: updates, with Adam and a learning rate that falls to 0 along a cosine.
      batch_size: images of one update, drawn with replacement.
      seed: of the draws.

    Raises:
      UserError: the loss is not finite.
    """
    tx = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, num_steps))
    params = model.params["vae"]
    opt_state = tx.init(params)
    update = jax.jit(_make_update(model, tx), donate_argnums=(0, 1))
    params = jax.tree.map(jnp.copy, params)  # given away with every update
    loss = jnp.zeros(())
    root = jax.random.fold_in(jax.random.key(seed), _STREAM)
    with progress(total=num_steps, unit="step", label="autoencoder") as bar:
        for step, image in enumerate(_batches(images, num_steps, batch_size, seed)):
            key = jax.random.fold_in(root, step)
            params, opt_state, loss = update(params, opt_state, image, key)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()
    if not np.isfinite(loss):
        raise UserError(
            f"the autoencoder's loss is {loss} after {num_steps} steps; change the seed"
        )
    return _scaled(model, params, next(_batches(images, 1, 1000, seed)))


def _make_update(model: StableDiffusion, tx: optax.GradientTransformation) -> Any:
    """The function (params, opt_state, image uint8, key) -> (params, opt_state, loss)."""

    def loss_fn(params: Params, image: jax.Array, key: jax.Array) -> jax.Array:
        pixels = (image.astype(jnp.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
        variables = {"params": params}
        with exact():
            posterior = model.vae.apply(variables, pixels, method=model.vae.encode).latent_dist
            drawn = posterior.sample(key)
            output = model.vae.apply(variables, drawn, method=model.vae.decode).sample
        kl = 0.5 * jnp.mean(posterior.mean**2 + posterior.var - 1 - posterior.logvar)
        return jnp.mean((output - pixels) ** 2) + _KL_WEIGHT * kl

    def update(
        params: Params, opt_state: Any, image: jax.Array, key: jax.Array
    ) -> tuple[Params, Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params, image, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return update


def _batches(images: Images, num_steps: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    for step in range(num_steps):
        random = np.random.default_rng([seed, _STREAM, step])
        yield images.take(random.integers(len(images), size=batch_size))


def _scaled(model: StableDiffusion, params: Params, image: np.ndarray) -> StableDiffusion:
    """The model with these parameters of the autoencoder and the scaling factor they ask for."""
    latents = jax.jit(model.encode_image)(params, image.astype(np.float32) / 255)
    factor = model.vae.scaling_factor / float(latents.std())
    configs = {**model.configs, "vae": {**model.configs["vae"], "scaling_factor": factor}}
    return dataclasses.replace(
        model,
        configs=configs,
        vae=model.vae.clone(scaling_factor=factor),
        params={**model.params, "vae": params},
    )


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_tokenizer(folder: Path, symbols: Sequence[str], max_length: int) -> None:
    """Writes the files of a CLIP tokenizer, as transformers 4 has them.

    Args:
      folder: made here; must not exist.
      symbols: what words are spelt with; each is a token within a word and one at its end, so the
        vocabulary has 2 * len(symbols) + SPECIAL_TOKENS entries. Others are read as the end token.
      max_length: tokens of a prompt, start and end included.
    """
    folder.mkdir()
    tokens = [*symbols, *(f"{x}</w>" for x in symbols), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
