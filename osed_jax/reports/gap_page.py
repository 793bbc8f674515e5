"""The gap between generated and real images: its figures, the nearest pairs, and its page."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from osed_jax.reports import page, style

_COLUMNS = 4  # pairs of a row
_BESIDE, _WIDE, _HIGH = 1.12, 2.72, 1.6  # space between pictures, pairs and rows
_BAND = "#E4E4E4"
_SERIES = {  # set -> style of its points; the shapes differ for readers who do not see colours
    "training": ("training", "^", style.KIND_COLOURS["natural"]),
    "test": ("test (yardstick)", "s", style.KIND_COLOURS["test"]),
    "generated": ("generated", "o", style.KIND_COLOURS["generated"]),
}
_PANELS = (  # (measure, title, unit)
    ("images", "Images measured", "images (log scale)"),
    (
        "frechet_distance",
        "Fréchet distance to the training images, lower is closer",
        "squared distance",
    ),
    ("precision", "Precision: the share that lies among the training images", "%"),
    ("recall", "Recall: the share of the training images that is covered", "%"),
)
_SHORT = {"training": "train", "test": "test", "generated": "gen."}
_DISTANCE_COLUMNS = {
    **{f"{s}_images": f"n {short}" for s, short in _SHORT.items()},
    **{f"{s}_frechet_distance": f"Fréchet: {_SHORT[s]}" for s in ("generated", "test")},
    **{f"{s}_precision": f"prec. %: {_SHORT[s]}" for s in ("generated", "test")},
    **{f"{s}_recall": f"recall %: {_SHORT[s]}" for s in ("generated", "test")},
}
_COPY_COLUMNS = {
    "generated_images": "gen. images",
    "generated_copies_of_training": "copies of train",
    "generated_near_copies_of_training": "near",
    "generated_copies_of_test": "copies of test",
    "generated_near_copies_of_test": "near",
    "test_images": "test images",
    "test_copies_of_training": "copies of train",
    "test_near_copies_of_training": "near",
}
_INTRO = (
    "{all[generated_images]:,} of {available_images[generated]:,} generated images beside the "
    "training set ({all[training_images]:,} of {available_images[training]:,} images) and the test "
    "set ({all[test_images]:,} of {available_images[test]:,}) of {dataset[name]}, in the features "
    "of {workdir} after {epoch} epochs."
)
_HOW_TO_READ = (
    "Each measure compares images of a class with its training images. The real test images are "
    "the yardstick: generated images that score like them are as close to the training images as "
    "new real images are. Fréchet distance: between two Gaussians fitted to the features (Heusel "
    "et al. 2017), lower is closer. Precision: the share of generated images that lie among the "
    "training images; recall: the share of training images that lie among the generated ones "
    "(Kynkäänniemi et al. 2019)."
)
_CAUTION = (
    "Fréchet distances of few images are biased upwards: compare them only at like counts, and "
    "not between classes of different size or between nets. Precision and recall of few images "
    "are coarse. In the row `all` the images of all classes are compared at once, so it also "
    "tells that the generated images are mostly of rare classes and the training images mostly of "
    "frequent ones; the mean of the classes, over those that have both values, does not. A dash "
    "stands where there are no images or too few."
)
_COPIES = (
    "For every generated image the nearest real image by features, of any class, and how far its "
    "pixels are: a copy differs in no pixel, a near copy by less than {near_copy_below:g} (root "
    "mean square, pixels in [0, 1]). That bound is a choice; the yardstick tells how many test "
    "images come as close to a training image by chance. A copy of a test image would make a test "
    "accuracy worthless; copies of training images add nothing to the training set. An image that "
    "is copied in part, shifted or mirrored is not counted: see the nearest pairs."
)
_SETTINGS = (
    "{num_neighbours} neighbours for precision and recall; at most {max_images:,} images of a "
    "class and set, drawn with seed {seed}, also in the search for copies. gap.csv has every "
    "number, gap.json too. The real images:"
)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P pictures, each with the nearest real one.

    Attributes:
      generated: uint8 [P, H, H, 3].
      real: uint8 [P, H, H, 3].
      generated_class: P names.
      real_class: P names.
      distance: in features, float64 [P].
      difference: of the pixels, root mean square in [0, 1], float64 [P].
    """

    generated: np.ndarray
    real: np.ndarray
    generated_class: Sequence[str]
    real_class: Sequence[str]
    distance: np.ndarray
    difference: np.ndarray


