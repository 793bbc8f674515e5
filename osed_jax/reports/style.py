"""The style of all figures: colours for colour-blind readers too, type sizes, files."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from osed_jax.files.atomic import write_atomically

# Okabe & Ito, "Color Universal Design", 2008.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#000000", "#8A8A8A"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, BLACK, GREY)
KIND_COLOURS = {"natural": BLUE, "generated": VERMILLION, "noise": GREY, "test": BLACK}
WIDTH = 6.4  # inches of an ordinary figure: its text is readable on a phone
MANY_CLASSES = 20  # more than these are not named one by one in a figure

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "image.interpolation": "nearest",
}
_DPI = 130


@contextmanager
def figure(width: float, height: float, path: Path) -> Iterator[Figure]:
    """A figure of width x height inches that is written to `path`, a PNG, at the end."""
    with matplotlib.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        buffer = io.BytesIO()
        # The software version is left out: with it, equal figures would be different files.
        drawn.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def class_width(num_classes: int) -> float:
    """Inches of a figure with a bar for each class."""
    return max(WIDTH, 0.13 * num_classes)


def name_classes(ax: Axes, class_names: tuple[str, ...] | list[str], *, axis: str = "x") -> None:
    """Writes class names at 0, 1, ... of an axis; rotated if they would touch."""
    count = len(class_names)
    # Many names would be too small to read: then only every n-th is written.
    step = 1 if count <= 60 else -(-count // 50)
    ticks = np.arange(0, count, step)
    size = 10 if count <= 12 else 8 if count <= 30 else 6
    labels = [shorten(class_names[i]) for i in ticks]
    if axis == "y":
        ax.set_yticks(ticks, labels, fontsize=size)
        return
    turned = count > 12 or sum(map(len, labels)) + 2 * count > 60
    ax.set_xticks(ticks, labels, fontsize=size, rotation=90 if turned else 0)


def shorten(name: str, length: int = 16) -> str:
    """A name that fits beside a bar."""
    return literal(name if len(name) <= length else name[: length - 1] + "…")


def wrap(name: str, length: int) -> str:
    """A name in lines of `length` letters, none of them left out."""
    return literal("\n".join(textwrap.wrap(name, length)))


def literal(name: str) -> str:
    """The name with `$` escaped: Matplotlib reads text between two `$` as a formula."""
    return name.replace("$", r"\$")


def percent_axis(ax: Axes, *, axis: str = "y") -> None:
    """Shares in [0, 1] as 0 to 100."""
    which: Any = ax.yaxis if axis == "y" else ax.xaxis
    which.set_major_formatter(lambda value, _: f"{100 * value:g}")
