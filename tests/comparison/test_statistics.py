"""Intervals and tests against other functions of SciPy, tables and hand-computed cases."""

import itertools
from math import comb

import numpy as np
import pytest
from scipy import stats

from osed_jax.comparison.statistics import (
    bootstrap_over_classes,
    mcnemar,
    over_seeds,
    share_interval,
)


def test_interval_over_seeds_is_that_of_the_table():
    spread = over_seeds([0.80, 0.83, 0.86])
    assert spread.mean == pytest.approx(0.83) and spread.sd == pytest.approx(0.03)
    half = 4.302653 * 0.03 / np.sqrt(3)  # t(0.975, 2) from a table
    assert spread.interval == pytest.approx((0.83 - half, 0.83 + half), abs=1e-6)
    # A paired t-test gives p = 0.05 exactly where the interval ends.
    assert stats.ttest_1samp([0.80, 0.83, 0.86], spread.interval[1]).pvalue == pytest.approx(0.05)
    assert over_seeds([0.5]) == (0.5, None, None)


def test_an_interval_ends_where_its_values_must():
    assert over_seeds([0.5, 0.98], lowest=0.0).interval == (0.0, 1.0)
    assert over_seeds([-0.4, 0.6]).interval == (-1.0, 1.0)


def test_interval_of_a_share_is_wilsons_formula():
    hits, total, z = 450, 500, 1.959963984540054
    p = hits / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    assert share_interval(hits, total) == pytest.approx((centre - half, centre + half))
    assert share_interval(10, 10)[1] == pytest.approx(1) and share_interval(10, 10)[0] < 0.8


def test_mcnemar_is_the_sum_of_the_binomial_tail():
    first = np.asarray([1] * 9 + [0] * 1 + [1] * 40 + [0] * 5, bool)
    second = np.asarray([0] * 9 + [1] * 1 + [1] * 40 + [0] * 5, bool)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (9, 1)
    assert test.p_value == pytest.approx(2 * (comb(10, 0) + comb(10, 1)) / 2**10)
    assert mcnemar(second, first).p_value == pytest.approx(test.p_value)
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_bootstrap_over_classes_is_that_of_all_resamples():
    """Three classes have 27 resamples, all equally likely."""
    differences = np.asarray([-0.1, 0.0, 0.4])
    means = sorted(np.mean(draw) for draw in itertools.product(differences, repeat=3))
    low, high = bootstrap_over_classes(differences)
    assert low == pytest.approx(means[0]) and high == pytest.approx(means[-1])
    many = np.random.default_rng(0).normal(0.02, 0.05, 100)
    low, high = bootstrap_over_classes(many)
    error = many.std() / 10  # with 100 classes it is nearly the normal interval
    assert (low, high) == pytest.approx(
        (many.mean() - 1.96 * error, many.mean() + 1.96 * error), abs=1e-3
    )
    assert bootstrap_over_classes(many) == (low, high), "the same resamples every time"
    assert bootstrap_over_classes(np.full(5, 0.25)) == (0.25, 0.25)
