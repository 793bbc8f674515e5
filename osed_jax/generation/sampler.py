"""The sampling loop: prompts to images of the training size, on all devices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from osed_jax.choices import RESIZES
from osed_jax.errors import UserError
from osed_jax.generation.resize import resize
from osed_jax.generation.safety import FOLDER, SafetyChecker
from osed_jax.generation.samples import Samples
from osed_jax.generation.schedulers import Steps, advance, sampling_steps
from osed_jax.generation.stable_diffusion import Params, StableDiffusion

_FRESH = 0x46524553  # keeps the keys of fresh noise apart from any other use of an image's key


class Sampler:
    """Makes images with fixed settings, batch by batch.

    An image is a function of (seed, label, index) and the settings: its first noise comes from a
    key folded from these three, so it does not depend on the batch it is made in, the devices, or
    where a run was interrupted.
    """

    def __init__(
        self,
        model: StableDiffusion,
        *,
        batch_size: int,
        image_size: int,
        size: int,
        resize_method: str = "area",
        scheduler: str = "dpmsolver++",
        steps: int = 25,
        guidance_scale: float = 2.0,
        keep_full_size: bool = False,
        safety_checker: SafetyChecker | None = None,
        devices: Sequence[jax.Device] | None = None,
        one_program: bool | None = None,
    ) -> None:
        """Prepare tables and programs; these are compiled when the first batch is made.

        Args:
            model: The generator.
            batch_size: Images per call over all devices; rounded up to a multiple of their number.
            image_size: Height and width that the model draws, in pixels.
            size: Height and width of the images returned, in pixels.
            resize_method: `area`, `bicubic` or `lanczos`, all antialiased.
            scheduler: `ddim`, `dpmsolver++`, `euler`, `lcm` or `tcd`.
            steps: Denoising steps.
            guidance_scale: Classifier-free guidance (Ho & Salimans 2022) in diffusers' convention:
                1 is none, at half the cost.
            keep_full_size: Return the images as drawn, too.
            safety_checker: Looks at the images as drawn; None for no opinion.
            devices: Where to run; None for all of this process.
            one_program: Run a whole batch as one program. None does so except on CPU, where a
                loop inside a program runs convolutions many times slower.

        Raises:
            UserError: A setting out of range.
        """
        multiple = model.size_multiple
        if image_size <= 0 or image_size % multiple:
            raise UserError(f"image_size={image_size}; it must be a multiple of {multiple}.")
        if resize_method not in RESIZES:
            raise UserError(f"resize={resize_method!r}; choose one of: {', '.join(RESIZES)}.")
        if not 0 < size <= image_size:
            raise UserError(f"size={size}; choose 1 to image_size={image_size} pixels.")
        if guidance_scale < 1:
            raise UserError(f"guidance_scale={guidance_scale}; choose 1 (none) or more.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; choose 1 or more.")
        self._model = model
        self._image_size, self._size, self._resize_method = image_size, size, resize_method
        self._guidance_scale, self._keep_full_size = guidance_scale, keep_full_size
        self._safety_checker = safety_checker
        self._start_deviation, self._steps = sampling_steps(model.schedule, scheduler, steps)
        devices = list(devices or jax.local_devices())
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        mesh = Mesh(np.asarray(devices), ("data",))
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        checker = {FOLDER: safety_checker.params} if safety_checker else {}
        self._checker_params = jax.device_put(checker, self._everywhere)
        self.use(model.params)
        self._one_program = devices[0].platform != "cpu" if one_program is None else one_program
        self._jit_noise = jax.jit(self._draw)
        self._jit_fresh = jax.jit(self._draw_fresh)
        self._jit_begin = jax.jit(self._begin, out_shardings=self._rows)
        self._jit_step = jax.jit(self._step, out_shardings=self._rows)
        self._jit_finish = jax.jit(self._finish, out_shardings=self._rows)
        self._jit_all = jax.jit(self._all, out_shardings=self._rows)

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        labels: Sequence[int],
        indices: Sequence[int],
        negative_prompt: str = "",
    ) -> Samples:
        """Make one image per prompt.

        Args:
            prompts: N of them, at most `batch_size`; a smaller batch is padded.
            seed: Of the whole store, 0 to 2³² - 1.
            labels: N class numbers.
            indices: N numbers within their classes; (seed, label, index) names an image.
            negative_prompt: What to steer away from; needs a guidance scale above 1.

        Raises:
            UserError: As `from_noise`.
        """
        names = np.uint32(seed), np.asarray(labels, np.uint32), np.asarray(indices, np.uint32)
        fresh = np.asarray(self._jit_fresh(*names)) if self._takes_fresh_noise else None
        noise = self.noise(seed, labels, indices)
        return self.from_noise(noise, prompts, negative_prompt, fresh)[1]

    def use(self, params: Params) -> None:
        """Go on with other parameters of the same model, as training makes them."""
        self._params = jax.device_put(params, self._everywhere) | self._checker_params

    def noise(self, seed: int, labels: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        """The unit noise that images start from, float32 `[N, h, w, c]`."""
        names = np.asarray(labels, np.uint32), np.asarray(indices, np.uint32)
        return np.asarray(self._jit_noise(np.uint32(seed), *names))

    def from_noise(
        self,
        noise: np.ndarray,
        prompts: Sequence[str],
        negative_prompt: str = "",
        fresh: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Samples]:
        """Images that start from given noise `[N, h, w, c]`; also their latents, the same shape.

        LCM and TCD mix in `fresh` noise after each step, `[N, steps, h, w, c]`.

        Raises:
            UserError: A negative prompt without guidance, the device's memory is too small, or what
                the model makes are no numbers.
        """
        if negative_prompt and not self._guided:
            raise UserError(
                f"negative_prompt={negative_prompt!r} has no effect with guidance_scale=1. Leave "
                "it empty or choose a scale above 1."
            )
        if not 0 < len(prompts) == len(noise) <= self.batch_size:
            raise ValueError(f"{len(prompts)} prompts, {len(noise)} images, {self.batch_size=}")
        if (fresh is not None) != self._takes_fresh_noise:
            raise ValueError("fresh noise is for the schedulers lcm and tcd, which need it")
        batch = [
            np.concatenate([rows, rows[-1:].repeat(self.batch_size - len(rows), 0)])
            for rows in (noise, self._tokens(prompts, negative_prompt), fresh)
            if rows is not None
        ]
        try:
            made = jax.device_get(self._run(*jax.device_put(batch, self._rows)))
        except jax.errors.JaxRuntimeError as error:
            raise self._explained(error) from error
        latents, samples, finite = jax.tree.map(lambda rows: rows[: len(prompts)], made)
        if not finite.all():
            raise UserError(
                f"{len(finite) - finite.sum()} of {len(finite)} images hold values that are no "
                "finite numbers: the model diverges with these settings, or its weights are "
                "damaged. Try dtype=float32, a lower guidance_scale or other weights."
            )
        return latents, samples

    def step_flops(self) -> float:
        """Floating point operations of one denoising step over the whole batch, by XLA's count."""
        zeros = [0] * self.batch_size
        batch = self.noise(0, zeros, zeros), self._tokens([""] * self.batch_size, "")
        carry, context = jax.eval_shape(self._begin, self._params, *batch)
        row = self._row(0)
        fresh = batch[0] if self._takes_fresh_noise else None
        lowered = jax.jit(self._step).lower(self._params["unet"], carry, context, row, fresh)
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    @property
    def _guided(self) -> bool:
        return self._guidance_scale != 1

    @property
    def _takes_fresh_noise(self) -> bool:
        return bool(np.any(self._steps.fresh))

    def _tokens(self, prompts: Sequence[str], negative_prompt: str) -> np.ndarray:
        """Token ids `[N, 1, L]`, or `[N, 2, L]` with the negative prompt before each."""
        tokens = self._model.tokenize(prompts)[:, None]
        if not self._guided:
            return tokens
        negative = self._model.tokenize([negative_prompt])[None].repeat(len(tokens), 0)
        return np.concatenate([negative, tokens], axis=1)

    def _draw(self, seed: jax.Array, labels: jax.Array, indices: jax.Array) -> jax.Array:
        """The noise that images start from, `[N, h, w, c]`."""
        return self._normal(jax.vmap(_image_key, (None, 0, 0))(seed, labels, indices))

    def _draw_fresh(self, seed: jax.Array, labels: jax.Array, indices: jax.Array) -> jax.Array:
        """The noise mixed in after every step, `[N, S, h, w, c]`."""
        keys = jax.vmap(_image_key, (None, 0, 0))(seed, labels, indices)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, _FRESH))(keys)
        return self._normal(keys, len(self._steps.timestep))

    def _normal(self, keys: jax.Array, *more: int) -> jax.Array:
        side = self._image_size // self._model.downscale
        shape = (*more, side, side, self._model.latent_channels)
        return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

    def _run(
        self, noise: jax.Array, tokens: jax.Array, fresh: jax.Array | None = None
    ) -> tuple[jax.Array, Samples, jax.Array]:
        if self._one_program:
            return self._jit_all(self._params, noise, tokens, fresh)
        carry, context = self._jit_begin(self._params, noise, tokens)
        for index in range(len(self._steps.timestep)):
            of_step = None if fresh is None else fresh[:, index]
            carry = self._jit_step(self._params["unet"], carry, context, self._row(index), of_step)
        last = {
            part: self._params[part] for part in (self._model.decoder_part, *self._checker_params)
        }
        return carry[0], *self._jit_finish(last, carry[0])

    def _row(self, index: int) -> Steps:
        return Steps(*(column[index] for column in self._steps))

    def _all(
        self, params: Params, noise: jax.Array, tokens: jax.Array, fresh: jax.Array | None
    ) -> tuple[jax.Array, Samples, jax.Array]:
        carry, context = self._begin(params, noise, tokens)
        by_step = None if fresh is None else jnp.moveaxis(fresh, 1, 0)
        carry, _ = jax.lax.scan(
            lambda carry, step: (self._step(params["unet"], carry, context, *step), None),
            carry,
            (jax.tree.map(jnp.asarray, self._steps), by_step),
        )
        return carry[0], *self._finish(params, carry[0])

    def _begin(
        self, params: Params, noise: jax.Array, tokens: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """First latents (and zeros for the previous data prediction), and text embeddings."""
        # An image's two prompts stay side by side, so that guidance never crosses devices.
        flat = tokens.reshape(-1, tokens.shape[-1])
        context = self._model.encode_text(params["text_encoder"], flat)
        return (self._start_deviation * noise, jnp.zeros_like(noise)), context

    def _step(
        self,
        params: Params,
        carry: tuple[jax.Array, jax.Array],
        context: jax.Array,
        step: Steps,
        fresh: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        latents, previous = carry
        repeats = len(context) // len(latents)
        rows = jnp.repeat(latents, repeats, axis=0)
        timesteps = jnp.broadcast_to(step.timestep, len(rows))
        prediction = self._model.denoise(params, rows, timesteps, context)
        if self._guided:
            without, given = jnp.moveaxis(prediction.reshape(-1, 2, *latents.shape[1:]), 1, 0)
            prediction = without + self._guidance_scale * (given - without)
        kind = self._model.schedule.prediction_type
        return advance(step, latents, prediction, previous, kind, fresh)

    def _finish(self, params: Params, latents: jax.Array) -> tuple[Samples, jax.Array]:
        """The images, and which of them are made of finite numbers, bool [N]."""
        full = self._model.decode_image(params[self._model.decoder_part], latents)
        small = resize(full, self._size, self._resize_method)
        to_bytes = lambda x: jnp.round(jnp.clip(x, 0, 1) * 255).astype(jnp.uint8)  # noqa: E731
        checker = self._safety_checker
        samples = Samples(
            to_bytes(small),
            to_bytes(full) if self._keep_full_size else None,
            checker.margin(params[FOLDER], full) if checker else None,
        )
        return samples, jnp.isfinite(full).all(axis=(1, 2, 3))

    def _explained(self, error: Exception) -> Exception:
        """The error to raise for one of the device's."""
        if "RESOURCE_EXHAUSTED" not in str(error):
            return error
        if self.batch_size == len(self._rows.mesh.devices):
            return UserError(
                f"out of device memory with one image of {self._image_size} pixels per device. "
                "Try bfloat16 or a smaller image_size."
            )
        return UserError(
            f"out of device memory with batch_size={self.batch_size}. "
            f"Try batch_size={self.batch_size // 2}."
        )


def _image_key(seed: jax.Array, label: jax.Array, index: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), label), index)
