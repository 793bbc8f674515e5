"""Chooses a setting by cross-validation with few images per class; NumPy."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Score(NamedTuple):
    """How well a setting does on held-out images.

    Attributes:
      balanced_accuracy: mean over the classes that have held-out images.
      standard_error: its standard error.
      accuracy: of each class, [K]; None for a class without held-out images.
      num_images: held-out images of each class, [K].
    """

    balanced_accuracy: float
    standard_error: float
    accuracy: list[float | None]
    num_images: list[int]


def score(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> Score:
    """The score of predictions for held-out images, pooled over the folds.

    The standard error is that of a mean of binomial shares, with equal weights of the classes. If
    a class has few images, all or none may be right, and its error would be 0. So one right and one
    wrong image are added to each class when the error is computed (Laplace).

    Args:
      label: int [N].
      prediction: int [N].
      num_classes: K.
    """
    total = np.bincount(label, minlength=num_classes)
    hits = np.bincount(label[label == prediction], minlength=num_classes)
    judged = total > 0
    n, h = total[judged], hits[judged]
    smoothed = (h + 1) / (n + 2)
    variance = (smoothed * (1 - smoothed) / n).sum() / len(n) ** 2
    return Score(
        balanced_accuracy=float((h / n).mean()),
        standard_error=math.sqrt(variance),
        accuracy=[float(h / n) if n else None for h, n in zip(hits, total)],
        num_images=total.tolist(),
    )


def best(scores: Sequence[Score]) -> int:
    """The position of the highest balanced accuracy; the first one if several are equal."""
    return int(np.argmax([s.balanced_accuracy for s in scores]))


def simplest_good(scores: Sequence[Score]) -> int:
    """The first within one standard error of the best (Breiman et al., CART, 1984, section 3.4.3).

    Args:
      scores: in the order of the settings, the simplest first.
    """
    top = scores[best(scores)]
    least = top.balanced_accuracy - top.standard_error
    return next(i for i, s in enumerate(scores) if s.balanced_accuracy >= least)
