"""Intervals and tests for accuracies: of one test set, over seeds, between two methods."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of all intervals
_RESAMPLES = 10_000


class Spread(NamedTuple):
    """Mean, standard deviation and 95 % interval of a figure over seeds; None for one seed."""

    mean: float
    sd: float | None
    interval: tuple[float, float] | None


class McNemar(NamedTuple):
    """Differences of two nets on the same images: counts right by one only, exact p-value."""

    only_first: int
    only_second: int
    p_value: float


def over_seeds(values: Sequence[float], *, lowest: float = -1.0) -> Spread:
    """Student's t interval of the mean; for one value only the mean.

    Args:
      values: shares, or differences of shares, of each seed.
      lowest: lowest possible value, 0 for shares; the highest is 1. The interval is cut there,
        because with few seeds it can be wider.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean, None, None)
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * sd / math.sqrt(len(values))
    return Spread(mean, sd, (max(mean - half, lowest), min(mean + half, 1.0)))


def share_interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's interval of hits / total, over other test images of the same kind."""
    between = stats.binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    return float(between.low), float(between.high)


def over_images(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Normal 95 % interval of the second accuracy minus the first, for these nets.

    It covers other test images, but not other seeds. Each image counts with its mean over the pairs
    of nets, because nets that are wrong on the same images are not independent.

    Args:
      pairs: for each seed where the first and where the second is right, bool [N] each.
    """
    by_image = np.mean([b.astype(float) - a for a, b in pairs], axis=0)
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.std(by_image, ddof=1) / math.sqrt(len(by_image))
    return float(by_image.mean() - half), float(by_image.mean() + half)


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test (1947) of two nets on the same images.

    Args:
      first: bool [N], where the first is right.
      second: bool [N], where the second is right.
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    differ = only_first + only_second
    p_value = stats.binomtest(only_first, differ).pvalue if differ else 1.0
    return McNemar(only_first, only_second, float(p_value))


def bootstrap_over_classes(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean difference when classes are drawn anew.

    It shows whether a difference in balanced accuracy comes from a few classes.

    Args:
      differences: float [K], of the accuracy of each class.
      seed: of the 10,000 resamples.
    """
    if len(differences) < 2 or np.ptp(differences) == 0:
        mean = float(np.mean(differences))
        return mean, mean
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
