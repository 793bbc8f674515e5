"""The figure and the page of gradients by layer, kind of row and batch norm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from osed_jax.evaluation.layer_gradients import LayerGradient
from osed_jax.kinds import NORMS
from osed_jax.reports import page, style

# Colour, marker, its size, whether it is filled, and line of each batch norm. Sizes differ, so that
# norms with equal values are all visible.
_LOOK = {
    "shared": (style.BLUE, "o", 4.0, True, "-"),
    "dar": (style.VERMILLION, "v", 11.0, False, "-"),
    "dar_grad": (style.GREEN, "s", 6.5, False, "-"),
    "aux": (style.BLACK, "D", 2.5, True, ":"),
}
_NORM_TITLES = {
    "shared": "shared: one batch norm for all rows",
    "dar": "dar: DAR-BN, gradient stopped",
    "dar_grad": "dar_grad: DAR-BN, gradient flows",
    "aux": "aux: auxiliary batch norm",
}
_FLOOR_LABEL = "no gradient"
_METHOD = (
    "Each batch is shown whole, in training mode, with each batch norm; the gradient of the "
    "mean loss over the rows of one kind is taken by itself. The norm of a layer's gradient is "
    "given relative to that of the natural rows in the same batch, and its cosine to theirs: 1 "
    "pulls the layer the same way, 0 is unrelated, -1 pulls against. Means and standard deviations "
    "are over batches. No cosine exists where no gradient arrives.",
    "With aux, a norm's own scale and bias for generated or noise rows belong to the norm's "
    "layer. Natural rows never move them, so the cosine of these layers is 0 by construction; the "
    "figure and the summary leave it out.",
)


class Line(NamedTuple):
    """The values of one batch norm and kind in the figure: length L each, NaN for no value.

    Attributes:
      ratio: norm relative to the natural rows', where it is above 0.
      ratio_std: its standard deviation over batches.
      nothing: bool, whether the norm is exactly 0 in every batch.
      cosine: to the natural rows' gradient, where the two share parameters.
      cosine_std: its standard deviation.
    """

    ratio: np.ndarray
    ratio_std: np.ndarray
    nothing: np.ndarray
    cosine: np.ndarray
    cosine_std: np.ndarray


def line_of(rows: Sequence[LayerGradient], batch_norm: str, kind: str) -> Line:
    """The values of a batch norm and kind in the figure, from the rows of the table."""
    own = [row for row in rows if (row.batch_norm, row.kind) == (batch_norm, kind)]

    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in own], dtype=np.float64)  # None: NaN

    ratio, nothing = column("ratio_mean"), column("norm_mean") == 0
    cosine = column("cosine_mean")
    return Line(
        ratio=np.where(nothing, np.nan, ratio),
        ratio_std=column("ratio_std"),
        nothing=nothing,
        cosine=np.where(cosine == 0, np.nan, cosine),
        cosine_std=column("cosine_std"),
    )


def write_figure(rows: Sequence[LayerGradient], path: Path) -> None:
    """Draws `draw`'s figure into a PNG file."""
    layers, kinds = layers_in(rows), kinds_in(rows)
    width = max(5.0, 2.2 + 0.11 * len(layers))
    with style.figure(1.0 + width * len(kinds), 7.6, path) as drawn:
        draw(drawn, rows)


def draw(drawn: Figure, rows: Sequence[LayerGradient]) -> None:
    """Norms above, cosines below; a column for each kind of row, a line for each batch norm."""
    layers, kinds = layers_in(rows), kinds_in(rows)
    panels: Any = drawn.subplots(2, len(kinds), squeeze=False, sharex=True, sharey="row")
    floor = _floor(rows, kinds)
    for column, kind in enumerate(kinds):
        above, below = panels[0, column], panels[1, column]
        for batch_norm in NORMS:
            _draw_line(above, below, line_of(rows, batch_norm, kind), batch_norm, floor)
        above.set_title(f"{kind.capitalize()} rows: how strongly they pull")
        below.set_title(f"{kind.capitalize()} rows: whether they pull the same way")
        above.axhline(1, color=style.GREY, linewidth=0.8, zorder=1)
        below.axhline(0, color=style.GREY, linewidth=0.8, zorder=1)
        style.name_classes(below, [_short(layer) for layer in layers])
        below.tick_params(axis="x", labelrotation=90)
        below.set_xlabel("layer, in the order of the forward pass")
    _norm_axis(panels[0, 0], rows, kinds, floor)
    panels[0, 0].set_ylabel("gradient norm / that of natural rows")
    panels[1, 0].set_ylabel("cosine to natural rows' gradient")
    panels[1, 0].set_ylim(-1.08, 1.08)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=2)
    drawn.align_ylabels()


def layers_in(rows: Sequence[LayerGradient]) -> list[str]:
    """Names of the layers, in order."""
    return list(dict.fromkeys(row.layer for row in rows))


def kinds_in(rows: Sequence[LayerGradient]) -> list[str]:
    """The kinds of rows that were measured, without the natural one."""
    return [k for k in dict.fromkeys(row.kind for row in rows) if k != "natural"]


