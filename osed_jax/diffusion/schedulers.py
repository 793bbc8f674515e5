"""Samplers of a diffusion model, as tables of numbers.

A noisy latent is ``z_t = alpha_t z_0 + sigma_t noise`` (see `noise_schedule`). DDIM
(Song et al. 2021, eq. 12), Euler on the probability-flow equation (Karras et al. 2022,
algorithm 1 without churn) and DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2) are then one and the
same update,

    z' = alpha' x + sigma' e + correction (x - x_previous),

with `x` and `e` the data and the noise that the model's prediction stands for. They differ in the
noise levels they visit, and in the correction, which only DPM-Solver++ has. So a sampler is a
`Steps` table, made here once in float64 numpy, and `advance` runs any of them. The two samplers of
consistency models, LCM (Luo et al. 2023, algorithm 3) and TCD (Zheng et al. 2024, algorithm 4),
mix fresh noise into the latents after every step but the last.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from osed_jax.config.choices import SCHEDULERS
from osed_jax.diffusion.noise_schedule import NoiseSchedule
from osed_jax.errors import UserError

_FEW_STEPS = 4
# Samplers for models (or LoRA files) trained to jump along the steps of another sampler.
_CONSISTENCY = ("lcm", "tcd")
_ORIGINAL_STEPS = 50  # of that other sampler, where the configuration does not say
_DATA_DEVIATION = 0.5  # of LCM's boundary condition (Luo et al. 2023, eq. 9), as is the next
_TIME_SCALING = 10.0
_TCD_STOCHASTICITY = 0.3  # gamma of Zheng et al. 2024; the default of diffusers' TCDScheduler


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
        skip: Weight of the latents before the step (LCM only).
        fresh: Weight of fresh unit noise (LCM and TCD only).
    """

    timestep: Any
    alpha: Any
    sigma: Any
    next_alpha: Any
    next_sigma: Any
    correction: Any
    clip: Any
    skip: Any = 0.0
    fresh: Any = 0.0


def sampling_steps(schedule: NoiseSchedule, scheduler: str, steps: int) -> tuple[float, Steps]:
    """The table of one sampler.

    Args:
        schedule: The model's noise levels.
        scheduler: `ddim`, `dpmsolver++` (second order, midpoint, multistep), `euler`, `lcm` or
            `tcd`.
        steps: Model evaluations from noise to image.

    Returns:
        The standard deviation of the latents to start from, and the steps.

    Raises:
        UserError: An unknown scheduler, one that the model was not made for, or a number of steps
            that the schedule cannot be cut into.
    """
    if scheduler not in SCHEDULERS:
        raise UserError(f"scheduler={scheduler!r}; choose one of: {', '.join(SCHEDULERS)}.")
    own = schedule.config.get("_class_name", "").removesuffix("Scheduler").lower()
    if own in _CONSISTENCY and scheduler != own:
        raise UserError(
            f"scheduler={scheduler!r}, but the model was made for {own!r} (scheduler_config.json). "
            f"Set scheduler={own}."
        )
    if scheduler in _CONSISTENCY:
        return 1.0, (_lcm if scheduler == "lcm" else _tcd)(schedule, steps)
    most = schedule.num_train_timesteps - (scheduler == "dpmsolver++")
    if not 1 <= steps <= most:
        raise UserError(f"steps={steps}; the scheduler {scheduler!r} takes 1 to {most} steps.")
    if scheduler == "ddim":
        return 1.0, _ddim(schedule, steps)
    if scheduler == "dpmsolver++":
        return 1.0, _dpm_solver(schedule, steps)
    return _euler(schedule, steps)


def first_steps(steps: int, strength: Sequence[float]) -> np.ndarray:
    """The steps at which images of these strengths begin, int [N]; rounded as in diffusers.

    Raises:
        UserError: A strength that leaves no step, or is above 1.
    """
    taken = np.asarray([int(steps * share) for share in strength])
    if ((taken < 1) | (taken > steps)).any():
        raise UserError(
            f"strength={min(strength):g} to {max(strength):g} with steps={steps}: each needs at "
            f"least one step, and at most all; choose {1 / steps:.2g} to 1."
        )
    return steps - taken


def few_steps_warning(config: Mapping[str, Any], scheduler: str, steps: int) -> str | None:
    """Models that make images in 1 to 4 steps begin at the last time (Lin et al. 2023)."""
    spacing = config.get("timestep_spacing", "not given")
    if steps > _FEW_STEPS or spacing == "trailing" or scheduler in _CONSISTENCY:
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


def _lcm(schedule: NoiseSchedule, steps: int) -> Steps:
    times = _consistency_times(schedule, steps)
    levels = schedule.alphas_cumprod[times]
    table = _table(times, levels, np.append(levels[1:], 1.0))
    scaled = times * schedule.config.get("timestep_scaling", _TIME_SCALING)
    length = np.hypot(scaled, _DATA_DEVIATION)
    return table._replace(
        next_alpha=(table.next_alpha * scaled / length).astype(np.float32),
        skip=(table.next_alpha * (_DATA_DEVIATION / length) ** 2).astype(np.float32),
        next_sigma=np.zeros(steps, np.float32),
        fresh=table.next_sigma,
    )


def _tcd(schedule: NoiseSchedule, steps: int) -> Steps:
    times = _consistency_times(schedule, steps)
    following = np.append(times[1:], 0)
    landing = np.floor((1 - _TCD_STOCHASTICITY) * following).astype(int)
    levels = schedule.alphas_cumprod
    table = _table(times, levels[times], levels[landing])
    # From where it lands, with less noise than wanted, fresh noise leads to the next time.
    kept = levels[following] / levels[landing]
    kept[-1] = 1.0
    return table._replace(
        next_alpha=(table.next_alpha * np.sqrt(kept)).astype(np.float32),
        next_sigma=(table.next_sigma * np.sqrt(kept)).astype(np.float32),
        fresh=np.sqrt(1 - kept).astype(np.float32),
    )


def _consistency_times(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Times visited by LCM and TCD, descending, int `[S]`: some of the original sampler's."""
    original = schedule.config.get("original_inference_steps", _ORIGINAL_STEPS)
    if not 1 <= steps <= original:
        raise UserError(f"steps={steps}; consistency models take 1 to {original} steps.")
    width = schedule.num_train_timesteps // original
    times = np.arange(1, original + 1)[::-1] * width - 1
    return times[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)]


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
        np.zeros(len(times)),
        np.zeros(len(times)),
    )
    return Steps(*(np.asarray(column, np.float32) for column in columns))


def advance(
    step: Steps,
    latents: jax.Array,
    prediction: jax.Array,
    previous_data: jax.Array,
    prediction_type: str,
    fresh: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of any sampler.

    Args:
        step: One row of a table, scalars.
        latents: float32 `[B, h, w, c]`, noise level `step.alpha`, `step.sigma`.
        prediction: The model's answer, float32, the same shape.
        previous_data: The data prediction of the step before (any value in the first step).
        prediction_type: One of `PREDICTION_TYPES`.
        fresh: Unit noise, the same shape, for the tables that have a weight for it.

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
    following = step.next_alpha * data + step.next_sigma * noise
    if fresh is not None:
        following += step.skip * latents + step.fresh * fresh
    return following + step.correction * (data - previous_data), data
