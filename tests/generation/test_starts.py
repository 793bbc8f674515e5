"""Images that start from real ones: which, how far from them, and from none other.

That they agree with PyTorch's pipeline is in test_stable_diffusion.py.
"""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs import folder as folder_config
from osed_jax.commands.generate import generate
from osed_jax.config.build import check
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.sampler import Sampler
from osed_jax.diffusion.samples import Start
from osed_jax.diffusion.schedulers import first_steps
from osed_jax.errors import UserError
from osed_jax.generation.starts import Starts
from osed_jax.store.records import read_lines
from tests.cheap_store import tree
from tests.oracles import make_stable_diffusion_oracle as oracle


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a model of two levels."""
    folder = tmp_path_factory.mktemp("small") / "model"
    oracle.write_model(folder, oracle.MODELS["epsilon"], oracle.manifest()["shapes"]["epsilon"])
    return folder


def test_images_of_different_strengths_share_a_batch(small):
    """Each is what it is in a batch of its own strength, in both kinds of programs."""
    model = stable_diffusion.load(str(small))
    made = {}
    for one_program in (False, True):
        sampler = Sampler(
            model,
            batch_size=3,
            image_size=16,
            size=16,
            steps=5,
            one_program=one_program,
            devices=jax.devices()[:1],
        )

        def make(strength, rows, sampler=sampler):
            start = Start(np.tile(oracle.real_images(), (2, 1, 1, 1))[rows], strength)
            names = {"labels": [0] * len(rows), "indices": rows}
            return sampler(["a car"] * len(rows), seed=0, start=start, **names).image.astype(int)

        mixed = make([0.2, 1.0, 0.6], [0, 1, 2])
        for row, strength in enumerate((0.2, 1.0, 0.6)):
            np.testing.assert_allclose(make([strength], [row])[0], mixed[row], atol=1)
        made[one_program] = mixed
    np.testing.assert_allclose(made[False], made[True], atol=1)


def test_strengths_are_rounded_as_in_diffusers():
    assert first_steps(25, [0.04, 0.5, 0.99, 1.0]).tolist() == [24, 13, 1, 0]
    for wrong in (0.03, 1.05):
        with pytest.raises(UserError, match=r"choose 0\.04 to 1"):
            first_steps(25, [0.5, wrong])


def starts_of(label, **changes):
    images = np.arange(len(label), dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    train = ImageSet(ArrayImages(images), np.asarray(label), ("cat", "dog"))
    settings = {"seed": 3, "strength": (0.2, 0.6), "uniform": False, **changes}
    return Starts(train, 10 * np.arange(len(label)), **settings)


def test_a_class_goes_round_all_of_its_images():
    starts = starts_of([0, 1, 0, 1, 0])
    rows = [starts.row(0, index) for index in range(30)]
    rounds = np.reshape(rows, (10, 3))
    assert (np.sort(rounds) == [0, 2, 4]).all()
    assert len(np.unique(rounds, axis=0)) > 3, "always in the same order"
    assert [starts_of([0, 1, 0, 1, 0]).row(0, i) for i in range(30)] == rows
    assert [starts_of([0, 1, 0, 1, 0], seed=4).row(0, i) for i in range(30)] != rows
    met = {(starts.row(1, i), starts.strength(1, i)) for i in range(40)}
    assert met == {(1, 0.2), (1, 0.6), (3, 0.2), (3, 0.6)}, "each image meets each strength"
    batch = starts.batch([(0, 0), (1, 1)])
    assert batch.image[:, 0, 0, 0].tolist() == [starts.row(0, 0), starts.row(1, 1)]
    assert batch.strength == [0.2, 0.6]
    described = {"start_image": 10 * starts.row(1, 1), "strength": 0.6}
    assert starts.describe(1, 1) == described


def test_other_classes_are_drawn_uniformly_then_their_images():
    """The class with one image is started from as often as that with four."""
    images = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    label, names = np.array([0, 1, 1, 1, 2, 1, 0, 0]), ("cat", "dog", "emu")
    train = ImageSet(ArrayImages(images), label, names)
    made = {"seed": 3, "strength": (0.7,), "uniform": False, "other_class": True}
    starts, same = (Starts(train, 10 * np.arange(8), **made) for _ in range(2))
    count = 1200
    rows = np.array([[starts.row(c, index) for index in range(count)] for c in range(3)])
    for c, of_class in enumerate(rows):
        drawn = np.bincount(of_class, minlength=8) / count
        want = np.where(label == c, 0, 1 / 2 / np.bincount(label)[label])
        np.testing.assert_allclose(drawn, want, atol=0.05)
    assert [same.row(c, i) for c, i in ((2, 7), (0, 1), (2, 3))] == rows[
        [2, 0, 2], [7, 1, 3]
    ].tolist()
    other_seed = Starts(train, np.arange(8), **{**made, "seed": 4})
    assert (rows[1, :40] != [other_seed.row(1, index) for index in range(40)]).any()
    row = rows[1, 5]
    assert starts.describe(1, 5) == {
        "start_image": 10 * row,
        "start_class": names[label[row]],
        "strength": 0.7,
    }


def test_uniform_strengths_fill_their_range():
    starts = starts_of([0, 1], uniform=True)
    drawn = np.sort([starts.strength(1, index) for index in range(200)])
    assert 0.2 <= drawn[0] < 0.22 and 0.58 < drawn[-1] <= 0.6
    assert np.abs(drawn - np.linspace(0.2, 0.6, 200)).max() < 0.06
    assert starts.strength(0, 1) != starts.strength(1, 1)


@pytest.fixture
def photos(tmp_path):
    """A folder with two classes; of the ten images of each, the long tail takes 4 and 2."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / name / f"{i}.png")
    return tmp_path / "data"


