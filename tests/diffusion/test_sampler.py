"""Whole sampling loops against PyTorch's pipeline, and what an image may not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from osed_jax.diffusion import schedulers, stable_diffusion
from osed_jax.diffusion.resize import resize
from osed_jax.diffusion.sampler import Sampler
from osed_jax.errors import UserError
from tests.oracles import make_formats_oracle as formats
from tests.oracles import make_stable_diffusion_oracle as oracle

SETTINGS = {
    "batch_size": 2,
    "image_size": 16,
    "size": 16,
    "steps": 3,
    "scheduler": "ddim",
    "guidance_scale": oracle.GUIDANCE,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    manifest = oracle.manifest()
    folders = {name: tmp_path_factory.mktemp(name) / "model" for name in oracle.MODELS}
    for name, folder in folders.items():
        oracle.write_model(folder, oracle.MODELS[name], manifest["shapes"][name])
    return {name: stable_diffusion.load(str(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def model(models):
    return models["epsilon"]


def last(channels_first):
    return np.moveaxis(channels_first, 1, -1)


def one_device(model, **changes):
    return Sampler(model, devices=jax.devices()[:1], **{**SETTINGS, **changes})


def make(sampler, indices, **changes):
    """Images of class 7 with these indices, in batches of the sampler's size."""
    starts = range(0, len(indices), sampler.batch_size)
    batches = [indices[i : i + sampler.batch_size] for i in starts]
    images = [
        sampler(["a car"] * len(b), **{"seed": 5, "labels": [7] * len(b), "indices": b, **changes})
        for b in batches
    ]
    return np.concatenate([batch.image for batch in images])


@pytest.mark.parametrize("guidance", [1.0, oracle.GUIDANCE])
@pytest.mark.parametrize("prediction", list(oracle.MODELS))
def test_whole_loops_agree_with_the_pytorch_pipeline(models, prediction, guidance):
    model = models[prediction]
    with np.load(oracle.DATA / "stable_diffusion.npz") as file:
        recorded = {key: file[key] for key in file.files if key.startswith(prediction)}
    negative = oracle.NEGATIVE if guidance > 1 else ""
    for scheduler in oracle.SCHEDULERS:
        sampler = one_device(
            model, scheduler=scheduler, steps=oracle.STEPS, guidance_scale=guidance
        )
        first = np.moveaxis(oracle.noise((2, 4, 8, 8), 0), 1, -1)
        latents, image = sampler.from_noise(first, oracle.PROMPTS, negative)
        name = f"{prediction}/{scheduler}/{guidance:g}"
        expected = np.moveaxis(recorded[f"{name}/latents"], 1, -1)
        np.testing.assert_allclose(latents, expected, atol=1e-3)
        expected = np.moveaxis(recorded[f"{name}/image"], 1, -1)
        np.testing.assert_allclose(image.image, np.round(255 * expected), atol=1)


@pytest.mark.parametrize(("scheduler", "one_program"), [("lcm", False), ("tcd", True)])
def test_loops_of_consistency_models_agree_with_the_pytorch_pipeline(
    tmp_path, scheduler, one_program
):
    formats.write_model(tmp_path / "model")
    model = stable_diffusion.load(str(tmp_path / "model"))
    first, shape = last(oracle.noise((2, 4, 8, 8), 0)), (2, 4, 8, 8)
    fresh = np.stack([last(formats.fresh(shape, i)) for i in range(formats.STEPS)], 1)
    sampler = one_device(model, scheduler=scheduler, steps=formats.STEPS, one_program=one_program)
    latents, _ = sampler.from_noise(first, oracle.PROMPTS, oracle.NEGATIVE, fresh)
    with np.load(formats.FILE) as recorded:
        expected = last(recorded[f"{scheduler}/latents"])
    np.testing.assert_allclose(latents, expected, atol=3e-4, rtol=1e-5)  # they reach 58


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_images_do_not_depend_on_the_batch_size(model, scheduler):
    """Bit by bit on CPU when this was written; another compiler may round otherwise."""
    whole = make(one_device(model, batch_size=8, scheduler=scheduler), [3, 1, 4, 15, 9, 2, 6, 5])
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8
    for batch_size in (1, 3):
        sampler = one_device(model, batch_size=batch_size, scheduler=scheduler)
        parts = make(sampler, [3, 1, 4, 15, 9, 2, 6, 5])
        np.testing.assert_allclose(parts.astype(int), whole.astype(int), atol=1)


def test_images_do_not_depend_on_the_devices(model):
    assert jax.local_device_count() == 4
    one = make(one_device(model, batch_size=8), list(range(8)))
    four = Sampler(model, **SETTINGS | {"batch_size": 6})
    assert four.batch_size == 8, "rounded up to the devices"
    four = make(four, list(range(8)))
    np.testing.assert_allclose(one.astype(int), four.astype(int), atol=1)


def test_a_resumed_range_is_the_whole_range(model):
    sampler = one_device(model)
    whole = make(sampler, list(range(6)))
    resumed = np.concatenate([make(sampler, [0, 1, 2]), make(sampler, [3, 4, 5])])
    np.testing.assert_allclose(resumed.astype(int), whole.astype(int), atol=1)


