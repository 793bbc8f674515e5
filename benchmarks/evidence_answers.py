"""Answers from the kept runs in results/: rows, tables of each question, figures."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import permutation_test, rankdata

from benchmarks.evidence_rows import (
    BY_CLASS,
    DELTAS,
    FIGURE,
    FROM_THE_START,
    QUESTIONS,
    ROWS,
    VARIED,
    WITH_LOSS,
    WITH_NOISE,
    WRITTEN,
)
from osed_jax.comparison import tables
from osed_jax.comparison.finished_runs import Run, Variant, by_seed, find_runs, without_seed
from osed_jax.comparison.paired_tests import pairs_with
from osed_jax.config.build import differences
from osed_jax.errors import UserError
from osed_jax.files import records
from osed_jax.kinds import NORMS
from osed_jax.reports.bars import Trend, draw_changes, draw_groups, draw_trends
from osed_jax.reports.comparison_page import group_bars

GAP, GAP_TITLE = "gap.json", "6 The gap and the classes"
# What the distances are held against: the first of these rows that are there, with the row that
# they are compared with. Images shown late, as many as can be; images shown from the start.
_GAP_ROWS = {
    "drs": tuple(f"osed_{norm}_one" for norm in NORMS),
    "ros": ("fill_shared_third", "fill_shared_one"),
}
# Questions that also show each class, and further rows to compare with: what the names of the rows
# begin with that are compared with each.
_ALSO = {
    BY_CLASS: {"open": "osed"},
    FROM_THE_START: {"drs": "fill", "open": "fill"},
    WITH_NOISE: {"drs": "fill"},
    WITH_LOSS: {},
}


def variants(folder: Path, seeds: Collection[int] | None = None) -> dict[str, Variant]:
    """The finished runs by row, in the order of the rows; of all seeds, or of some.

    Raises:
      UserError: for a folder that is not named after row and seed, a seed that is there twice, runs
        of a row that differ in more than the seed, rows of different settings.
    """
    runs: dict[str, list[Run]] = {name: [] for name in ROWS}
    found = find_runs(folder)
    for run in found:
        name, _, seed = run.directory.name.partition(".seed_")
        if name not in runs or seed != str(run.seed):
            raise UserError(
                f"{run.directory}, of seed {run.seed}, is not a run of a row; its name must be "
                f"ROW.seed_{run.seed}"
            )
        runs[name].append(run)
        _check_same(found[0], run, without=VARIED)
        _check_same(runs[name][0], run)
    made = {name: Variant(ROWS[name].title, by_seed(found)) for name, found in runs.items()}
    if seeds is not None:
        made = {name: _of(variant, seeds) for name, variant in made.items()}
    return {name: variant for name, variant in made.items() if variant.runs}


def on_shared_seeds(rows: Iterable[Variant]) -> list[Variant]:
    """Rows on the seeds that all of them have; none if there is no such seed.

    Otherwise differences between seeds would look like differences between rows.
    """
    rows = list(rows)
    shared = set.intersection(*(set(row.seeds) for row in rows)) if rows else set()
    return [_of(row, shared) for row in rows] if shared else []


def _of(row: Variant, seeds: Collection[int]) -> Variant:
    return dataclasses.replace(row, runs=tuple(run for run in row.runs if run.seed in seeds))


def _check_same(first: Run, other: Run, without: Collection[str] = ()) -> None:
    """Raises UserError if configs differ in more than the seed and what rows may differ in."""
    configs = [without_seed(run.summary["config"]) for run in (first, other)]
    changed = [told for told in differences(*configs) if not told.startswith(tuple(without))]
    if changed:
        raise UserError(
            f"{first.directory} and {other.directory} are of different settings "
            f"({'; '.join(changed)}); keep each setting in a folder of its own"
        )


class Gap(NamedTuple):
    """How far the generated images of each class are from real ones, and what they change.

    Attributes:
      classes: of `gap.json`, C of them.
      counts: training images of each.
      base: title of the row that the others are compared with.
      changes: of the other rows, the change of each class's accuracy from that of the base, means
        over the seeds that all have.
    """

    classes: list[dict[str, Any]]
    counts: list[int]
    base: str
    changes: dict[str, tuple[float, ...]]


def read_gap(folder: Path, rows: dict[str, Variant]) -> Gap | None:
    """The gap that `keep_gap` saved, with its rows; None if one of them is missing.

    Raises:
      UserError: if it is of another data set than the runs.
    """
    there = [(b, o) for b, o in _GAP_ROWS.items() if {b, *o} <= rows.keys()]
    if not (folder / GAP).is_file() or not there:
        return None
    base, others = there[0]
    found, run = records.read_json(folder / GAP), rows[base].runs[0]
    if changed := differences(found["dataset"], run.summary["config"]["dataset"]):
        raise UserError(
            f"{folder / GAP} is of other data than {run.directory} ({'; '.join(changed)}); "
            "make it with the config of the runs"
        )
    first, *rest = on_shared_seeds([rows[base], *(rows[name] for name in others)])
    changes = {pair.second: pair.by_class for pair in pairs_with(first, rest)}
    return Gap(found["classes"], run.summary["class_counts"], first.name, changes)


def answers(
    rows: dict[str, Variant], gap: Gap | None = None
) -> list[tuple[str, list[tables.Table]]]:
    """For each question that has two rows: its title, their figures and paired differences.

    A question is left out if those before it show all its rows, on the same seeds. Its tables are
    of the seeds that all its rows have. Some questions (`_ALSO`) also show differences from other
    rows and the accuracy of each class. Last, what the gap says of the classes.
    """
    found: list[tuple[str, list[tables.Table]]] = []
    seen: set[tuple[str, int]] = set()
    for title, names in QUESTIONS.items():
        names = [name for name in names if name in rows]
        there = dict(zip(names, on_shared_seeds(rows[name] for name in names)))
        runs = {(name, seed) for name, row in there.items() for seed in row.seeds}
        if len(there) > 1 and QUESTIONS[title][0] in there and not runs <= seen:
            seen |= runs
            first, *others = there.values()
            shown = [tables.overall([first, *others]), tables.paired(pairs_with(first, others))]
            for base, begins in _ALSO.get(title, {}).items():
                compared = [row for name, row in there.items() if name.startswith(begins)]
                if base in there and compared:
                    shown.append(tables.paired(pairs_with(there[base], compared)))
            if title in _ALSO:
                shown.append(tables.classes([first, *others]))
            found.append((title, shown))
    if gap:
        found.append((GAP_TITLE, [gap_table(gap)]))
    return found


def gap_table(gap: Gap) -> tables.Table:
    """A row for each class: distances in the net's features, shares in %, changes in points.

    The last row has the rank correlation of a column with the distance of the generated images,
    over the classes that show any: all but the most frequent. Distances of few images are biased
    upwards; that of the test images shows by how much.
    """
    shown = [c for c, count in enumerate(gap.counts) if count < max(gap.counts)]
    distance = [gap.classes[c]["generated_frechet_distance"] for c in shown]

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
            *(f"{100 * change[c]:+.2f}" for change in gap.changes.values()),
        ]
        for c, (row, count) in enumerate(zip(gap.classes, gap.counts))
    ]
    ranks = map(rank, gap.changes.values())
    rows.append(["rank correlation with the distance", "", *([""] * len(measures)), *ranks])
    return ["class", "training images", *measures, *gap.changes], rows


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation, and its p-value by permutation: exact for up to nine pairs."""
    # Rounded, so that classes that change alike share a rank.
    ranks = [rankdata(np.round(values, 9)) for values in (x, y)]
    x_score, y_score = ((r - r.mean()) / (r.std() * len(r) ** 0.5) for r in ranks)
    found = permutation_test(
        (x_score,),
        lambda score, axis: (score * y_score).sum(axis=axis),
        permutation_type="pairings",
        n_resamples=400_000,  # nine pairs can be permuted in 362,880 ways
        batch=50_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(found.statistic), float(found.pvalue)


def draw(path: Path, rows: dict[str, Variant], gap: Gap | None) -> None:
    """Accuracy of groups at `path`; beside it the norms at every delta, and the classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if shown := on_shared_seeds(row for name, row in rows.items() if name in FIGURE):
        draw_groups(path, group_bars(shown))
    if {"drs", *(f"osed_{norm}_{name}" for norm in NORMS for name in DELTAS)} <= rows.keys():
        draw_norms(path.with_suffix(".norms.png"), rows)
    if gap:
        draw_gap(path.with_suffix(".classes.png"), gap)


def draw_norms(path: Path, rows: dict[str, Variant]) -> None:
    """A line for each norm: what more and more generated images change, paired by seed."""
    names = [f"osed_{norm}_{name}" for norm in NORMS for name in DELTAS]
    drs, *osed = on_shared_seeds([rows["drs"], *(rows[name] for name in names)])
    pairs = dict(zip(names, pairs_with(drs, osed)))
    trends: dict[str, Trend] = {}
    for norm in NORMS:
        changes = [pairs[f"osed_{norm}_{name}"].top1 for name in DELTAS]
        trends[norm] = [(0.0, None), *((change.mean, change.interval) for change in changes)]
    draw_trends(
        path,
        ["0 (DRS)", *(WRITTEN[name] for name in DELTAS)],
        trends,
        title="Generated images, by their batch norm",
        xlabel="δ: share of generated images, of what a class lacks",
        ylabel="top-1, change from DRS (points)",
    )


def draw_gap(path: Path, gap: Gap) -> None:
    """The changes as bars, the class whose images are nearest to real ones on top."""
    order = np.argsort([row["generated_frechet_distance"] for row in gap.classes])
    names = [
        f"{gap.classes[c]['class']} ({gap.classes[c]['generated_frechet_distance']:.2f})"
        for c in order
    ]
    changes = {name: [change[c] for c in order] for name, change in gap.changes.items()}
    draw_changes(path, names, changes, f"Against {gap.base}, by Fréchet distance")
