"""What is asked of the rows of a setting, and the tables that answer it."""

import csv
import dataclasses
import functools
import itertools
import json
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.rows import DELTAS, FILL_NORMS, LIFTED_ROW
from osed_jax.comparison import tables
from osed_jax.comparison.finished_runs import Variant
from osed_jax.comparison.paired_tests import pairs_with
from osed_jax.kinds import NORMS

Section = tuple[str, list[tables.Table]]  # a heading and its tables

_FILL = tuple(f"fill_shared_{name}" for name in DELTAS)
_OSED, _START, _NOISE, _LOSS, _DIGITS = (
    "2. OSeD against the others",
    "7. Images from the start",
    # Of nets for which resampling from epoch 0 did not run, and so question 7 has no answer.
    "11. Images from the start and OPeN",
    "9. Logit adjustment",
    "9. Losses and mixing, δ = 1",
)
# The first row of a question is what the others are compared with.
QUESTIONS = {
    "1. Reproduction": ("erm", "ros", "drs", "open", "open_aux", "open_shared"),
    _OSED: ("drs", "erm", "open", LIFTED_ROW, *(f"osed_shared_{name}" for name in DELTAS)),
    "3. The batch norm": ("drs", *(f"osed_{norm}_{name}" for name in DELTAS for norm in NORMS)),
    "4. Deferral": ("osed_from_0", LIFTED_ROW, "ros", "drs"),
    "5. What lifts OSeD further": (
        LIFTED_ROW,
        "osed_real_last",
        "osed_all_classes",
        "osed_filtered",
        "osed_half_noise",
        "osed_balanced_softmax",
    ),
    "5. What lifts OSeD through shared": (
        "osed_shared_one",
        "osed_shared_one_real_last",
        "osed_shared_one_filtered",
    ),
    _START: ("ros", "erm", "drs", "open", "open_from_0", *_FILL),
    _NOISE: ("open", "erm", "drs", LIFTED_ROW, *_FILL),
    "8. Levers of fill": (
        "fill_shared_two_thirds",
        "fill_weight",
        "fill_falling",
        "fill_real_last",
        "fill_head",
        "fill_near",
        "fill_filtered",
    ),
    _LOSS: ("la", "erm", "ros", "drs", "open", LIFTED_ROW, *_FILL),
    "9. Losses and mixing": ("erm", "la", "ldam_drw", "mixup_drw", _FILL[0]),
    "9. Losses and mixing with fill": (_FILL[0], "fill_la", "fill_ldam", "fill_mixup"),
    _DIGITS: ("erm", "la", "ldam_drw", "mixup_drw", _FILL[2], "fill_one_la", "fill_one_mixup"),
    "10. Norm of fill": (
        "fill_shared_two_thirds",
        "fill_shared_third",
        "fill_shared_one",
        *(f"fill_{norm}_{name}" for name in DELTAS for norm in FILL_NORMS[1:]),
    ),
    "12. Number of generated images": (
        "fill_shared_two_thirds",
        *(f"fill_{number}_images" for number in (500, 100, 20)),
    ),
}
# Questions that also show each class, and further rows to compare with: what the names of the rows
# begin with that are compared with each.
_ALSO: dict[str, dict[str, str]] = {
    _OSED: {"open": "osed"},
    _START: {"drs": "fill", "open": "fill"},
    _NOISE: {"drs": "fill"},
    _LOSS: {},
    _DIGITS: {_FILL[2]: "fill_one"},
}
# What the distances are held against: the first of these rows that are there, with the row that
# they are compared with. Images shown late; images shown from the start.
_GAP_ROWS = {
    "drs": (*(f"osed_{norm}_one" for norm in NORMS), "osed_shared_third"),
    "ros": ("fill_shared_third", "fill_shared_one"),
}


def answers(rows: Mapping[str, Variant]) -> Iterator[Section]:
    """For each question that has two rows: its title, their figures and paired differences.

    A question is left out if those before it show all its rows, on the same seeds. Its tables are
    of the seeds that all its rows have, as otherwise differences between seeds would look like
    differences between rows. Some (`_ALSO`) also show differences from other rows, and each class.
    """
    seen: set[tuple[str, int]] = set()
    for title, names in QUESTIONS.items():
        there = [name for name in names if name in rows]
        shown = dict(zip(there, on_shared_seeds(rows[name] for name in there)))
        runs = {(name, seed) for name, row in shown.items() for seed in row.seeds}
        if len(shown) < 2 or names[0] not in shown or runs <= seen:
            continue
        seen |= runs
        first, *others = shown.values()
        found = [tables.overall([first, *others]), tables.paired(pairs_with(first, others))]
        for base, begins in _ALSO.get(title, {}).items():
            compared = [row for name, row in shown.items() if name.startswith(begins)]
            if base in shown and compared:
                found.append(tables.paired(pairs_with(shown[base], compared)))
        if title in _ALSO:
            found.append(tables.classes([first, *others]))
        yield title, found


