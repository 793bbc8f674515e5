"""The map of results/when_it_pays: a field for each generator and each long tail."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.when_it_pays_tables import FIGURES, Results
from osed_jax.reports import style


def draw_map(path: Path, results: Results) -> None:
    """A field for each cell: its gain; a line where the gain ends, faint where it may be none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style.figure(1.5 * style.WIDTH, 1.4 + 0.5 * len(results.recognised), path) as drawn:
        axes = drawn.subplots(1, len(FIGURES), sharey=True)
        for ax, (figure, words) in zip(axes, FIGURES.items()):
            _panel(ax, results, figure)
            ax.set_title(words)
            ax.set_xlabel("real images of the rarest class")
        axes[0].set_ylabel("recognised generated images (%)")
        drawn.suptitle(
            "Gain of fill over the better of resampling and noise (percentage points)",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        drawn.supxlabel(
            "black line: the gain ends; (brackets): the 95 % interval over seeds holds 0",
            fontsize=9,
        )


def _panel(ax: Any, results: Results, figure: str) -> None:
    order = sorted(results.recognised, key=lambda steps: results.recognised[steps])
    gains = [[results.gain(results.cell(s, n), figure) for n in results.rarest] for s in order]
    mean = 100 * np.array([[gain.mean for gain in row] for row in gains])
    reach = np.abs(mean).max() or 1.0
    ax.pcolormesh(mean, cmap="RdBu", vmin=-1.3 * reach, vmax=1.3 * reach)
    for (y, x), value in np.ndenumerate(mean):
        low, high = gains[y][x].interval or (0.0, 0.0)
        text = f"{value:+.1f}"
        text = f"({text})" if low <= 0 <= high else text
        ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9)
        above = (y + 1, x), ([x, x + 1], [y + 1] * 2)
        beside = (y, x + 1), ([x + 1] * 2, [y, y + 1])
        for other, ends in (above, beside):
            inside = other[0] < len(order) and other[1] < len(results.rarest)
            if inside and (value > 0) != (mean[other] > 0):
                ax.plot(*ends, color=style.BLACK, linewidth=2.5)
    ax.set_xticks(np.arange(len(results.rarest)) + 0.5, results.rarest)
    shares = [f"{100 * results.recognised[steps]:.0f}" for steps in order]
    ax.set_yticks(np.arange(len(order)) + 0.5, shares)
    ax.grid(visible=False)
