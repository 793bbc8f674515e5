"""Schedules and samplers against PyTorch's diffusers (recorded) and their definitions."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from osed_jax.diffusion.noise_schedule import noise_schedule
from osed_jax.diffusion.schedulers import Steps, advance, sampling_steps
from osed_jax.errors import UserError
from tests.oracles import make_formats_oracle as formats
from tests.oracles import make_stable_diffusion_oracle as oracle

RECORDED = oracle.DATA / "stable_diffusion.npz"
V14 = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def run_closed_form(config, scheduler, steps):
    schedule = noise_schedule(config)
    deviation, table = sampling_steps(schedule, scheduler, steps)
    latents = deviation * oracle.noise((8,), 2)
    previous = jnp.zeros(8)
    for step, row in enumerate(map(Steps._make, zip(*table, strict=True))):
        prediction = oracle.closed_form_model(latents, row.timestep)
        fresh = formats.fresh((8,), step) if scheduler in formats.CONSISTENCY else None
        latents, previous = advance(
            row, latents, prediction, previous, schedule.prediction_type, fresh
        )
    return np.asarray(latents)


@pytest.mark.parametrize("scheduler", oracle.SCHEDULERS)
def test_every_schedule_agrees_with_pytorch(scheduler):
    with np.load(RECORDED) as recorded:
        expected = recorded[f"schedules/{scheduler}"]
    cases = list(itertools.product(oracle.schedule_configs(), oracle.SCHEDULE_STEPS))
    assert len(cases) == len(expected)
    for (config, steps), want in zip(cases, expected, strict=True):
        # The cosine schedule magnifies latents, and PyTorch's float32 rounding, 4e4-fold.
        cosine = config["beta_schedule"] == "squaredcos_cap_v2"
        tolerance = 2e-4 * max(1, np.abs(want).max() / 20) if cosine else 2e-4
        difference = np.abs(run_closed_form(config, scheduler, steps) - want).max()
        assert difference < tolerance, (config, steps)


@pytest.mark.parametrize("scheduler", formats.CONSISTENCY)
def test_samplers_of_consistency_models_agree_with_pytorch(scheduler):
    with np.load(formats.FILE) as recorded:
        expected = recorded[f"schedules/{scheduler}"]
    cases = list(itertools.product(formats.consistency_configs(), formats.CONSISTENCY_STEPS))
    assert len(cases) == len(expected)
    for (config, steps), want in zip(cases, expected, strict=True):
        found = run_closed_form(config, scheduler, steps)
        np.testing.assert_allclose(found, want, atol=1e-4, err_msg=f"{config}, {steps}")


def test_a_model_made_for_one_sampler_is_sampled_by_no_other():
    schedule = noise_schedule({**V14, "_class_name": "LCMScheduler"})
    assert len(sampling_steps(schedule, "lcm", 4)[1].timestep) == 4
    with pytest.raises(UserError, match="scheduler='ddim', but the model was made for 'lcm'"):
        sampling_steps(schedule, "ddim", 4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", oracle.SCHEDULERS)
def test_a_perfect_model_is_solved_exactly(scheduler, prediction_type):
    """With a model that knows the clean latents, every sampler ends at them."""
    config = {**V14, "prediction_type": prediction_type, "set_alpha_to_one": True}
    schedule = noise_schedule(config)
    clean, noise = oracle.noise((1, 4, 4, 4), 3), oracle.noise((1, 4, 4, 4), 4)
    _, table = sampling_steps(schedule, scheduler, 7)
    latents, previous = table.alpha[0] * clean + table.sigma[0] * noise, clean
    for row in map(Steps._make, zip(*table, strict=True)):
        implied = (latents - row.alpha * clean) / row.sigma
        velocity = row.alpha * implied - row.sigma * clean
        answer = {"epsilon": implied, "v_prediction": velocity, "sample": clean}[prediction_type]
        latents, previous = advance(row, latents, answer, previous, prediction_type)
    np.testing.assert_allclose(latents, clean, atol=2e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_training_target_and_noise_lead_back_to_the_latents(prediction_type):
    schedule = noise_schedule({**V14, "prediction_type": prediction_type})
    latents, noise = oracle.noise((3, 2, 2, 4), 5), oracle.noise((3, 2, 2, 4), 6)
    timesteps = jnp.array([0, 500, 999])
    noisy = schedule.add_noise(latents, noise, timesteps)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    level = np.cumprod(1 - betas)[np.asarray(timesteps)].reshape(3, 1, 1, 1)
    np.testing.assert_allclose(noisy, level**0.5 * latents + (1 - level) ** 0.5 * noise, atol=1e-6)
    target = schedule.target(latents, noise, timesteps)
    for row in range(3):
        alpha, sigma = np.sqrt(level[row]), np.sqrt(1 - level[row])
        step = Steps(0, alpha, sigma, np.float32(1), np.float32(0), np.float32(0), np.inf)
        data, _ = advance(step, noisy[row], target[row], latents[row], prediction_type)
        np.testing.assert_allclose(data, latents[row], atol=1e-4)


@pytest.mark.parametrize(
    ("config", "scheduler", "steps", "message"),
    [
        ({}, "pndm", 5, "choose one of: ddim, dpmsolver\\+\\+, euler"),
        ({}, "ddim", 0, "takes 1 to 1000 steps"),
        ({}, "dpmsolver++", 1000, "takes 1 to 999 steps"),
        ({}, "lcm", 51, "consistency models take 1 to 50 steps"),
        ({"steps_offset": 1}, "ddim", 1000, "beyond the last"),
        ({"timestep_spacing": "odd"}, "euler", 5, "supported: leading, linspace, trailing"),
        ({"beta_schedule": "sigmoid"}, "euler", 5, "supported: linear, scaled_linear"),
        ({"prediction_type": "flow"}, "euler", 5, "supported: epsilon, v_prediction"),
        ({"rescale_betas_zero_snr": True}, "euler", 5, "rescale_betas_zero_snr=True"),
    ],
)
def test_wrong_settings_say_what_is_allowed(config, scheduler, steps, message):
    with pytest.raises(UserError, match=message):
        sampling_steps(noise_schedule(config), scheduler, steps)
