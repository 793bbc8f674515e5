"""Fine-tuning: the loss and averages by hand, exact resume, and the test set left alone."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from PIL import Image
from safetensors.numpy import load_file

from configs import digits
from osed_jax.commands.finetune import choose_images, finetune
from osed_jax.config.build import check
from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.finetune_step import (
    create_state,
    diffusion_loss,
    ema_decay_at,
    make_finetune_step,
    make_optimizer,
    unet_params,
)
from osed_jax.diffusion.lora import init_lora, merge
from osed_jax.diffusion.model_files import saving
from osed_jax.diffusion.noise_schedule import noise_schedule
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.generation import miniature
from tests.command_line import run_killed, run_well
from tests.oracles import make_stable_diffusion_oracle as oracle

SMALL = {
    "num_steps": 6,
    "warmup_steps": 2,
    "batch_size": 8,
    "autoencoder_steps": 4,
    "log_every_steps": 1,
    "checkpoint_every_steps": 2,
    "sample_every_steps": 3,
    "samples_per_class": 2,
}
UNET = "unet/diffusion_pytorch_model.safetensors"


def small_config(output_dir, **changes):
    config = digits.get_config("osed")
    config.finetune.update({**SMALL, "output_dir": str(output_dir), **changes})
    return config


@pytest.fixture(scope="module")
def model():
    return miniature.build(8, seed=0)


@pytest.fixture(scope="module")
def predict(model):
    return jax.jit(model.denoise)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch_of(model, count=4):
    image = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return {"image": image, "tokens": model.tokenize([f"a digit {i}" for i in range(count)])}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_loss_is_that_of_numpy(model, predict, kind):
    config = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    schedule = noise_schedule({**config, "prediction_type": kind})
    latents, noise, context = random(3, 8, 8, 4), random(3, 8, 8, 4, seed=1), random(3, 32, 32)
    times = np.asarray([0, 400, 999], np.int32)

    level = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[times].reshape(3, 1, 1, 1)
    alpha, sigma = np.sqrt(level), np.sqrt(1 - level)
    noisy = (alpha * latents + sigma * noise).astype(np.float32)
    target = noise if kind == "epsilon" else alpha * noise - sigma * latents
    unet = model.params["unet"]
    prediction = np.asarray(predict(unet, noisy, times, context))
    expected = np.square(prediction - target).mean()

    other = dataclasses.replace(model, schedule=schedule)
    loss_fn = jax.jit(lambda *arrays: diffusion_loss(other, unet, *arrays))
    assert float(loss_fn(latents, context, noise, times)) == pytest.approx(expected, rel=1e-4)


def test_merged_low_rank_updates_are_the_unmerged_ones(model, predict):
    unet = model.params["unet"]
    factors = init_lora(unet, rank=2, seed=0)
    assert all(not f["up"].any() for f in factors.values()), "changes nothing at first"
    assert {name.split("/")[-1] for name in factors} == {"to_q", "to_k", "to_v", "to_out_0"}
    factors = jax.tree.map(lambda x: x + 0.1 * random(*x.shape, seed=x.size), factors)
    inputs = random(2, 8, 8, 4), np.asarray([10, 600], np.int32), random(2, 32, 32)
    used = set()

    def beside(call, args, kwargs, context):
        name = "/".join(context.module.path)
        if context.method_name != "__call__" or name not in factors:
            return call(*args, **kwargs)
        used.add(name)
        return call(*args, **kwargs) + args[0] @ factors[name]["down"] @ factors[name]["up"]

    with nn.intercept_methods(beside):
        unmerged = jax.jit(lambda *x: model.denoise(unet, *x))(*inputs)
    assert used == factors.keys()
    merged = predict(merge(unet, factors), *inputs)
    np.testing.assert_allclose(merged, unmerged, atol=1e-4)
    assert np.abs(merged - predict(unet, *inputs)).max() > 1e-2


def test_an_update_trains_the_factors_alone_and_averages_them(model):
    """Late in training, so that the average is not yet that of its warm-up."""
    tx = optax.sgd(0.1)
    start = create_state(init_lora(model.params["unet"], rank=1, seed=0), tx)
    update = jax.jit(
        make_finetune_step(model=model, tx=tx, image_size=8, ema_decay=0.9, lora=True, seed=3)
    )
    state, losses = start, []
    for _ in range(2):
        before = state
        state, loss = update(state, batch_of(model), model.params)
        losses.append(float(loss))
    decay = (1 + 1) / (10 + 1)
    hand = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, before.ema, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.ema, hand)
    name = next(iter(start.params))
    assert state.step == 2 and np.abs(state.params[name]["up"]).max() > 0
    assert losses[0] != losses[1], "another step draws other noise"
    again, loss = update(start, batch_of(model), model.params)
    assert float(loss) == losses[0] and again.step == 1, "the same step draws the same"
    whole = unet_params(model.params, state.params, lora=True)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), whole, model.params["unet"])
    assert sum(jax.tree.leaves(changed)) == len(start.params)


def test_the_average_forgets_the_start_and_then_keeps_to_its_decay():
    decays = [float(ema_decay_at(jnp.asarray(s), 0.99)) for s in (0, 8, 10_000)]
    np.testing.assert_allclose(decays, [0.1, 0.5, 0.99], rtol=1e-6)


def test_learning_rate_warms_up_and_falls_to_zero():
    tx = make_optimizer(learning_rate=1.0, warmup_steps=2, num_steps=6, weight_decay=0.0)
    weight = jnp.zeros(1)
    state, sizes = tx.init(weight), []
    for _ in range(7):
        update, state = tx.update(jnp.ones(1), state, weight)
        sizes.append(float(-update[0]))  # Adam's step under a constant gradient
    cosine = [0.5 * (1 + np.cos(np.pi * i / 4)) for i in range(5)]
    np.testing.assert_allclose(sizes, [0, 0.5, *cosine], atol=1e-5)


def write_images(folder: Path, seed: int) -> None:
    for c, name in enumerate(("sea_lion", "zebra")):
        (folder / name).mkdir(parents=True)
        pixels = np.random.default_rng([seed, c]).integers(0, 256, (6, 8, 8, 3), np.uint8)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def opened():
    """Paths of all files opened from now on; an audit hook sees them beneath every library."""
    paths: list[str] = []
    sys.addaudithook(lambda event, args: paths.append(str(args[0])) if event == "open" else None)
    return paths


def folder_config(tmp_path, data_dir):
    config = small_config(tmp_path / "out" / "generator", images="train", num_steps=3)
    config.dataset.update({"name": "folder", "data_dir": str(data_dir), "image_size": 8})
    config.dataset.update({"imbalance_profile": "none", "num_max": 0})
    return config


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A folder's generator, made where there is no test set at all."""
    root = tmp_path_factory.mktemp("adapted")
    write_images(root / "data" / "train", seed=0)
    config = folder_config(root, root / "data")
    return config, finetune(check(config))


