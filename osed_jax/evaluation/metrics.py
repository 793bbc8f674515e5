"""Figures of a classifier from its logits, in NumPy; every image counts once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, float64 [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confusion_matrix(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, int64 [K, K]: rows are true classes, columns predicted ones."""
    flat = np.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, num_bins: int = 15
) -> float:
    """ECE with equally wide bins (Guo et al. 2017, equation 3): sum of |acc - conf| * share."""
    which = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gap = np.bincount(which, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gap).sum() / len(confidence))


def classification_report(
    logits: np.ndarray,
    label: np.ndarray,
    *,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """All figures of a test set, as in `summary.json`.

    Accuracies are shares in [0, 1]. A group without a class is listed in `absent_groups` and has
    no accuracy; a class without test images has the accuracy None and is left out of the means.

    Args:
      logits: float [N, K].
      label: int [N].
      class_names: K names.
      groups: name -> classes; see `long_tail.class_groups`.
    """
    num_classes = len(class_names)
    log_prob = log_softmax(logits)
    prediction = logits.argmax(axis=1)
    confidence = np.exp(log_prob.max(axis=1))
    confusion = confusion_matrix(prediction, label, num_classes)
    hits, actual, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    seen = actual > 0
    recall = hits[seen] / actual[seen]
    f1 = 2 * hits[seen] / (actual + predicted)[seen]
    worst = np.flatnonzero(seen)[recall.argmin()]

    def accuracy(classes: Sequence[int]) -> float | None:
        members = list(classes)
        total = actual[members].sum()
        return float(hits[members].sum() / total) if total else None

    return {
        "num_test_images": len(label),
        "top1": float(hits.sum() / len(label)),
        "balanced_accuracy": float(recall.mean()),
        "g_mean": float(np.exp(np.log(recall).mean())) if recall.all() else 0.0,
        "macro_f1": float(f1.mean()),
        "worst_class": {"name": class_names[worst], "accuracy": float(recall.min())},
        "nll": float(-log_prob[np.arange(len(label)), label].mean()),
        "ece": expected_calibration_error(confidence, prediction == label),
        "per_class": {name: accuracy([c]) for c, name in enumerate(class_names)},
        "groups": {
            name: {"classes": [class_names[c] for c in members], "accuracy": accuracy(members)}
            for name, members in groups.items()
            if members
        },
        "absent_groups": [name for name, members in groups.items() if not members],
        "confusion_matrix": confusion.tolist(),
    }
