"""Figures made of images: mistakes, a batch, real beside generated images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from osed_jax.reports.style import GREY, KIND_COLOURS, WIDTH, figure, literal, shorten

_GAP = 0.12  # between images, of their side


def draw_mistakes(path: Path, images: np.ndarray, captions: Sequence[str]) -> None:
    """Images uint8 [N, H, W, 3] with a caption of a few lines each; N may be 0."""
    columns = 4
    rows = -(-len(images) // columns)
    with figure(WIDTH, 0.5 + 2.1 * rows, path) as drawn:
        drawn.suptitle(
            "Most confident mistakes" if len(images) else "There is no mistake",
            x=0.01,
            ha="left",
            weight="bold",
            size=11,
        )
        axes: Any = drawn.subplots(rows, columns, squeeze=False).ravel() if rows else ()
        for ax in axes:
            ax.set_axis_off()
        for ax, image, caption in zip(axes, images, captions):
            ax.imshow(image)
            ax.set_title(literal(caption), fontsize=8.5, weight="normal", loc="center")


def draw_batch(path: Path, rows: Mapping[str, np.ndarray], title: str) -> None:
    """Rows of images, float [N, H, W, 3] in [0, 1], one row for each kind of `KIND_COLOURS`."""
    columns = max(len(images) for images in rows.values())
    with figure(WIDTH, 0.5 + 0.78 * len(rows) * 8 / columns, path) as drawn:
        axes = drawn.subplots(len(rows), 1, squeeze=False).ravel()
        for ax, (kind, images) in zip(axes, rows.items()):
            ax.imshow(mosaic(images[None], columns), aspect="equal")
            _bare(ax)
            ax.set_ylabel(kind, color=KIND_COLOURS[kind], weight="bold")
        axes[0].set_title(title)


def draw_real_and_generated(
    path: Path, classes: Sequence[tuple[str, np.ndarray, np.ndarray]], note: str
) -> None:
    """A line for each class: (name, real images, generated images), uint8 [n, H, W, 3] each.

    Args:
      path: of the PNG.
      classes: at least one; a class may lack one or the other.
      note: names the classes, if they are not all.
    """
    columns = max(1, *(len(part) for _, *parts in classes for part in parts))
    shape = next(p.shape[1:] for _, *parts in classes for p in parts if len(p))
    height = 0.9 + len(classes) * (WIDTH - 1.2) / (2 * columns + 1)
    with figure(WIDTH, height, path) as drawn:
        axes = drawn.subplots(1, 2)
        sides = ("Real, training", "natural"), ("Generated", "generated")
        for ax, (title, kind), part in zip(axes, sides, zip(*(parts for _, *parts in classes))):
            pixels = mosaic(np.stack([_padded(images, columns, shape) for images in part]), columns)
            ax.imshow(pixels)
            _bare(ax)
            ax.set_title(title, color=KIND_COLOURS[kind])
            middle = pixels.shape[0] / len(classes) * (np.arange(len(classes)) + 0.5) - 0.5
            for y, images in zip(middle, part):
                if not len(images):
                    ax.text(2, y, "none", color=GREY, va="center")
            if kind == "natural":
                ax.set_yticks(middle, [shorten(name) for name, *_ in classes])
                ax.tick_params(length=0)
        if note:
            drawn.supxlabel(note, fontsize=9)


def mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [R, n, H, W, 3] as one, n at most `columns`, on white, in their own scale.

    Small images are enlarged by whole pixels, so that the gap is a share of an image.
    """
    white = 255 if images.dtype == np.uint8 else 1
    factor = max(1, -(-32 // images.shape[2]))
    big = images.repeat(factor, axis=2).repeat(factor, axis=3)
    gap = round(_GAP * big.shape[2])
    spare = columns - big.shape[1]
    ends = ((0, 0), (0, spare), (0, 0), (0, 0), (0, 0))
    big = np.pad(big, ends, constant_values=white)
    around = ((0, 0), (0, 0), (gap // 2, gap - gap // 2), (gap // 2, gap - gap // 2), (0, 0))
    tiles = np.pad(big, around, constant_values=white)
    r, n, h, w, _ = tiles.shape
    return tiles.transpose(0, 2, 1, 3, 4).reshape(r * h, n * w, 3)


def _padded(images: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    missing = np.full((count - len(images), *shape), 255, np.uint8)
    return np.concatenate([images.reshape(-1, *shape).astype(np.uint8), missing])


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