def test_test_images_are_never_seen(adapted, opened, tmp_path):
    write_images(tmp_path / "data" / "train", seed=0)
    for name in ("sea_lion", "zebra"):
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        (tmp_path / "data" / "test" / name / "0.png").write_bytes(b"no image")
    config = folder_config(tmp_path, tmp_path / "data")
    config.finetune.sample_every_steps = 4  # that is, no grid
    opened.clear()
    made = finetune(check(config))
    data = [p for p in opened if p.startswith(str(tmp_path / "data"))]
    assert data and not [p for p in data if "/test" in p.removeprefix(str(tmp_path))]
    assert (made / UNET).read_bytes() == (adapted[1] / UNET).read_bytes()
    with pytest.raises(UserError, match="cannot read 2 images"):
        loading.load_split(check(config), "test", tmp_path / "cache")  # as training does


def test_images_that_are_held_out_are_not_adapted_to(tmp_path):
    config = small_config(tmp_path / "out")
    config.dataset.validation_fraction = 0.2
    whole, rows, held_out, _ = loading.load_train(check(config), tmp_path)

    def pixels(data):
        return sorted(image.tobytes() for image in data.images.take(np.arange(len(data.label))))

    chosen = []
    for images in ("train", "rest"):
        config.finetune.images = images
        chosen.append(pixels(choose_images(check(config), tmp_path)))
    train, rest = chosen
    assert train == pixels(whole.select(rows)) and len(held_out) > 200
    assert sorted(train + rest + pixels(whole.select(held_out))) == pixels(whole)


def test_the_folder_is_a_generator_that_loads(adapted):
    config, folder = adapted
    base, made = (stable_diffusion.load(str(f)) for f in (folder / "base", folder))
    assert np.abs(made.params["unet"]["conv_in"]["kernel"]).max() > 0
    same = jax.tree.map(lambda a, b: bool((a == b).all()), base.params, made.params)
    assert all(jax.tree.leaves((same["vae"], same["text_encoder"])))
    assert not any(jax.tree.leaves(same["unet"]["conv_in"]))
    assert made.vae.scaling_factor == base.vae.scaling_factor != 1
    with Image.open(folder / "samples" / "00000003.png") as grid:
        assert grid.size == (16, 16), "two images of each of two classes"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == config.finetune.num_steps


def test_low_rank_updates_in_bfloat16_are_merged_into_the_folder(adapted, tmp_path):
    base = tmp_path / "saved_by_todays_diffusers"
    oracle.write_small_model_of_today(base)
    config = adapted[0].copy_and_resolve_references()
    config.finetune.update({"base": str(base), "output_dir": str(tmp_path / "out")})
    config.finetune.update({"lora_rank": 2, "dtype": "bfloat16", "learning_rate": 0.1})
    config.finetune.sample_every_steps = 4  # that is, no grid
    made = finetune(check(config))
    before, after = load_file(base / UNET), load_file(made / UNET)
    assert {value.dtype for value in after.values()} == {np.dtype(np.float32)}
    changed = {name for name in before if (before[name] != after[name]).any()}
    projections = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    assert changed == {name for name in before if name.endswith(projections)}
    stable_diffusion.load(str(made))


