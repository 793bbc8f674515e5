"""What a run may know of its images, against NumPy."""

import json

import numpy as np
import pytest
from sklearn import datasets

from osed_jax.data.datasets import load_digits
from osed_jax.data.long_tail import canonical_subset, class_counts
from tests.command_line import SMALL, run_well


def statistics(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of uint8 images, in [0, 1]."""
    return pixels.mean() / 255, pixels.std() / 255


@pytest.mark.parametrize("held_out", ["validation_fraction=0.3", "validation_folds=3"])
def test_mean_and_deviation_are_those_of_the_training_images_alone(tmp_path, held_out):
    """Neither images that the long tail leaves out nor validation images have a part in them."""
    few = ("--config.train.num_epochs=1", "--config.train.eval_every_epochs=1")
    line = ("--config=configs/digits.py:erm", *SMALL, *few, f"--config.dataset.{held_out}")
    run_well(*line, f"--workdir={tmp_path / 'run'}")
    facts = json.loads((tmp_path / "run" / "dataset.json").read_text())

    whole = load_digits("train")
    rows = canonical_subset(whole.label, class_counts(40, 10, 8))
    if "folds" in held_out:  # the first fold: of each class every third image, from the first on
        of_class = [rows[whole.label[rows] == c] for c in range(10)]
        rows = np.sort(np.concatenate([np.delete(r, np.s_[::3]) for r in of_class]))
    assert facts["num_train_images"] == len(rows)

    mean, std = statistics(whole.images.take(rows))
    assert facts["mean"] == pytest.approx([mean] * 3, abs=1e-6)
    assert facts["std"] == pytest.approx([std] * 3, abs=1e-6)
    grey = np.round(datasets.load_digits().images * (255 / 16)).astype(np.uint8)
    for others in (grey, whole.images.take(np.arange(len(whole.label)))):
        assert abs(statistics(others)[0] - mean) > 1e-4, "the test could not tell them apart"
