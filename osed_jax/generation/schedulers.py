"""Noise schedules and samplers of a diffusion model, as tables of numbers.

A noisy latent is ``z_t = alpha_t z_0 + sigma_t noise`` with ``alpha_t² + sigma_t² = 1``. DDIM
(Song et al. 2021, eq. 12), Euler on the probability-flow equation (Karras et al. 2022,
algorithm 1 without churn) and DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2) are then one and the
same update,

    z' = alpha' x + sigma' e + correction (x - x_previous),

with `x` and `e` the data and the noise that the model's prediction stands for. They differ in the
noise levels they visit, and in the correction, which only DPM-Solver++ has. So a sampler is a
`Steps` table, made here once in float64 numpy, and `advance` runs any of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osed_jax.choices import SCHEDULERS
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
_FEW_STEPS = 4
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
    "UniPCMultistep",
}


class Steps(NamedTuple):
    """One sampler's steps, a row each, float32 `[S]`; `S` rows from pure noise to the image.

    Attributes:
        timestep: The time that the model is told, in training steps (Euler's are fractional).
        alpha: Data share of the latents before the step.
        sigma: Noise share of the latents before the step.
        next_alpha: Data share after the step.
        next_sigma: Noise share after the step.
        correction: Weight of the last change of the data prediction (DPM-Solver++ only).
        clip: The data prediction is limited to ± this (DDIM with `clip_sample`), else infinity.
    """

    timestep: Any
    alpha: Any
    sigma: Any
    next_alpha: Any
    next_sigma: Any
    correction: Any
    clip: Any


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
            f"scheduler_config.json is of {name}, whose noise or update is another one; choose "
            "another model."
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


def sampling_steps(schedule: NoiseSchedule, scheduler: str, steps: int) -> tuple[float, Steps]:
    """The table of one sampler.

    Args:
        schedule: The model's noise levels.
        scheduler: `ddim`, `dpmsolver++` (second order, midpoint, multistep) or `euler`.
        steps: Model evaluations from noise to image.

    Returns:
        The standard deviation of the latents to start from, and the steps.

    Raises:
        UserError: An unknown scheduler, or a number of steps that the schedule cannot be cut into.
    """
    most = schedule.num_train_timesteps - (scheduler == "dpmsolver++")
    if not 1 <= steps <= most:
        raise UserError(f"steps={steps}; the scheduler {scheduler!r} takes 1 to {most} steps.")
    if scheduler == "ddim":
        return 1.0, _ddim(schedule, steps)
    if scheduler == "dpmsolver++":
        return 1.0, _dpm_solver(schedule, steps)
    if scheduler == "euler":
        return _euler(schedule, steps)
    raise UserError(f"scheduler={scheduler!r}; choose one of: {', '.join(SCHEDULERS)}.")


def few_steps_warning(config: Mapping[str, Any], steps: int) -> str | None:
    """Models that make images in 1 to 4 steps begin at the last time (Lin et al. 2023)."""
    spacing = config.get("timestep_spacing", "not given")
    if steps > _FEW_STEPS or spacing == "trailing":
        return None
    return (
        f"warning: steps={steps}, and timestep_spacing in scheduler_config.json is {spacing}; "
        "models that make images in so few steps need trailing, others need more steps"
    )


def _timesteps(schedule: NoiseSchedule, spacing: str, steps: int, ends: int) -> np.ndarray:
    """The times visited, descending, float64 (Lin et al. 2023, table 2).

    Args:
        schedule: The model's noise levels.
        spacing: `leading`, `linspace` or `trailing`.
        steps: How many.
        ends: 1 where the grid also has a point at time 0 that is not visited, else 0.
    """
    count = schedule.num_train_timesteps
    if spacing == "linspace":
        times: np.ndarray = np.linspace(0, count - 1, steps + ends)[::-1][:steps]
    elif spacing == "leading":
        times = np.arange(steps + ends)[::-1][:steps] * float(count // (steps + ends))
        times += schedule.config["steps_offset"]
    elif spacing == "trailing":
        times = np.round(count - np.arange(steps) * (count / steps)) - 1
    else:
        raise UserError(
            f"scheduler_config.json has timestep_spacing={spacing!r}; supported: leading, "
            "linspace, trailing. Choose another model."
        )
    if times[0] > count - 1:
        raise UserError(
            f"steps={steps} with steps_offset={schedule.config['steps_offset']} starts at time "
            f"{times[0]:.0f}, beyond the last of the model's {count}. Take fewer steps."
        )
    return times


def _ddim(schedule: NoiseSchedule, steps: int) -> Steps:
    config, levels = schedule.config, schedule.alphas_cumprod
    spacing = config.get("timestep_spacing", "leading")
    times = np.round(_timesteps(schedule, spacing, steps, ends=0)).astype(int)
    # diffusers steps back by T // steps whatever the spacing; followed, so that images agree.
    previous = times - len(levels) // steps
    last = 1.0 if config["set_alpha_to_one"] else levels[0]
    next_level = np.where(previous >= 0, levels[np.maximum(previous, 0)], last)
    clip = config["clip_sample_range"] if config["clip_sample"] else np.inf
    return _table(times, levels[times], next_level, clip=clip)


def _euler(schedule: NoiseSchedule, steps: int) -> tuple[float, Steps]:
    spacing = schedule.config.get("timestep_spacing", "linspace")
    times = _timesteps(schedule, spacing, steps, ends=0)
    ratio = np.sqrt(1 / schedule.alphas_cumprod - 1)
    levels = 1 / (1 + np.interp(times, np.arange(len(ratio)), ratio) ** 2)
    table = _table(times, levels, np.append(levels[1:], 1.0))
    # Karras' latents are z / alpha and start with deviation sigma / alpha; diffusers starts
    # "leading" grids, which do not begin at the last time, with the data's deviation added.
    return 1.0 if spacing == "leading" else float(table.sigma[0]), table


def _dpm_solver(schedule: NoiseSchedule, steps: int) -> Steps:
    spacing = schedule.config.get("timestep_spacing", "linspace")
    times = np.round(_timesteps(schedule, spacing, steps, ends=1)).astype(int)
    levels = schedule.alphas_cumprod[times]
    table = _table(times, levels, np.append(levels[1:], 1.0))
    log_ratio = 0.5 * np.log(levels / (1 - levels))  # lambda, half the log signal-to-noise ratio
    width = np.diff(log_ratio)
    # The first step has nothing to correct with; the last, to zero noise, is of first order.
    weight = np.zeros(steps)
    weight[1:-1] = 0.5 * width[1:] / width[:-1]
    size = table.next_alpha - table.next_sigma * table.alpha / table.sigma
    return table._replace(correction=(size * weight).astype(np.float32))


def _table(
    times: np.ndarray, levels: np.ndarray, next_levels: np.ndarray, clip: float = np.inf
) -> Steps:
    """Steps from `levels` to `next_levels`, both ``alpha²`` `[S]`."""
    columns = (
        times,
        np.sqrt(levels),
        np.sqrt(1 - levels),
        np.sqrt(next_levels),
        np.sqrt(1 - next_levels),
        np.zeros(len(times)),
        np.full(len(times), clip),
    )
    return Steps(*(np.asarray(column, np.float32) for column in columns))


def advance(
    step: Steps,
    latents: jax.Array,
    prediction: jax.Array,
    previous_data: jax.Array,
    prediction_type: str,
) -> tuple[jax.Array, jax.Array]:
    """One step of any sampler.

    Args:
        step: One row of a table, scalars.
        latents: float32 `[B, h, w, c]`, noise level `step.alpha`, `step.sigma`.
        prediction: The model's answer, float32, the same shape.
        previous_data: The data prediction of the step before (any value in the first step).
        prediction_type: One of `PREDICTION_TYPES`.

    Returns:
        The latents after the step, and this step's data prediction.
    """
    alpha, sigma = step.alpha, step.sigma
    if prediction_type == "epsilon":
        data, noise = (latents - sigma * prediction) / alpha, prediction
    elif prediction_type == "v_prediction":
        data = alpha * latents - sigma * prediction
        noise = alpha * prediction + sigma * latents
    else:
        data, noise = prediction, (latents - alpha * prediction) / sigma
    data = jnp.clip(data, -step.clip, step.clip)
    latents = step.next_alpha * data + step.next_sigma * noise
    return latents + step.correction * (data - previous_data), data