def test_seed_class_and_index_each_make_another_image(model):
    sampler = one_device(model)
    first = make(sampler, [0])
    others = [make(sampler, [1]), make(sampler, [0], seed=6), make(sampler, [0], labels=[8])]
    assert all(np.abs(first.astype(int) - other).max() > 10 for other in others)
    np.testing.assert_array_equal(first, make(sampler, [0]))


def test_one_program_makes_the_same_images(model):
    loop, program = one_device(model), one_device(model, one_program=True)
    np.testing.assert_allclose(make(loop, [0, 1]).astype(int), make(program, [0, 1]), atol=1)


def test_bfloat16_stays_near_float32(model):
    half = stable_diffusion.load(model.name, dtype=jnp.bfloat16)
    exact, rough = make(one_device(model), [0, 1]), make(one_device(half), [0, 1])
    difference = np.abs(exact.astype(int) - rough)
    assert 0 < difference.mean() < 3


def test_no_guidance_costs_half(model):
    without, given = (one_device(model, guidance_scale=scale) for scale in (1.0, 2.0))
    assert 1.95 < given.step_flops() / without.step_flops() < 2.05


def test_negative_prompt_steers_and_is_refused_without_guidance(model):
    sampler = one_device(model, guidance_scale=4.0)
    assert (make(sampler, [0]) != make(sampler, [0], negative_prompt="blurry")).any()
    with pytest.raises(UserError, match="no effect with guidance_scale=1"):
        make(one_device(model, guidance_scale=1.0), [0], negative_prompt="blurry")


def test_full_size_images_are_kept_only_where_asked(model):
    arguments = (["a car"] * 2,), {"seed": 0, "labels": [0, 0], "indices": [0, 1]}
    small = one_device(model, size=5)(*arguments[0], **arguments[1])
    assert small.image.shape == (2, 5, 5, 3) and small.full_size is None
    both = one_device(model, size=8, keep_full_size=True)(*arguments[0], **arguments[1])
    assert both.full_size.shape == (2, 16, 16, 3) and both.full_size.dtype == np.uint8
    blocks = both.full_size.reshape(2, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(both.image, blocks, atol=1)


@pytest.mark.parametrize("method", ["area", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [32, 20, 7])
def test_reductions_are_those_of_pillow(method, size):
    image = np.random.default_rng(0).random((1, 64, 64, 1), np.float32)
    filters = {"area": "BOX", "bicubic": "BICUBIC", "lanczos": "LANCZOS"}
    # Pillow's box weighs whole pixels only, so it is exact just where sizes divide.
    filtering = Image.Resampling[filters[method]]
    pillow = Image.fromarray(image[0, :, :, 0]).resize((size, size), filtering)
    ours = np.asarray(resize(jnp.asarray(image), size, method))[0, :, :, 0]
    if method == "area" and 64 % size:
        fine = image[0, :, :, 0].repeat(size, 0).repeat(size, 1)
        expected = fine.reshape(size, 64, size, 64).mean((1, 3))
    else:
        expected = np.asarray(pillow)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 30}, "image_size=30; it must be a multiple of 4"),
        ({"size": 17}, "size=17; choose 1 to image_size=16"),
        ({"resize_method": "nearest"}, "choose one of: area, bicubic, lanczos"),
        ({"guidance_scale": 0.5}, "guidance_scale=0.5; choose 1"),
        ({"batch_size": 0}, "batch_size=0; choose 1 or more"),
        ({"scheduler": "pndm"}, "choose one of: ddim"),
    ],
)
def test_wrong_settings_say_what_is_allowed(model, change, message):
    with pytest.raises(UserError, match=message):
        one_device(model, **change)


def test_images_that_are_no_numbers_stop_with_the_reason(model):
    sampler = one_device(model, steps=1)
    bad = jax.tree.map(lambda leaf: leaf, model.params)
    bad["vae"]["decoder"]["conv_out"]["bias"] = jnp.full(3, jnp.nan)
    sampler.use(bad)
    with pytest.raises(UserError, match="2 of 2 images have values that are not finite numbers"):
        sampler(["cat", "dog"], seed=0, labels=[0, 1], indices=[0, 0])


def test_few_steps_ask_for_the_spacing_they_need():
    leading, trailing = ({"timestep_spacing": name} for name in ("leading", "trailing"))
    assert schedulers.few_steps_warning(trailing, "euler", 1) is None
    assert schedulers.few_steps_warning({}, "euler", 5) is None
    assert schedulers.few_steps_warning(leading, "lcm", 4) is None
    assert "is leading; models" in schedulers.few_steps_warning(leading, "euler", 4)


def test_a_batch_beyond_memory_is_explained_with_the_size_to_try(model):
    """The attention of 2048 x 2048 latents alone takes hundreds of tebibytes."""
    sampler = one_device(model, batch_size=2, image_size=4096, steps=1, guidance_scale=1.0)
    with pytest.raises(UserError, match=r"out of device memory .* Try batch_size=1"):
        sampler(["cat"], seed=0, labels=[0], indices=[0])
