"""Figures that compare methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from osed_jax.reports.style import BLACK, BLUE, CYCLE, GREY, WIDTH, figure, percent_axis, wrap

Interval = tuple[float, float]
Trend = Sequence[tuple[float, Interval | None]]  # mean and 95 % interval at each tick

_MARKERS = "osD^vP*X"  # for readers who cannot tell the colours apart


class Bar(NamedTuple):
    """One method's figure: its mean, 95 % interval, and the value of every seed."""

    name: str
    mean: float
    interval: Interval | None
    values: Sequence[float]


def draw_overall(path: Path, bars: Sequence[Bar], title: str) -> None:
    """A row for each method: a dot for each seed, a stroke for the mean, its 95 % interval."""
    lines = sum(wrap(bar.name, 40).count("\n") for bar in bars)
    with figure(WIDTH, 1.1 + 0.42 * len(bars) + 0.1 * lines, path) as drawn:
        ax = drawn.subplots()
        for y, bar in enumerate(bars):
            if bar.interval:
                ax.plot(bar.interval, [y, y], color=BLUE, linewidth=2.2, solid_capstyle="butt")
            ax.plot(bar.values, [y] * len(bar.values), "o", color=GREY, markersize=5, alpha=0.8)
            ax.plot(bar.mean, y, "|", color=BLACK, markersize=16, markeredgewidth=2)
            ax.annotate(
                f"{100 * bar.mean:.1f}",
                (bar.mean, y),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        ax.set_yticks(range(len(bars)), [wrap(bar.name, 40) for bar in bars])
        ax.set_ylim(len(bars) - 0.5, -0.7)
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.08)
        percent_axis(ax, axis="x")
        what = "accuracy (%); stroke: mean, dots: seeds, line: 95 % interval"
        drawn.supxlabel(what, fontsize=9)
        ax.set_title(title)


def draw_groups(path: Path, groups: Sequence[tuple[str, Sequence[Bar]]]) -> None:
    """A panel for each group of classes, a bar with its 95 % interval for each method."""
    columns = 2 if len(groups) > 1 else 1
    rows = -(-len(groups) // columns)
    methods = len(groups[0][1])
    lines = sum(wrap(bar.name, 26).count("\n") for bar in groups[0][1])
    with figure(WIDTH, 0.6 + rows * (0.55 + 0.3 * methods + 0.12 * lines), path) as drawn:
        grid = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax, (name, bars) in zip(grid.ravel(), groups):
            for y, bar in enumerate(bars):
                ax.barh(y, bar.mean, color=BLUE, height=0.72)
                if bar.interval:
                    low, high = np.clip(bar.interval, 0, 1)
                    ax.plot([low, high], [y, y], color=BLACK, linewidth=1.2)
                inside = bar.mean > 0.2
                ax.text(
                    0.01 if inside else max(bar.mean, (bar.interval or (0, 0))[1]) + 0.02,
                    y,
                    f"{100 * bar.mean:.1f}",
                    va="center",
                    color="white" if inside else BLACK,
                    fontsize=9,
                    # So that the line of a wide interval does not cross the number.
                    bbox={"facecolor": BLUE, "edgecolor": "none", "pad": 0.5} if inside else None,
                )
            ax.set_title(name)
            ax.set_yticks(range(methods), [wrap(bar.name, 26) for bar in bars])
            ax.set_ylim(methods - 0.4, -0.6)
            ax.set_xlim(0, 1.0)
            ax.grid(visible=False, axis="y")
            percent_axis(ax, axis="x")
        for ax in grid.ravel()[len(groups) :]:
            ax.set_axis_off()
        drawn.supxlabel("accuracy (%), line: 95 % interval", fontsize=10)


def draw_changes(
    path: Path, names: Sequence[str], changes: Mapping[str, Sequence[float]], title: str
) -> None:
    """A row of bars for each name: to the right for a gain, to the left for a loss.

    Args:
      path: PNG file.
      names: N, from top to bottom.
      changes: of each method, N changes of accuracy, shares.
      title: of the figure.
    """
    height = 0.8 / len(changes)
    lines = len(names) * (0.1 + 0.1 * len(changes))
    with figure(WIDTH, 1.3 + lines + 0.2 * len(changes), path) as drawn:
        ax = drawn.subplots()
        for i, (method, values) in enumerate(changes.items()):
            at = np.arange(len(names)) - 0.4 + height * (i + 0.5)
            ax.barh(at, values, height=0.9 * height, color=CYCLE[i], label=method)
        ax.axvline(0, color=BLACK, linewidth=1)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        percent_axis(ax, axis="x")
        ax.set_title(title)
        ax.set_xlabel("change of accuracy (percentage points)", fontsize=10)
        drawn.legend(loc="outside lower center", ncols=2, fontsize=9)


def draw_trends(
    path: Path,
    ticks: Sequence[str],
    trends: Mapping[str, Trend],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """A curve for each name over the same ticks, with 95 % intervals; 0 is marked.

    Args:
      path: PNG file.
      ticks: T, from left to right.
      trends: T changes of accuracy each, shares.
      title: of the figure.
      xlabel: what the ticks are.
      ylabel: what changes.
    """
    with figure(WIDTH, 3.8, path) as drawn:
        ax = drawn.subplots()
        ax.axhline(0, color=BLACK, linewidth=1)
        for i, (name, trend) in enumerate(trends.items()):
            # Side by side, so that intervals at one tick can be told apart.
            at = np.arange(len(ticks)) + 0.05 * (i - (len(trends) - 1) / 2)
            colour = CYCLE[i]
            ax.plot(at, [mean for mean, _ in trend], color=colour, marker=_MARKERS[i], label=name)
            for x, (_, interval) in zip(at, trend):
                if interval:
                    ax.plot([x, x], interval, color=colour, linewidth=1)
        ax.set_xticks(range(len(ticks)), ticks)
        ax.grid(visible=False, axis="x")
        percent_axis(ax)
        ax.set_title(title)
        ax.set_xlabel(xlabel, fontsize=10)
        ax.set_ylabel(ylabel, fontsize=10)
        drawn.legend(loc="outside lower center", ncols=len(trends), fontsize=9)
