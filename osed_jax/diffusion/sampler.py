"""The sampling loop: prompts to images of the training size, on all devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from osed_jax.config.choices import RESIZES
from osed_jax.diffusion.denoising import Denoising
from osed_jax.diffusion.image_noise import ImageNoise
from osed_jax.diffusion.safety import FOLDER, SafetyChecker
from osed_jax.diffusion.samples import Samples, Start
from osed_jax.diffusion.schedulers import first_steps, sampling_steps
from osed_jax.diffusion.stable_diffusion import Params, StableDiffusion
from osed_jax.errors import UserError


class Sampler:
    """Makes images with fixed settings, batch by batch.

    An image is a function of (seed, label, index), the settings and the real image that it starts
    from, if it starts from one: its noise comes from keys folded from these three, so it does not
    depend on the batch it is made in, the devices, or where a run was interrupted.
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
        self._start_deviation, tables = sampling_steps(model.schedule, scheduler, steps)
        self._programs = programs = Denoising(
            model=model,
            steps=tables,
            guidance_scale=guidance_scale,
            image_size=image_size,
            size=size,
            resize_method=resize_method,
            keep_full_size=keep_full_size,
            safety_checker=safety_checker,
        )
        side = image_size // model.downscale
        self._noise = ImageNoise((side, side, model.latent_channels), len(tables.timestep))
        devices = list(devices or jax.local_devices())
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        mesh = Mesh(np.asarray(devices), ("data",))
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        checker = {FOLDER: safety_checker.params} if safety_checker else {}
        self._checker_params = jax.device_put(checker, self._everywhere)
        self.use(model.params)
        self._one_program = devices[0].platform != "cpu" if one_program is None else one_program
        self._jit_encode = jax.jit(programs.encode, out_shardings=self._rows)
        self._jit_begin = jax.jit(programs.begin, out_shardings=self._rows)
        self._jit_step = jax.jit(programs.step, out_shardings=self._rows)
        self._jit_finish = jax.jit(programs.finish, out_shardings=self._rows)
        self._jit_all = jax.jit(programs.whole, out_shardings=self._rows)

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        labels: Sequence[int],
        indices: Sequence[int],
        negative_prompt: str = "",
        start: Start | None = None,
    ) -> Samples:
        """Make one image per prompt.

        Args:
            prompts: N of them, at most `batch_size`; a smaller batch is padded.
            seed: Of the whole store, 0 to 2³² - 1.
            labels: N class numbers.
            indices: N numbers within their classes; (seed, label, index) names an image.
            negative_prompt: What to steer away from; needs a guidance scale above 1.
            start: The real images to start from; None starts from noise.

        Raises:
            UserError: As `from_noise` and `from_image`.
        """
        names = seed, labels, indices
        fresh = self._noise.fresh(*names) if self._programs.takes_fresh_noise else None
        noise = self._noise.start(*names)
        if start is None:
            return self.from_noise(noise, prompts, negative_prompt, fresh)[1]
        real = self.encode(start.image, self._noise.posterior(*names))
        return self.from_image(real, start.strength, noise, prompts, negative_prompt, fresh)[1]

    def use(self, params: Params) -> None:
        """Go on with other parameters of the same model, as training makes them."""
        self._params = jax.device_put(params, self._everywhere) | self._checker_params

    def noise(self, seed: int, labels: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        """The unit noise that images start from, float32 `[N, h, w, c]`."""
        return self._noise.start(seed, labels, indices)

    def encode(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Latents of real images, drawn from the VAE's posterior, float32 `[N, h, w, c]`.

        Args:
            image: uint8 `[N, H, H, 3]` of any size; enlarged or reduced to what the model draws.
            noise: Unit noise of the draws, float32 `[N, h, w, c]`.

        Raises:
            UserError: The device's memory is too small.
        """
        batch = self._on_devices(image, noise)
        return self._fetched(lambda: self._jit_encode(self._params["vae"], *batch))[: len(image)]

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
        first = np.zeros(len(noise), int)
        latents = self._start_deviation * noise
        return self._denoised(latents, first, prompts, negative_prompt, fresh)

    def from_image(
        self,
        real: np.ndarray,
        strength: Sequence[float],
        noise: np.ndarray,
        prompts: Sequence[str],
        negative_prompt: str = "",
        fresh: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Samples]:
        """The same from latents of real images: noised, then denoised (SDEdit; Meng et al. 2022).

        Args:
            real: Latents of real images, float32 `[N, h, w, c]`.
            strength: N shares of the steps that are taken, the last ones, in (0, 1].
            noise: Unit noise, float32 `[N, h, w, c]`.
            prompts: N of them.
            negative_prompt: As above.
            fresh: As above.

        Raises:
            UserError: As above, or a strength that leaves no step.
        """
        first = first_steps(len(self._programs.steps.timestep), strength)
        alpha, sigma = (
            share[first][:, None, None, None]
            for share in (self._programs.steps.alpha, self._programs.steps.sigma)
        )
        latents = alpha * real + sigma * noise
        return self._denoised(latents, first, prompts, negative_prompt, fresh)

    def _denoised(
        self,
        latents: np.ndarray,
        first: np.ndarray,
        prompts: Sequence[str],
        negative_prompt: str,
        fresh: np.ndarray | None,
    ) -> tuple[np.ndarray, Samples]:
        """Final latents and images of noisy latents, each begun at its step of `first` [N]."""
        if negative_prompt and not self._programs.guided:
            raise UserError(
                f"negative_prompt={negative_prompt!r} has no effect with guidance_scale=1. Leave "
                "it empty or choose a scale above 1."
            )
        if not 0 < len(prompts) == len(latents) <= self.batch_size:
            raise ValueError(f"{len(prompts)} prompts, {len(latents)} images, {self.batch_size=}")
        if (fresh is not None) != self._programs.takes_fresh_noise:
            raise ValueError("fresh noise is for the schedulers lcm and tcd, which need it")
        begin = self._programs.steps.timestep[first][:, None, None, None]
        tokens = self._tokens(prompts, negative_prompt)
        batch = self._on_devices(latents, begin, tokens, *([] if fresh is None else [fresh]))
        made = self._fetched(lambda: self._run(np.int32(first.min()), *batch))
        final, samples, finite = jax.tree.map(lambda rows: rows[: len(prompts)], made)
        if not finite.all():
            raise UserError(
                f"{len(finite) - finite.sum()} of {len(finite)} images have values that are not "
                "finite numbers: the model diverges with these settings, or its weights are "
                "damaged. Try dtype=float32, a lower guidance_scale or other weights."
            )
        return final, samples

    def step_flops(self) -> float:
        """Floating point operations of one denoising step over the whole batch, by XLA's count."""
        zeros = [0] * self.batch_size
        batch = self.noise(0, zeros, zeros), self._tokens([""] * self.batch_size, "")
        carry, context = jax.eval_shape(self._programs.begin, self._params, *batch)
        row, begin = self._programs.row(0), np.zeros((self.batch_size, 1, 1, 1), np.float32)
        fresh = batch[0] if self._programs.takes_fresh_noise else None
        step = jax.jit(self._programs.step)
        lowered = step.lower(self._params["unet"], carry, context, begin, row, fresh)
        cost = lowered.cost_analysis()
        assert cost is not None
        return cost["flops"]

    def _tokens(self, prompts: Sequence[str], negative_prompt: str) -> np.ndarray:
        """Token ids `[N, 1, L]`, or `[N, 2, L]` with the negative prompt before each."""
        tokens = self._model.tokenize(prompts)[:, None]
        if not self._programs.guided:
            return tokens
        negative = self._model.tokenize([negative_prompt])[None].repeat(len(tokens), 0)
        return np.concatenate([negative, tokens], axis=1)

    def _on_devices(self, *batch: np.ndarray) -> list[jax.Array]:
        """The rows of a batch, filled up with its last one."""
        whole = [np.concatenate([r, r[-1:].repeat(self.batch_size - len(r), 0)]) for r in batch]
        return jax.device_put(whole, self._rows)

    def _fetched(self, run: Callable[[], Any]) -> Any:
        """What a program gives, on the host."""
        try:
            return jax.device_get(run())
        except jax.errors.JaxRuntimeError as error:
            raise self._explained(error) from error

    def _run(
        self,
        first: np.int32,
        latents: jax.Array,
        begin: jax.Array,
        tokens: jax.Array,
        fresh: jax.Array | None = None,
    ) -> tuple[jax.Array, Samples, jax.Array]:
        """Takes the steps from `first` on; an image waits for its own, at time `begin`."""
        if self._one_program:
            return self._jit_all(self._params, first, latents, begin, tokens, fresh)
        carry, context = self._jit_begin(self._params, latents, tokens)
        unet = self._params["unet"]
        for index in range(first, len(self._programs.steps.timestep)):
            of_step = None if fresh is None else fresh[:, index]
            carry = self._jit_step(unet, carry, context, begin, self._programs.row(index), of_step)
        last = {
            part: self._params[part] for part in (self._model.decoder_part, *self._checker_params)
        }
        return carry[0], *self._jit_finish(last, carry[0])

    def _explained(self, error: Exception) -> Exception:
        """The error to raise for one of the device's."""
        if "RESOURCE_EXHAUSTED" not in str(error):
            return error
        if self.batch_size == len(self._rows.mesh.devices):
            return UserError(
                f"out of device memory with one image of {self._programs.image_size} pixels per "
                "device. Try bfloat16 or a smaller image_size."
            )
        return UserError(
            f"out of device memory with batch_size={self.batch_size}. "
            f"Try batch_size={self.batch_size // 2}."
        )
