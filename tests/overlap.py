"""Finds letters on letters in a figure."""

import contextlib
import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


@contextlib.contextmanager
def figures_checked():
    """Every figure that is saved inside is looked at; yields the texts that each shows."""
    plain, seen = Figure.savefig, []

    def savefig(figure, *args, **kwargs):
        plain(figure, *args, **kwargs)
        boxes = _boxes(figure)
        clashes = [
            (a, b)
            for (a, box), (b, other) in itertools.combinations(boxes, 2)
            if box.shrunk(0.9, 0.9).overlaps(other.shrunk(0.9, 0.9))
        ]
        assert not clashes, f"texts overlap: {clashes[:5]}"
        width, height = figure.canvas.get_width_height()
        outside = [
            text
            for text, box in boxes
            if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
        ]
        assert not outside, f"texts leave the figure: {outside[:5]}"
        seen.append([text for text, _ in boxes])

    Figure.savefig = savefig
    try:
        yield seen
    finally:
        Figure.savefig = plain


def _boxes(figure):
    return list(_visible(figure))


def _visible(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = {
        id(text)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not ax.axison or not _shown(ax, axis, tick)
        for text in (tick.label1, tick.label2)
    }
    for text in figure.findobj(Text):
        inside = text.axes is None or text.axes.axison or text not in text.axes.texts
        if text.get_text().strip() and text.get_visible() and id(text) not in hidden and inside:
            yield_box = text.get_window_extent(renderer)
            if yield_box.width > 0 and yield_box.height > 0:
                yield text.get_text(), yield_box


def _shown(ax, axis, tick):
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    return low - room <= tick.get_loc() <= high + room
