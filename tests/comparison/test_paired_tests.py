"""Paired differences on a test set with unequal classes, against values computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from osed_jax.comparison.finished_runs import FinishedRun, Variant
from osed_jax.comparison.paired_tests import all_pairs, pairs_with

# Eight test images of class 0 and two of class 2; class 1 has none.
LABEL = np.repeat([0, 2], [8, 2])


def run(seed: int, right_of_0: int, right_of_2: int) -> FinishedRun:
    """A run that classifies so many images of each class correctly, and the others as class 1."""
    right = np.concatenate([np.arange(8) < right_of_0, np.arange(2) < right_of_2])
    return FinishedRun(Path(f"seed_{seed}"), {"seed": seed}, np.where(right, LABEL, 1), LABEL)


FIRST = Variant("erm", (run(0, 8, 0), run(1, 4, 1), run(3, 0, 0)))
SECOND = Variant("fill", (run(0, 6, 2), run(1, 8, 1), run(2, 8, 2)))


def test_top1_counts_every_image_alike_and_balanced_accuracy_every_class():
    (pair,) = all_pairs([FIRST, SECOND])
    assert (pair.first, pair.second, pair.seeds) == ("erm", "fill", (0, 1))
    # Seed 0: 8 and 8 of 10 are right. Seed 1: 5 and 9 of 10.
    assert pair.top1.mean == pytest.approx((0.0 + 0.4) / 2)
    # Class 0: 6/8 - 8/8 and 8/8 - 4/8. Class 2: 2/2 - 0/2 and 1/2 - 1/2.
    assert pair.by_class == pytest.approx(((-0.25 + 0.5) / 2, (1.0 + 0.0) / 2))
    assert pair.balanced == pytest.approx((0.125 + 0.5) / 2)


def test_the_first_of_a_pair_is_subtracted():
    (pair,) = pairs_with(SECOND, [FIRST])
    assert pair.balanced == pytest.approx(-0.3125) and pair.top1.mean == pytest.approx(-0.2)


def test_variants_without_a_common_seed_are_no_pair():
    assert not all_pairs([FIRST, Variant("open", (run(7, 8, 2),))])
