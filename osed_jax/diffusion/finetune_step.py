"""One update of the generator: noise-prediction loss, optimizer, moving average. Pure: no jit."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from osed_jax.diffusion.lora import merge
from osed_jax.diffusion.resize import fitted
from osed_jax.diffusion.stable_diffusion import Params, StableDiffusion

_STREAM = 0x41444150  # keeps these keys apart from any other use of the same seed

Batch = dict[str, jax.Array]


class FinetuneState(flax.struct.PyTreeNode):
    """Everything a checkpoint holds. There is no random key: keys are derived from the step.

    Attributes:
      step: number of updates made, int32 [].
      params: what is trained, float32: the UNet's parameters, or LoRA factors.
      ema: exponential moving average of `params`; what is sampled from and saved.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: Params
    ema: Params
    opt_state: Any


def create_state(params: Params, tx: optax.GradientTransformation) -> FinetuneState:
    """The state before the first update; pure."""
    return FinetuneState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),  # a buffer of its own, as both are donated
        opt_state=tx.init(params),
    )


def make_optimizer(
    *, learning_rate: float, warmup_steps: int, num_steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW, its gradient clipped to norm 1; linear warm-up, then a cosine down to 0."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=num_steps,
    )
    adam = optax.adamw(schedule, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def ema_decay_at(step: jax.Array, decay: float) -> jax.Array:
    """The average's decay at update `step`, from 0; it grows, so that it forgets the start."""
    count = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + count) / (10 + count))


def diffusion_loss(
    model: StableDiffusion,
    unet: Params,
    latents: jax.Array,
    context: jax.Array,
    noise: jax.Array,
    timesteps: jax.Array,
) -> jax.Array:
    """Mean squared error of the UNet's prediction (Ho et al. 2020, eq. 14; v: Salimans & Ho 2022).

    Args:
      model: the generator.
      unet: parameters of its UNet.
      latents: of images, float32 [B, h, w, c].
      context: text embeddings [B, L, D].
      noise: unit noise, float32 [B, h, w, c].
      timesteps: int32 [B], 0 to T-1.
    """
    noisy = model.schedule.add_noise(latents, noise, timesteps)
    prediction = model.denoise(unet, noisy, timesteps, context)
    return jnp.mean((prediction - model.schedule.target(latents, noise, timesteps)) ** 2)


def unet_params(frozen: Params, params: Params, *, lora: bool) -> Params:
    """The whole UNet's parameters, from what is trained of them."""
    return merge(frozen["unet"], params) if lora else params


def make_finetune_step(
    *,
    model: StableDiffusion,
    tx: optax.GradientTransformation,
    image_size: int,
    ema_decay: float,
    lora: bool,
    seed: int,
) -> Callable[[FinetuneState, Batch, Params], tuple[FinetuneState, jax.Array]]:
    """The function (state, batch, frozen) -> (state, loss) of one update.

    A batch is `image`, uint8 [B, H, H, 3], and `tokens` of its prompts, int32 [B, L]. `frozen` are
    the parameters that are not trained: `text_encoder`, `vae` and, with LoRA, `unet`. Images are
    enlarged or reduced to `image_size`. Latents, times and noise are drawn from keys derived from
    the seed and the step.
    """
    root = jax.random.fold_in(jax.random.key(seed), _STREAM)

    def finetune_step(
        state: FinetuneState, batch: Batch, frozen: Params
    ) -> tuple[FinetuneState, jax.Array]:
        keys = jax.random.split(jax.random.fold_in(root, state.step), 3)
        image = fitted(batch["image"], image_size)
        side = image_size // model.downscale
        shape = len(image), side, side, model.latent_channels
        drawn = jax.random.normal(keys[0], shape, jnp.float32)
        latents = model.encode_image(frozen["vae"], image, drawn)
        context = model.encode_text(frozen["text_encoder"], batch["tokens"])
        steps = model.schedule.num_train_timesteps
        timesteps = jax.random.randint(keys[1], image.shape[:1], 0, steps)
        noise = jax.random.normal(keys[2], shape, jnp.float32)

        def loss_fn(params: Params) -> jax.Array:
            unet = unet_params(frozen, params, lora=lora)
            return diffusion_loss(model, unet, latents, context, noise, timesteps)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(state.step, ema_decay)
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
        return FinetuneState(state.step + 1, params, ema, opt_state), loss

    return finetune_step
