"""The map of features, with the names of the clusters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from osed_jax.reports.style import KIND_COLOURS, MANY_CLASSES, WIDTH, figure, shorten


def draw_feature_map(
    path: Path,
    place: np.ndarray,
    kind: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Places [N, 2] of images in a map; kind [N] of `KIND_COLOURS`, label int [N]."""
    markers = {"test": ".", "natural": "o", "generated": "x"}
    names = {"test": "real, test", "natural": "real, training", "generated": "generated"}
    with figure(WIDTH, WIDTH, path) as drawn:
        ax = drawn.subplots()
        for which, marker in markers.items():
            here = kind == which
            if here.any():
                hollow = marker == "o"
                colour = KIND_COLOURS[which]
                ax.plot(
                    *place[here].T,
                    marker,
                    color=colour,
                    markersize=4,
                    markeredgewidth=0.9,
                    markerfacecolor="none" if hollow else colour,
                    alpha=0.75,
                    label=f"{names[which]} ({here.sum():,})",
                )
        _label_clusters(ax, place, label, class_names)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_title("Features of the last layer, t-SNE")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, markerscale=1.5)


def _label_clusters(
    ax: Axes, place: np.ndarray, label: np.ndarray, class_names: Sequence[str]
) -> None:
    if len(class_names) > MANY_CLASSES:
        return
    present = [c for c in range(len(class_names)) if (label == c).any()]
    at = np.stack([np.median(place[label == c], axis=0) for c in present])
    for c, (x, y) in zip(present, spread(at, 0.05 * np.ptp(place, axis=0))):
        ax.text(
            x,
            y,
            shorten(class_names[c]),
            ha="center",
            va="center",
            weight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def spread(at: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Moves points [N, 2] up and down until no two are closer than room [2] in both directions."""
    at = at.copy()
    order = np.argsort(at[:, 1], kind="stable")
    for _ in range(len(at)):
        for position, i in enumerate(order):
            for j in order[:position]:
                wide = abs(at[i, 0] - at[j, 0]) < 3 * room[0]  # names are wider than high
                if wide and abs(at[i, 1] - at[j, 1]) < room[1]:
                    at[i, 1] = at[j, 1] + room[1]
    return at