def test_a_finished_folder_is_left_and_another_config_refused(adapted, capsys):
    config, folder = adapted
    before = (folder / UNET).stat().st_mtime_ns
    finetune(check(config))
    assert "finished already" in capsys.readouterr().out
    assert (folder / UNET).stat().st_mtime_ns == before
    other = config.copy_and_resolve_references()
    other.finetune.learning_rate = 0.5
    with pytest.raises(UserError, match=r"finetune\.learning_rate: 0\.0015 -> 0\.5.*output_dir"):
        finetune(check(other))


def test_a_loss_that_is_not_finite_stops(adapted, tmp_path):
    config, folder = adapted
    base = stable_diffusion.load(str(folder / "base"))
    unet = jax.tree.map(lambda x: x * jnp.nan, base.params["unet"])
    broken = dataclasses.replace(base, params={**base.params, "unet": unet})
    saving.save(broken, str(tmp_path / "broken"))
    config = config.copy_and_resolve_references()
    config.finetune.update({"base": str(tmp_path / "broken"), "output_dir": str(tmp_path / "out")})
    with pytest.raises(UserError, match=r"loss is nan at step 1; .*learning_rate"):
        finetune(check(config))
    assert not (tmp_path / "out" / "model_index.json").exists()


def test_a_killed_run_goes_on_to_the_same_bits(adapted, tmp_path):
    # With an autoencoder that is trained already, and without sample grids.
    changes = {**SMALL, "sample_every_steps": 7, "base": adapted[1] / "base"}

    def arguments(name):
        flags = [f"--config.finetune.{k}={v}" for k, v in changes.items()]
        out = f"--config.finetune.output_dir={tmp_path / name}"
        return ["--config=configs/digits.py:osed", "--mode=finetune", *flags, out]

    run_well(*arguments("whole"))
    run_killed(*arguments("killed"), at="osed_jax.experiment.checkpoint:Checkpoints.save", call=3)
    assert not (tmp_path / "killed" / "model_index.json").exists(), "it was still training"
    assert "continuing from the checkpoint of step" in run_well(*arguments("killed"))
    for part in ("unet", "vae", "text_encoder"):
        whole, killed = (
            load_file(next((tmp_path / name / part).glob("*.safetensors")))
            for name in ("whole", "killed")
        )
        assert all((whole[key] == killed[key]).all() for key in whole.keys() | killed.keys())
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / n / "metrics.jsonl").read_text().split("\n")[:-1]
        ]
        for n in ("whole", "killed")
    ]
    assert len(losses[0]) == SMALL["num_steps"] and losses[0] == losses[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": ""}, "finetune.base is ''; it must be a folder, a hub id or miniature"),
        ({"images": "test"}, "finetune.images is 'test'; it must be one of train, rest"),
        ({"ema_decay": 1.0}, "finetune.ema_decay is 1.0; it must be at least 0 and less than 1"),
        ({"text_dropout": 1.5}, "finetune.text_dropout is 1.5; it must be between 0 and 1"),
        ({"dtype": "float16"}, "one of float32, bfloat16"),
        ({"num_steps": 0}, "finetune.num_steps is 0"),
        ({"checkpoint_every_steps": 3, "log_every_steps": 2}, "multiple of log_every_steps"),
        ({"warmup_steps": 6}, "less than num_steps"),
        ({"image_size": 16}, "a miniature draws images of the data set's size"),
        ({"lora_rank": 4}, "a miniature starts from random weights"),
    ],
)
def test_wrong_values_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        finetune(check(small_config(tmp_path / "out", **changes)))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_data_is_refused(adapted, tmp_path):
    with pytest.raises(UserError, match="output_dir is empty"):
        finetune(check(small_config("")))
    everything = small_config(tmp_path / "all")
    everything.dataset.update({"imbalance_profile": "none", "num_max": 0})
    with pytest.raises(UserError, match="leaves out no training image; use train"):
        finetune(check(everything))
    with pytest.raises(
        UserError, match="batch_size is 6, which cannot be split evenly over 4 devices"
    ):
        finetune(check(small_config(tmp_path / "six", batch_size=6)))
    base = str(adapted[1] / "base")
    with pytest.raises(UserError, match=r"have 7 pixels .*, but this model draws multiples of 2"):
        finetune(check(small_config(tmp_path / "odd", image_size=7, base=base)))
    with pytest.raises(UserError, match="even sizes only"):
        miniature.build(7, seed=0)
