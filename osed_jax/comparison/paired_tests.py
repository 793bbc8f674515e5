"""Differences between two methods on the same test images and seeds."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from osed_jax.comparison.finished_runs import FinishedRun, Variant
from osed_jax.comparison.statistics import (
    McNemar,
    Spread,
    bootstrap_over_classes,
    mcnemar,
    over_images,
    over_seeds,
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """The second of two variants minus the first, over the seeds that both have.

    Attributes:
      first: name.
      second: name.
      seeds: that both have.
      top1: difference in top-1, paired by seed.
      over_images: 95 % interval of its mean over these seeds when test images are drawn anew.
      by_class: mean difference in the accuracy of each class that has test images.
      balanced: mean difference in balanced accuracy: their mean.
      over_classes: its 95 % interval when classes are drawn anew.
      tests: McNemar's for each seed.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    top1: Spread
    over_images: tuple[float, float]
    by_class: tuple[float, ...]
    balanced: float
    over_classes: tuple[float, float]
    tests: tuple[McNemar, ...]


def all_pairs(variants: Sequence[Variant]) -> list[Pair]:
    """Every pair of variants that share a seed."""
    return _made(itertools.combinations(variants, 2))


def pairs_with(first: Variant, others: Sequence[Variant]) -> list[Pair]:
    """Each of the others minus the first, if they share a seed."""
    return _made((first, other) for other in others)


def _made(couples: Iterable[tuple[Variant, Variant]]) -> list[Pair]:
    shared = [(a, b, tuple(sorted(set(a.seeds) & set(b.seeds)))) for a, b in couples]
    return [_pair(first, second, seeds) for first, second, seeds in shared if seeds]


def _pair(first: Variant, second: Variant, seeds: tuple[int, ...]) -> Pair:
    runs = [[run for run in v.runs if run.seed in seeds] for v in (first, second)]
    top1 = [float(b.correct.mean() - a.correct.mean()) for a, b in zip(*runs)]
    by_class = np.mean([_recall(b) - _recall(a) for a, b in zip(*runs)], axis=0)
    return Pair(
        first=first.name,
        second=second.name,
        seeds=seeds,
        top1=over_seeds(top1),
        over_images=over_images([(a.correct, b.correct) for a, b in zip(*runs)]),
        by_class=tuple(by_class.tolist()),
        balanced=float(by_class.mean()),
        over_classes=bootstrap_over_classes(by_class),
        tests=tuple(mcnemar(a.correct, b.correct) for a, b in zip(*runs)),
    )


def _recall(run: FinishedRun) -> np.ndarray:
    """Accuracy of each class that has test images."""
    return np.asarray([run.correct[run.label == c].mean() for c in np.unique(run.label)])
