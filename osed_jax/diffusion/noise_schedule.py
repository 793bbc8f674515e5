"""The noise levels that a diffusion model was trained on, from its `scheduler_config.json`.

A noisy latent is ``z_t = alpha_t z_0 + sigma_t noise`` with ``alpha_t² + sigma_t² = 1``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from osed_jax.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# What a diffusers configuration means where it leaves a key out. Two defaults deviate from
# diffusers' DDIM: latents are not bounded by 1, so they are clipped only where a model says so
# (its Stable Diffusion pipeline forces the same), and the last step ends at the first training
# step's noise level, as the models' own training code does.
_DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": False,
}
# Settings that change what a model was trained to undo, or its last step; following another value
# is not written.
_ONLY: Mapping[str, Any] = {
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
}
# Classes whose noise is that of this file. What a model was trained with is the same in all.
_CLASSES = {
    *("DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LMSDiscrete", "HeunDiscrete"),
    *("EulerDiscrete", "EulerAncestralDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "DPMSolverSDE", "DEISMultistep"),
    *("UniPCMultistep", "LCM", "TCD"),
}


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels a model was trained on.

    Attributes:
        config: The model's scheduler configuration, diffusers' keys, defaults filled in.
        alphas_cumprod: float64 `[T]`, ``alpha_t²`` (Ho et al. 2020).
    """

    config: Mapping[str, Any]
    alphas_cumprod: np.ndarray

    @property
    def prediction_type(self) -> str:
        """What the model predicts: `epsilon`, `v_prediction` or `sample`."""
        return self.config["prediction_type"]

    @property
    def num_train_timesteps(self) -> int:
        """The number of noise levels, T."""
        return len(self.alphas_cumprod)

    def add_noise(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """Latents `[B, h, w, c]` with `noise` mixed in at `timesteps` (int `[B]`, 0 to T-1)."""
        alpha, sigma = self._shares(timesteps)
        return alpha * latents + sigma * noise

    def target(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """What the model should predict for `add_noise(latents, noise, timesteps)`."""
        alpha, sigma = self._shares(timesteps)
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        return alpha * noise - sigma * latents  # Salimans & Ho 2022, appendix D

    def _shares(self, timesteps: jax.Array) -> tuple[jax.Array, jax.Array]:
        alpha = np.sqrt(self.alphas_cumprod).astype(np.float32)
        sigma = np.sqrt(1 - self.alphas_cumprod).astype(np.float32)
        pick = lambda values: jnp.asarray(values)[timesteps][:, None, None, None]  # noqa: E731
        return pick(alpha), pick(sigma)


def noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """Read a `scheduler_config.json`.

    Only what describes the model's training is followed (betas, prediction type) and how its time
    steps are spread; the solver settings of the configuration's own class are not.

    Args:
        config: The file's contents.

    Raises:
        UserError: A beta schedule, prediction type or setting that is not supported.
    """
    name = config.get("_class_name", "DDIMScheduler")
    if name.removeprefix("Flax").removesuffix("Scheduler") not in _CLASSES:
        raise UserError(
            f"scheduler_config.json is of {name}, which uses another noise or another update; "
            "choose another model."
        )
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise UserError(
                f"scheduler_config.json has {key}={config[key]!r}; only {value!r} is supported. "
                "Choose another model."
            )
    config = {**_DEFAULTS, **config}
    if config["prediction_type"] not in PREDICTION_TYPES:
        raise UserError(
            f"scheduler_config.json has prediction_type={config['prediction_type']!r}; supported: "
            f"{', '.join(PREDICTION_TYPES)}. Choose another model."
        )
    return NoiseSchedule(config, np.cumprod(1 - _betas(config)))


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    """Noise added by each of the T training steps, float64 `[T]`."""
    kind, count = config["beta_schedule"], config["num_train_timesteps"]
    start, end = config["beta_start"], config["beta_end"]
    if kind == "linear":
        return np.linspace(start, end, count)
    if kind == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17
        level = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - level[1:] / level[:-1], 0.999)
    raise UserError(
        f"scheduler_config.json has beta_schedule={kind!r}; supported: linear, scaled_linear, "
        "squaredcos_cap_v2. Choose another model."
    )
