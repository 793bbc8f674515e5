"""The programs that make a batch of images: functions of parameters and arrays alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from osed_jax.diffusion.resize import fitted, resize
from osed_jax.diffusion.safety import FOLDER, SafetyChecker
from osed_jax.diffusion.samples import Samples
from osed_jax.diffusion.schedulers import Steps, advance
from osed_jax.diffusion.stable_diffusion import Params, StableDiffusion

_Carry = tuple[jax.Array, jax.Array]  # latents, and the data prediction of the step before


@dataclasses.dataclass(frozen=True, eq=False)
class Denoising:
    """What fixes the programs.

    Attributes:
        model: The generator; its parameters are arguments of the programs.
        steps: Tables of the denoising steps.
        guidance_scale: Of classifier-free guidance; 1 is none.
        image_size: Height and width that the model draws, in pixels.
        size: Height and width of the images returned.
        resize_method: How they are reduced.
        keep_full_size: Return the images as drawn, too.
        safety_checker: Looks at the images as drawn; None for no opinion.
    """

    model: StableDiffusion
    steps: Steps
    guidance_scale: float
    image_size: int
    size: int
    resize_method: str
    keep_full_size: bool
    safety_checker: SafetyChecker | None

    @property
    def guided(self) -> bool:
        """Whether each prompt is compared with the negative one."""
        return self.guidance_scale != 1

    @property
    def takes_fresh_noise(self) -> bool:
        """Whether the scheduler mixes in noise after each step."""
        return bool(np.any(self.steps.fresh))

    def encode(self, params: Params, image: jax.Array, noise: jax.Array) -> jax.Array:
        """Latents [N, h, w, c] of real images, uint8 [N, H, H, 3]; `params` are the VAE's."""
        return self.model.encode_image(params, fitted(image, self.image_size), noise)

    def begin(
        self, params: Params, latents: jax.Array, tokens: jax.Array
    ) -> tuple[_Carry, jax.Array]:
        """First latents (and zeros for the previous data prediction), and text embeddings."""
        # An image's two prompts stay side by side, so that guidance never crosses devices.
        flat = tokens.reshape(-1, tokens.shape[-1])
        context = self.model.encode_text(params["text_encoder"], flat)
        return (latents, jnp.zeros_like(latents)), context

    def step(
        self,
        params: Params,
        carry: _Carry,
        context: jax.Array,
        begin: jax.Array,
        step: Steps,
        fresh: jax.Array | None,
    ) -> _Carry:
        """One step of all images; those that begin later, by the times `begin`, wait.

        Args:
            params: The UNet's.
            carry: As `begin` makes it.
            context: Text embeddings; with guidance two for each image.
            begin: The first timestep of each image, float32 [N, 1, 1, 1].
            step: A row of the tables.
            fresh: Noise of this step, where the scheduler takes it.
        """
        latents, previous = carry
        repeats = len(context) // len(latents)
        rows = jnp.repeat(latents, repeats, axis=0)
        timesteps = jnp.broadcast_to(step.timestep, len(rows))
        prediction = self.model.denoise(params, rows, timesteps, context)
        if self.guided:
            without, given = jnp.moveaxis(prediction.reshape(-1, 2, *latents.shape[1:]), 1, 0)
            prediction = without + self.guidance_scale * (given - without)
        # An image's first step has no step before it to be corrected by.
        step = step._replace(correction=jnp.where(step.timestep < begin, step.correction, 0))
        kind = self.model.schedule.prediction_type
        moved, data = advance(step, latents, prediction, previous, kind, fresh)
        return jnp.where(step.timestep <= begin, moved, latents), data

    def whole(
        self,
        params: Params,
        first: jax.Array,
        latents: jax.Array,
        begin: jax.Array,
        tokens: jax.Array,
        fresh: jax.Array | None,
    ) -> tuple[jax.Array, Samples, jax.Array]:
        """All steps from `first` on, as one program: final latents, and what `finish` gives."""
        carry, context = self.begin(params, latents, tokens)
        by_step = None if fresh is None else jnp.moveaxis(fresh, 1, 0)
        rows = jax.tree.map(jnp.asarray, self.steps), by_step
        carry = jax.lax.fori_loop(
            first,
            len(self.steps.timestep),
            lambda index, carry: self.step(
                params["unet"], carry, context, begin, *jax.tree.map(lambda r: r[index], rows)
            ),
            carry,
        )
        return carry[0], *self.finish(params, carry[0])

    def finish(self, params: Params, latents: jax.Array) -> tuple[Samples, jax.Array]:
        """The images, and which of them are made of finite numbers, bool [N]."""
        full = self.model.decode_image(params[self.model.decoder_part], latents)
        small = resize(full, self.size, self.resize_method)
        to_bytes = lambda x: jnp.round(jnp.clip(x, 0, 1) * 255).astype(jnp.uint8)  # noqa: E731
        checker = self.safety_checker
        samples = Samples(
            to_bytes(small),
            to_bytes(full) if self.keep_full_size else None,
            checker.margin(params[FOLDER], full) if checker else None,
        )
        return samples, jnp.isfinite(full).all(axis=(1, 2, 3))

    def row(self, index: int) -> Steps:
        """The tables' row of a step."""
        return Steps(*(column[index] for column in self.steps))