def config_of(photos, store, model, **changes):
    config = folder_config.get_config("fill")
    config.dataset.update(
        {
            "data_dir": str(photos),
            "image_size": 8,
            "imbalance_profile": "exp",
            "imbalance_ratio": 2.0,
            "num_max": 4,
            "validation_fraction": 0.5,
        }
    )
    config.oversampling.generated_dir = str(store)
    fields = {"model": str(model), "revision": "", "steps": 2, "count": "4", "start_from": "train"}
    config.generation.update({**fields, **changes})
    return check(config)


def test_only_the_long_tailed_training_images_are_started_from(photos, tmp_path, small):
    """There are no test images here, and what was held out or left out may be anything."""
    generate(config_of(photos, tmp_path / "store", small))
    lines = read_lines(tmp_path / "store" / "metadata.jsonl")[0]
    started = {line["start_image"] for line in lines}
    assert {line["strength"] for line in lines} == {0.5}
    of_class = [[s for s in started if f"/{name}/" in s] for name in ("cat", "dog")]
    assert [len(names) for names in of_class] == [4, 2]
    for path in (photos / "train").rglob("*.png"):
        if str(path) not in started:
            Image.new("RGB", (8, 8), "red").save(path)
    generate(config_of(photos, tmp_path / "again", small))
    assert tree(tmp_path / "again") == tree(tmp_path / "store")
    for name in of_class[1]:
        Image.new("RGB", (8, 8), "red").save(name)
    generate(config_of(photos, tmp_path / "other", small))
    before, after = tree(tmp_path / "store"), tree(tmp_path / "other")
    assert all(before[f"cat/00000{i}.png"] == after[f"cat/00000{i}.png"] for i in range(4))
    assert all(before[f"dog/00000{i}.png"] != after[f"dog/00000{i}.png"] for i in range(4))
    with pytest.raises(UserError, match=r"settings.start_from_train.images_sha256"):
        generate(config_of(photos, tmp_path / "store", small))
    settings = json.loads((tmp_path / "other" / "store.json").read_text())["settings"]
    assert settings["start_from_train"]["strength"] == [0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": "noise", "strength": (0.3,)}, "with config.generation.start_from=train"),
        ({"start_from": "other_class", "strength": (0.4,)}, "it must be at least 0.5"),
        ({"strength": ()}, "strength is .*; it must be numbers greater than 0"),
        ({"strength": (0.5, 1.5)}, "greater than 0 and at most 1"),
        ({"strength": (0.4,)}, "takes none of config.generation.steps=2 steps; .* at least 0.5"),
        ({"strength_draw": "uniform"}, "must be two ascending numbers, such as 0.3,0.7"),
        ({"strength": (0.9, 0.6), "strength_draw": "uniform"}, "two ascending numbers"),
    ],
)
def test_wrong_settings_say_what_is_allowed(photos, changes, message):
    with pytest.raises(UserError, match=message):
        config_of(photos, "store", "model", **changes)