def summary(rows: Sequence[LayerGradient]) -> list[list[str]]:
    """A table: the layers that each kind and batch norm reaches, and medians over those layers."""
    head = ["rows", "batch norm", "layers reached", "norm / natural (median)", "cosine (median)"]
    body = []
    num_layers = len(layers_in(rows))
    for kind in kinds_in(rows):
        for batch_norm in NORMS:
            own = [
                r for r in rows if (r.batch_norm, r.kind) == (batch_norm, kind) and r.norm_mean > 0
            ]
            reached = f"{len(own)} of {num_layers}"
            reached += f": {own[0].layer} alone" if len(own) == 1 else ""
            line = line_of(rows, batch_norm, kind)
            body.append([kind, batch_norm, reached, _median(line.ratio), _median(line.cosine)])
    return [head, *body]


def render(rows: Sequence[LayerGradient], figure: Path, setting: str) -> str:
    """The page: what was measured, the figure, a summary and every number.

    Args:
      rows: the table.
      figure: the PNG file.
      setting: the content of the batches, in words.
    """
    head, *body = summary(rows)
    sections = [
        (
            "Figure",
            page.picture(figure, "gradient norms and cosines by layer, kind and batch norm"),
        ),
        ("Summary", page.table(head, body)),
        ("How it was measured", page.text(setting, *_METHOD)),
    ]
    sections += [(f"{kind.capitalize()} rows", _numbers(rows, kind)) for kind in kinds_in(rows)]
    sections.append(("Natural rows", _natural(rows)))
    return page.page("What each kind of row does to the net", "", sections)


def _draw_line(above: Axes, below: Axes, line: Line, batch_norm: str, floor: float) -> None:
    colour, marker, size, filled, dashes = _LOOK[batch_norm]
    x = np.arange(len(line.ratio))
    look: dict[str, Any] = {
        "color": colour,
        "marker": marker,
        "markersize": size if len(x) <= 30 else 0.7 * size,
        "markerfacecolor": colour if filled else "none",
        "markeredgewidth": 1.4,
        "linewidth": 1.2,
    }
    zeros = x[line.nothing]
    if len(zeros):
        bottom = np.full(len(zeros), floor)
        above.plot(zeros, bottom, linestyle="", gid=f"{batch_norm} {_FLOOR_LABEL}", **look)
    for ax, mean, spread in (
        (above, line.ratio, line.ratio_std),
        (below, line.cosine, line.cosine_std),
    ):
        known = ~np.isnan(mean)
        at, mean, spread = x[known], mean[known], spread[known]
        ax.plot(at, mean, linestyle=dashes, label=_NORM_TITLES[batch_norm], gid=batch_norm, **look)
        low = np.maximum(mean - spread, 2 * floor) if ax is above else mean - spread
        ax.fill_between(at, low, mean + spread, color=colour, alpha=0.12, linewidth=0)


def _floor(rows: Sequence[LayerGradient], kinds: Sequence[str]) -> float:
    """Where exact zeros are drawn on the logarithmic axis: a decade below everything else."""
    return 10.0 ** (_decades(rows, kinds)[0] - 1)


def _decades(rows: Sequence[LayerGradient], kinds: Sequence[str]) -> tuple[int, int]:
    ratios = [r.ratio_mean for r in rows if r.kind in kinds and r.ratio_mean]
    low, high = min([*ratios, 1.0]), max([*ratios, 3.0])
    return int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))


def _norm_axis(ax: Axes, rows: Sequence[LayerGradient], kinds: Sequence[str], floor: float) -> None:
    """Decades, and below them a line for 0, which a logarithmic axis does not have."""
    low, high = _decades(rows, kinds)
    ax.set_yscale("log")
    decades = range(low, high + 1, -(-(high - low) // 8))
    ax.set_yticks([floor, *(10.0**d for d in decades)])
    ax.set_yticklabels([_FLOOR_LABEL, *(f"{10.0**d:g}" for d in decades)])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(floor / 1.6, 10.0**high * 1.2)


def _short(layer: str) -> str:
    """A layer's name that fits under a tick: `block 0 conv 1`."""
    for old, new in (("RoutedBatchNorm", "norm"), ("_", " "), ("/", " ")):
        layer = layer.replace(old, new)
    return layer.lower()


def _numbers(rows: Sequence[LayerGradient], kind: str) -> str:
    """Every ratio and cosine of a kind; a column for each batch norm."""
    head = [
        "layer",
        *(f"norm, {batch_norm}" for batch_norm in NORMS),
        *(f"cosine, {batch_norm}" for batch_norm in NORMS),
    ]
    found = {(r.batch_norm, r.layer): r for r in rows if r.kind == kind}
    body = []
    for layer in layers_in(rows):
        own = [found[batch_norm, layer] for batch_norm in NORMS]
        norms = [_spread(r.ratio_mean, r.ratio_std) for r in own]
        body.append([layer, *norms, *(_spread(r.cosine_mean, r.cosine_std) for r in own)])
    return page.text("Norms relative to those of natural rows.") + page.table(head, body)


def _natural(rows: Sequence[LayerGradient]) -> str:
    found = {(r.batch_norm, r.layer): r for r in rows if r.kind == "natural"}
    body = [
        [layer, *(_spread(r.norm_mean, r.norm_std) for r in (found[o, layer] for o in NORMS))]
        for layer in layers_in(rows)
    ]
    return page.text("Norms as they are.") + page.table(["layer", *NORMS], body)


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "—"
    return f"{mean:.3g}" + ("" if deviation is None or not mean else f" ± {deviation:.2g}")


def _median(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{np.median(known):.2f}" if len(known) else "—"
