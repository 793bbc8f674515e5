"""Photographs at 224 pixels, streamed, on a ResNet-18 from given weights: the real commands."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from osed_jax.models.imagenet_resnet import ResNet18
from tests.command_line import run, run_well
from tests.experiment.test_pretrained import tensors

COUNTS = {"cat": 3, "dog": 2, "fox": 1}


def write_photographs(folder, counts, seed):
    """Smooth images of 280x250 pixels, FOLDER/CLASS/NUMBER.jpg; each class has a colour."""
    random = np.random.RandomState(seed)
    for c, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.randint(0, 256, (5, 5, 3)).astype(np.uint8)
            pixels[..., c] //= 4
            Image.fromarray(pixels).resize((280, 250)).save(folder / name / f"{i}.jpg")


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    """A folder with images, generated images and weights, and what all commands are given.

    One epoch of one step and few images: a program is compiled for `fill` and one for `osed`, which
    so begins with its generated images, through DAR-BN.
    """
    root = tmp_path_factory.mktemp("photographs")
    write_photographs(root / "mine" / "train", COUNTS, seed=0)
    write_photographs(root / "mine" / "test", dict.fromkeys(COUNTS, 1), seed=1)
    write_photographs(root / "generated", dict.fromkeys(COUNTS, 2), seed=2)
    save_file(tensors(ResNet18, classes=4), root / "weights.safetensors")
    return root, (
        f"--config.init.weights={root / 'weights.safetensors'}",
        f"--config.dataset.data_dir={root / 'mine'}",
        f"--config.oversampling.generated_dir={root / 'generated'}",
        "--config.dataset.max_decoded_gib=0",
        "--config.train.num_epochs=1",
        "--config.train.batch_size=6",
        "--config.evaluate.batch_size=2",
    )


@pytest.fixture(scope="module")
def filled_up(common):
    """The work directory of a finished run of `fill`, and what it printed."""
    root, given = common
    said = run_well(
        "--config=configs/folder_pretrained.py:fill",
        f"--workdir={root}/fill",
        *given,
        "--config.oversampling.replace_ratio=1.0",
        "--config.dataset.groups=thresholds",
        "--config.dataset.many_above=2",
        "--config.dataset.few_below=2",
    )
    return root / "fill", said


def test_fill_starts_from_the_weights_and_shows_generated_photographs(filled_up):
    directory, said = filled_up
    assert "weights.safetensors has 4 classes; the last layer begins anew" in said
    (epoch,) = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    assert epoch["generated"] > 0 and epoch["natural"] + epoch["generated"] == 6
    facts = json.loads((directory / "dataset.json").read_text())
    assert facts["image_size"] == 256 and len(facts["weights_sha256"]) == 64
    kept = {path.suffix for path in directory.parent.glob(".cache/images/*")}
    assert kept == {".json"}, "streamed images are not kept"


def test_the_report_has_many_medium_and_few(filled_up):
    directory, _ = filled_up
    summary = json.loads((directory / "summary.json").read_text())
    groups = {name: group["classes"] for name, group in summary["groups"].items()}
    assert groups == {"many": ["cat"], "medium": ["dog"], "few": ["fox"]}
    page = (directory / "report" / "report.html").read_text()
    assert "map of test, training and generated images" in page
    assert "real and generated images of each class" in page


def test_gap_measures_generated_photographs(common, filled_up):
    root, given = common
    config = "--config=configs/folder_pretrained.py:fill"
    run_well("--mode=gap", config, f"--workdir={root}/fill", *given)
    found = json.loads((root / "generated.report" / "gap.json").read_text())
    distance = [row["generated_frechet_distance"] for row in found["classes"]]
    assert distance[0] > 0 and distance[1] > 0 and distance[2] is None, "one image has no spread"


def test_tune_chooses_between_fill_and_osed_on_a_list(common):
    root, given = common
    lists = {"train": COUNTS, "test": dict.fromkeys(COUNTS, 1)}
    for split, counts in lists.items():
        lines = [f"{split}/{c}/{i}.jpg {c}" for c, n in counts.items() for i in range(n)]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    run_well(
        "--mode=tune",
        "--config=configs/folder_pretrained.py",
        f"--workdir={root}/tune",
        *given,
        "--config.dataset.name=list",
        *(f"--config.dataset.{split}_list={root}/{split}.txt" for split in lists),
        "--config.tune.folds=2",
        "--config.tune.candidates=osed,fill",
    )
    result = json.loads((root / "tune" / "tune.json").read_text())
    judged = {c["name"]: (c["folds"], c["num_images"]) for c in result["candidates"]}
    assert judged == {"fill": (2, [3, 2, 0]), "osed": (2, [3, 2, 0])}
    assert result["not_judged"] == ["fox"]
    assert "pretrained_factor = 0.01" in (root / "tune" / "chosen.py").read_text()


@pytest.mark.parametrize("mode", ["train", "tune"])
def test_weights_that_are_not_there_are_said_before_images_are_looked_for(tmp_path, mode):
    weights = tmp_path / "none.safetensors"
    done = run(
        f"--mode={mode}",
        "--config=configs/folder_pretrained.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.init.weights={weights}",
        f"--config.dataset.data_dir={tmp_path / 'nowhere'}",
    )
    assert done.returncode == 2 and f"{str(weights)!r}, and there is no such file" in done.stderr
