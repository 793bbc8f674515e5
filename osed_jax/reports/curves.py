"""Figures of a run from its numbers: curves, accuracies, confusion, calibration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.reports.style import (
    BLACK,
    BLUE,
    GREY,
    KIND_COLOURS,
    VERMILLION,
    WIDTH,
    class_width,
    figure,
    name_classes,
    percent_axis,
)

Interval = tuple[float, float]


def draw_learning_curves(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    *,
    start_epoch: int | None,
    forked_epochs: int,
) -> None:
    """Loss, and accuracy on training and on test or validation images, against the epoch.

    Args:
      path: of the PNG.
      records: lines of `metrics.jsonl`, by epoch.
      start_epoch: where the deferred phase begins, or None.
      forked_epochs: number of first records that belong to the run that this one was forked from.
    """
    with figure(WIDTH, 5.6, path) as drawn:
        loss, accuracy = drawn.subplots(2, 1, sharex=True)
        marker = "o" if len(records) <= 12 else None
        own = records[max(forked_epochs - 1, 0) :]
        for part, style in ((records[:forked_epochs], ":"), (own, "-")):
            epochs = [r["epoch"] + 1 for r in part]
            once = style == "-"
            loss.plot(epochs, [r["loss"] for r in part], style, color=BLUE, marker=marker)
            accuracy.plot(
                epochs,
                [r["train_accuracy"] for r in part],
                style,
                color=BLUE,
                marker=marker,
                label="training, natural images" if once else None,
            )
            for name, unseen in (("test", "test_accuracy"), ("validation", "validation_accuracy")):
                tested = [(r["epoch"] + 1, r[unseen]) for r in part if unseen in r]
                accuracy.plot(
                    *(zip(*tested) if tested else ([], [])),
                    style,
                    color=VERMILLION,
                    marker="s",
                    markersize=4,
                    label=name if once and tested else None,
                )
        loss.set_title("Loss of training, rows of all kinds")
        loss.set_ylabel("cross-entropy (nats)")
        accuracy.set_title("Accuracy")
        accuracy.set_ylabel("top-1 (%)")
        forked = " (dotted: of the run it was forked from)" if forked_epochs else ""
        accuracy.set_xlabel(f"epoch{forked}")
        percent_axis(accuracy)
        accuracy.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)
        if start_epoch is not None:
            for ax in (loss, accuracy):
                ax.axvline(start_epoch, color=BLACK, linestyle="--", linewidth=1)
            low, high = loss.get_xlim()
            left = start_epoch - low > high - start_epoch  # on the side with more room
            loss.annotate(
                "deferred phase begins " if left else " deferred phase begins",
                (start_epoch, 1.0),
                xycoords=("data", "axes fraction"),
                ha="right" if left else "left",
                va="top",
            )


def draw_per_class(
    path: Path,
    class_names: Sequence[str],
    *,
    accuracy: Sequence[float | None],
    interval: Sequence[Interval | None],
    class_counts: Sequence[int],
    shown: Mapping[str, np.ndarray],
    shown_when: str,
) -> None:
    """Accuracy of every class, above the number of images of it that training shows.

    Args:
      path: of the PNG.
      class_names: K names, the most frequent first in the long tail.
      accuracy: K shares; None for a class without test images.
      interval: K 95 % intervals of them.
      class_counts: K numbers of natural training images.
      shown: kind -> K numbers of slots in one epoch.
      shown_when: name of that epoch.
    """
    x = np.arange(len(class_names))
    with figure(class_width(len(class_names)), 6.0, path) as drawn:
        top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
        for i, (value, between) in enumerate(zip(accuracy, interval)):
            if value is None or between is None:
                top.text(
                    i, 0.01, "no test images", rotation=90, ha="center", va="bottom", color=GREY
                )
                continue
            top.bar(i, value, color=BLUE, width=0.75)
            spread = [[value - between[0]], [between[1] - value]]
            top.errorbar(i, value, yerr=spread, color=BLACK, linewidth=1, capsize=2)
            if len(class_names) <= 12:
                inside = value > 0.12
                top.text(
                    i,
                    0.02 if inside else between[1] + 0.02,
                    f"{100 * value:.0f}",
                    ha="center",
                    color="white" if inside else BLACK,
                    fontsize=9,
                )
        top.set_ylim(0, 1.02)
        percent_axis(top)
        top.set_title("Accuracy of each class, with 95 % interval of its test images")
        top.set_ylabel("accuracy (%)")
        below = np.zeros(len(class_names))
        for kind, slots in shown.items():
            bottom.bar(x, slots, bottom=below, color=KIND_COLOURS[kind], width=0.75, label=kind)
            below += slots
        bottom.plot(
            x, class_counts, "_", color=BLACK, markersize=9, label="natural images there are"
        )
        bottom.set_title(f"What {shown_when} shows")
        bottom.set_ylabel("images")
        bottom.set_ylim(0, 1.22 * max(below.max(), max(class_counts)))
        bottom.legend(loc="upper right", ncols=4, fontsize=8, columnspacing=1.2, borderpad=0)
        bottom.set_xlim(-0.7, len(class_names) - 0.3)
        name_classes(bottom, list(class_names))


def draw_groups(
    path: Path,
    groups: Sequence[tuple[str, str, float | None, Interval | None]],
) -> None:
    """Accuracy of groups of classes.

    Args:
      path: of the PNG.
      groups: (name, what is in it, accuracy, 95 % interval) each; None if there is nothing.
    """
    with figure(WIDTH, 0.9 + 0.55 * len(groups), path) as drawn:
        ax = drawn.subplots()
        for i, (_, _, value, between) in enumerate(groups):
            if value is None or between is None:
                ax.text(0.01, i, "no class belongs to it", va="center", color=GREY)
                continue
            ax.barh(i, value, color=BLUE, height=0.7)
            ax.errorbar(
                value,
                i,
                xerr=[[value - between[0]], [between[1] - value]],
                color=BLACK,
                linewidth=1,
                capsize=2,
            )
            inside = value > 0.15
            ax.text(
                0.01 if inside else between[1] + 0.02,
                i,
                f"{100 * value:.1f} %",
                va="center",
                color="white" if inside else BLACK,
            )
        ax.set_yticks(range(len(groups)), [f"{name}\n{what}" for name, what, _, _ in groups])
        ax.set_ylim(len(groups) - 0.5, -0.5)
        ax.set_xlim(0, 1.01)
        percent_axis(ax, axis="x")
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("accuracy (%), with 95 % interval of the test images")
        ax.set_title("Accuracy of groups of classes")


def draw_confusion(path: Path, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    """Confusion matrix [K, K] of counts, as shares of each true class (row)."""
    total = matrix.sum(axis=1, keepdims=True)
    share = np.where(total > 0, matrix / np.maximum(total, 1), np.nan)
    count = len(class_names)
    side = WIDTH if count <= 30 else 9.0
    with figure(side, side * 0.9, path) as drawn:
        ax = drawn.subplots()
        ax.set_facecolor("#CCCCCC")  # visible if a row has no test images
        image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        ax.grid(visible=False)
        if count <= 12:
            for (i, j), value in np.ndenumerate(share):
                if value >= 0.005:
                    colour = "white" if value > 0.55 else "black"
                    ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=colour)
        name_classes(ax, list(class_names))
        name_classes(ax, list(class_names), axis="y")
        ax.set_xlabel("predicted class")
        ax.set_ylabel("true class")
        ax.set_title("Confusion (% of each true class)")
        bar = drawn.colorbar(image, ax=ax, shrink=0.7)
        percent_axis(bar.ax)
        bar.outline.set_visible(False)


def draw_reliability(
    path: Path, confidence: np.ndarray, correct: np.ndarray, ece: float, num_bins: int = 15
) -> None:
    """Accuracy against confidence (Guo et al. 2017, figure 1), and how often each occurs.

    Args:
      path: of the PNG.
      confidence: [N] probabilities of the predicted classes.
      correct: bool [N].
      ece: expected calibration error of the same bins.
      num_bins: equally wide.
    """
    which = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    number = np.bincount(which, minlength=num_bins)
    hits = np.bincount(which, weights=correct, minlength=num_bins)
    middle = (np.arange(num_bins) + 0.5) / num_bins
    there = number > 0
    with figure(WIDTH, 5.2, path) as drawn:
        top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        top.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        top.text(0.07, 0.12, "as sure as right", rotation=28, color=GREY, ha="left")
        top.bar(
            middle[there],
            hits[there] / number[there],
            width=0.9 / num_bins,
            color=BLUE,
            label="accuracy",
        )
        means = np.bincount(which, weights=confidence, minlength=num_bins)
        top.plot(
            middle[there],
            means[there] / number[there],
            "_",
            color=VERMILLION,
            markersize=14,
            markeredgewidth=2.5,
            label="mean confidence",
        )
        top.set_ylabel("accuracy (%)")
        top.set_title(f"Reliability: ECE {100 * ece:.1f} %")
        top.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderpad=0)
        top.set_ylim(0, 1)
        bottom.bar(middle, number / number.sum(), width=0.9 / num_bins, color=GREY)
        bottom.set_ylabel("test images (%)")
        bottom.set_xlabel("confidence: probability of the predicted class (%)")
        bottom.set_xlim(0, 1)
        for ax in (top, bottom):
            percent_axis(ax)
        percent_axis(bottom, axis="x")