def on_shared_seeds(rows: Iterable[Variant]) -> list[Variant]:
    """Rows on the seeds that all of them have; none if there is no such seed."""
    rows = list(rows)
    shared = set.intersection(*(set(row.seeds) for row in rows)) if rows else set()
    return [of_seeds(row, shared) for row in rows] if shared else []


def of_seeds(row: Variant, seeds: Collection[int]) -> Variant:
    """The row with the runs of some seeds."""
    return dataclasses.replace(row, runs=tuple(run for run in row.runs if run.seed in seeds))


def distances(folder: Path, rows: Mapping[str, Variant]) -> Iterator[Section]:
    """How far each class's generated images are from real ones, and what they change.

    Read from what --mode=gap wrote: `gap.json`, and `gap_N_images.json` with N images of a class.
    """
    for path in sorted(folder.glob("gap*.json")):
        number = path.stem.removeprefix("gap").replace("_", " ").strip()
        base, others = next((b, o) for b, o in _GAP_ROWS.items() if {b, *o} <= rows.keys())
        first, *rest = on_shared_seeds([rows[base], *(rows[name] for name in others)])
        pairs = pairs_with(first, rest)
        changes = {f"{pair.second} vs {pair.first}": pair.by_class for pair in pairs}
        counts = first.runs[0].summary["class_counts"]
        found = json.loads(path.read_text())["classes"]
        title = f"6. The gap and the classes{f', {number} of each' if number else ''}"
        yield title, [gap_table(found, counts, changes)]


def gap_table(
    classes: Sequence[Mapping[str, Any]],
    counts: Sequence[int],
    changes: Mapping[str, Sequence[float]],
) -> tables.Table:
    """A row for each class: distances in the net's features, shares in %, changes in points.

    The last row has the rank correlation of a column with the distance of the generated images,
    over the classes that show any: all but the most frequent. Distances of few images are biased
    upwards; that of the test images shows by how much.

    Args:
      classes: of the file of --mode=gap.
      counts: training images of each.
      changes: row -> change of each class's accuracy, shares.
    """
    shown = [c for c, count in enumerate(counts) if count < max(counts)]
    distance = [classes[c]["generated_frechet_distance"] for c in shown]

    def rank(change: Sequence[float]) -> str:
        statistic, p_value = rank_correlation(distance, [change[c] for c in shown])
        return f"{statistic:+.2f} (p {tables.p_value(p_value)})"

    measures = {
        "distance": ("generated_frechet_distance", 1),
        "of test images": ("test_frechet_distance", 1),
        "precision": ("generated_precision", 100),
        "recall": ("generated_recall", 100),
    }
    rows = [
        [
            row["class"],
            f"{count:,}",
            *(f"{scale * row[key]:.{2 if scale == 1 else 1}f}" for key, scale in measures.values()),
            *(f"{100 * change[c]:+.2f}" for change in changes.values()),
        ]
        for c, (row, count) in enumerate(zip(classes, counts))
    ]
    ranks = map(rank, changes.values())
    rows.append(["rank correlation with the distance", "", *([""] * len(measures)), *ranks])
    return ["class", "training images", *measures, *changes], rows


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation and its exact two-sided p-value, for up to nine pairs."""
    # Rounded, so that classes that change alike share a rank.
    ranks = [rankdata(np.round(values, 9)) for values in (x, y)]
    a, b = ((r - r.mean()) / (r.std() * len(r) ** 0.5) for r in ranks)
    value, all_orders = float(a @ b), a[_orders(len(a))] @ b
    above, below = ((sign * all_orders >= sign * value - 1e-12).mean() for sign in (1, -1))
    return value, float(min(2 * min(above, below), 1.0))


@functools.cache
def _orders(number: int) -> np.ndarray:
    """Every order of so many things, int8 [number!, number]."""
    return np.array(list(itertools.permutations(range(number))), np.int8)


def gradients(path: Path) -> tables.Table:
    """Medians over the layers reached, of what --mode=diagnose wrote."""
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    rows = []
    for norm, kind in dict.fromkeys((line["batch_norm"], line["kind"]) for line in lines):
        if kind == "natural":
            continue
        layers = [line for line in lines if (line["batch_norm"], line["kind"]) == (norm, kind)]
        reached = [line for line in layers if float(line["norm_mean"]) > 0]
        ratios = [float(line["ratio_mean"]) for line in reached]
        # Of `aux` the norms have parameters of their own, which no natural row reaches: exactly 0.
        cosines = [c for line in reached if (c := float(line["cosine_mean"]))]
        medians = [statistics.median(values) for values in (ratios, cosines)]
        last = ", the last" if reached == layers[-1:] else ""
        row = [kind, norm, f"{len(reached)} of {len(layers)}{last}"]
        rows.append([*row, f"{medians[0]:.2f}", f"{medians[1]:.2f}"])
    return ["rows", "batch norm", "layers reached", "norm / natural", "cosine to natural"], rows