def draw_gap(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws every class's measures, generated images beside real test images.

    Args:
      path: of the PNG.
      rows: one a class, in order, with `class` and SET_MEASURE, as `gap.json` has them; None
        if there is no value, which is marked as such.
    """
    width = min(14.0, 7.5 + 0.12 * len(rows))
    with style.figure(width, 10, path) as drawn:
        axes = drawn.subplots(len(_PANELS), 1, sharex=True)
        for ax, (measure, title, unit) in zip(axes, _PANELS):
            _panel(ax, rows, measure)
            ax.set_title(title)
            ax.set_ylabel(unit)
        drawn.align_ylabels(axes)
        style.name_classes(axes[-1], [row["class"] for row in rows])
        if len(rows) <= 4:  # there is room, even for long names
            axes[-1].tick_params(axis="x", labelrotation=0)
        axes[-1].set_xlabel("class")


def draw_pairs(path: Path, pairs: Pairs, *, real_set: str, near_copy_below: float) -> None:
    """Draws generated pictures beside their nearest real ones, copies marked as such.

    Args:
      path: of the PNG.
      pairs: at least one, in the order they are shown.
      real_set: what the real pictures are, `training` or `test`.
      near_copy_below: pixel difference below which a pair is marked as a near copy.
    """
    lines = -(-len(pairs.distance) // _COLUMNS)
    with style.figure(9.6, 0.8 + 1.5 * lines, path) as drawn:
        drawn.suptitle(
            f"Left: generated images. Right: the nearest {real_set} image of each, by features.\n"
            f"Above: distance in features · pixel difference (root mean square, 0 to 1). "
            f"Below: classes.",
            x=0.01,
            ha="left",
            fontsize=10.5,
        )
        ax = drawn.subplots()  # one for all: an axes for each pair takes ten times as long
        ax.axis("off")
        for i in range(len(pairs.distance)):
            _pair(ax, pairs, i, real_set, near_copy_below)
        ax.set(aspect="equal", xlim=(0, _COLUMNS * _WIDE - 0.6), ylim=(lines * _HIGH - 0.25, -0.25))


def gap_page(report: Path, result: Mapping[str, Any]) -> str:
    """The web page of a report, its figures inside.

    Args:
      report: the folder with gap.png, nearest_train.png and nearest_test.png.
      result: as `gap.json` has it.
    """
    rows, total = [*result["classes"], result["all"]], result["all"]
    means = {"class": "mean of classes", **result["mean_of_classes"]}
    copies = [
        (f"{kind} of {real_set} images", f"{total[f'generated_{key}_of_{real_set}']:,}")
        for real_set in ("training", "test")
        for kind, key in (("exact copies", "copies"), ("near copies", "near_copies"))
    ]
    distances = (
        page.text(_HOW_TO_READ)
        + page.picture(report / "gap.png", "Fréchet distance, precision and recall by class")
        + page.text(_CAUTION)
        + _table(_DISTANCE_COLUMNS, [*rows, means])
    )
    nearest = [
        (
            f"Nearest {real_set} images",
            page.picture(report / name, f"Generated images beside the nearest {real_set} images"),
        )
        for real_set, name in (("training", "nearest_train.png"), ("test", "nearest_test.png"))
    ]
    real = page.code(json.dumps(result["dataset"], indent=2))
    return page.page(
        f"Generated and real images: {result['store']}",
        page.text(_INTRO.format(**result)) + page.facts(copies),
        [
            ("Distance per class", distances),
            ("Copies", page.text(_COPIES.format(**result)) + _table(_COPY_COLUMNS, rows)),
            *nearest,
            ("Settings", page.text(_SETTINGS.format(**result)) + real),
        ],
    )


def _table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, with a dash if there is no value."""

    def cell(name: str, value: Any) -> str:
        if value is None:
            return "—"
        if name.endswith(("precision", "recall")):
            return f"{100 * value:.1f}"
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"

    cells = [[row["class"], *(cell(n, row.get(n)) for n in columns)] for row in rows]
    return page.table(["class", *columns.values()], cells)


def _panel(ax: Axes, rows: Sequence[Mapping[str, Any]], measure: str) -> None:
    counts = measure == "images"
    sets = ("training", "test", "generated") if counts else ("test", "generated")
    places, size = np.arange(len(rows)), 5.5 if len(rows) <= style.MANY_CLASSES else 3
    points = []
    for shift, name in zip(np.linspace(-0.2, 0.2, len(sets)), sets):
        values = [row[f"{name}_{measure}"] for row in rows]
        # A count of 0 cannot be shown on a log scale; the band shows it.
        y = np.array([np.nan if v is None or (counts and not v) else v for v in values], float)
        ax.plot(places + shift, y, **_look(name), markersize=size)
        points.append((places + shift, y))
    if not counts:  # a thin line from the test images of a class to its generated images
        xs, ys = np.swapaxes(points, 0, 1)
        ax.plot(xs, ys, color=style.GREY, linewidth=0.8, zorder=1)
        _limits(ax, share=measure != "frechet_distance")
    else:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylim(bottom=0.7)
    marks = _mark_gaps(ax, rows, measure)
    known = [Line2D([], [], **_look(name), label=_SERIES[name][0]) for name in sets]
    legend = ax.legend(handles=known + marks, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for text, name in zip(legend.get_texts(), sets):
        text.set_color(_SERIES[name][2])


def _look(name: str) -> dict[str, Any]:
    _, marker, colour = _SERIES[name]
    filled = {} if name == "generated" else {"markerfacecolor": "white"}
    return {"marker": marker, "color": colour, "linestyle": "none", "clip_on": False, **filled}


def _limits(ax: Axes, *, share: bool) -> None:
    """Limits from just below 0, so that a value of 0 is not on the axis with the gap marks."""
    top = 1.0 if share else ax.get_ylim()[1]
    ax.set_ylim(-0.1 * top, 1.05 * top)
    if share:
        ax.set_yticks(np.linspace(0, 1, 6))
        style.percent_axis(ax)


def _mark_gaps(ax: Axes, rows: Sequence[Mapping[str, Any]], measure: str) -> list[Artist]:
    """Marks classes without generated images, and values that need more images."""
    ax.set_xlim(-0.5, len(rows) - 0.5)
    marks: list[Artist] = []
    absent = [i for i, row in enumerate(rows) if not row["generated_images"]]
    for i in absent:
        ax.axvspan(i - 0.5, i + 0.5, color=_BAND, zorder=0, linewidth=0)
    if absent:
        marks.append(Patch(color=_BAND, label="none generated"))
    cross: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 4}
    few = False
    for shift, name in ((-0.2, "test"), (0.2, "generated")):
        unknown = [
            i + shift
            for i, row in enumerate(rows)
            if row[f"{name}_images"] and row[f"{name}_{measure}"] is None
        ]
        few |= bool(unknown)
        low = np.full(len(unknown), 0.025)
        ax.plot(unknown, low, **cross, color=_SERIES[name][2], transform=ax.get_xaxis_transform())
    if few:
        marks.append(Line2D([], [], **cross, color=style.BLACK, label="too few images"))
    return marks


def _pair(ax: Axes, pairs: Pairs, i: int, real_set: str, near_copy_below: float) -> None:
    """A picture is 1 wide and 1 high."""
    line, column = divmod(i, _COLUMNS)
    left, top = column * _WIDE, line * _HIGH
    generated, real = style.KIND_COLOURS["generated"], _SERIES[real_set][2]
    for x, image, name, colour in (
        (left, pairs.generated[i], pairs.generated_class[i], generated),
        (left + _BESIDE, pairs.real[i], pairs.real_class[i], real),
    ):
        # auto: whole pixels where a picture is enlarged, antialiased where it is made smaller
        ax.imshow(image, extent=(x, x + 1, top + 1, top), interpolation="auto")
        caption: dict[str, Any] = {"color": colour, "ha": "center", "va": "top", "fontsize": 9}
        ax.text(x + 0.5, top + 1.04, style.shorten(name, 14), **caption)
    difference = pairs.difference[i]
    copy = "" if difference >= near_copy_below else "near copy: " if difference else "COPY: "
    ax.text(
        left + (1 + _BESIDE) / 2,
        top - 0.05,
        f"{copy}{pairs.distance[i]:.3g} · {difference:.3f}",
        fontsize=9,
        fontweight="bold" if copy else "normal",
        ha="center",
        va="bottom",
    )
