r"""The runs behind docs/results.md: trains what is missing, keeps their figures, prints the tables.

    python benchmarks/evidence.py --config=configs/cifar10_lt_small.py --workdir=runs/small \
        --seeds=0,1 --config.dataset.name=folder --config.dataset.image_size=32 \
        --config.dataset.data_dir=DIR --config.oversampling.generated_dir=GENERATED
    python benchmarks/evidence.py --workdir=docs/results/small     # the tables of what is there

A row is a method and the fields in which it differs from the config. Its run with a seed is
WORKDIR/ROW.seed_N. ERM is trained once a seed, and the deferred rows are forked from it. What is
finished is skipped, what was interrupted goes on; processes started side by side, each with some of
the seeds, share a WORKDIR. What filtered rows show is selected for the first seed that comes to it,
by that seed's ERM net, into WORKDIR/GENERATED.filtered.

--keep=FOLDER copies each finished run's summary.json there, without the paths of this machine, its
predicted classes, and what was filtered, and --gap=FILE the gap.json that --mode=gap wrote of
GENERATED: enough for all tables.
"""

import fcntl
import io
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from scipy.stats import spearmanr

from benchmarks.evidence_rows import (
    BY_CLASS,
    FIGURE,
    QUESTIONS,
    ROWS,
    config_of,
    on_selected,
    run_directory,
)
from osed_jax import experiment, workdir
from osed_jax.config import check, differences
from osed_jax.console import say
from osed_jax.data.folder import class_folders
from osed_jax.data.sampling import ROADS
from osed_jax.errors import UserError
from osed_jax.evaluation import tables
from osed_jax.evaluation.compare import group_bars
from osed_jax.evaluation.pairs import pairs_with
from osed_jax.evaluation.runs import Run, Variant, by_seed, find_runs, without_seed
from osed_jax.experiment import Config
from osed_jax.generation import select
from osed_jax.generation.opinions import FILTERS
from osed_jax.host_memory import use_large_pages
from osed_jax.reporting.bars import draw_changes, draw_groups
from osed_jax.training.train import train

_GAP, GAP_TITLE = "gap.json", "6 The gap and the classes"
_PATHS = (("dataset", "data_dir"), ("oversampling", "generated_dir"), ("init", "fork_from"))


def main(argv: list[str]) -> None:
    """Trains, keeps, prints."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    folder = Path(given.workdir)
    try:
        if given.config is not None:
            names = list(ROWS) if given.rows == ["all"] else given.rows
            train_all(planned(check(given.config), folder, names, numbers(given.seeds)))
        if given.gap and not given.keep:
            raise UserError("--gap says what --keep is to keep; give that, too")
        if given.keep:
            for path in sorted(folder.glob("*/summary.json")):
                keep(path.parent, Path(given.keep))
            if given.gap:
                keep_gap(Path(given.gap), Path(given.keep))
        rows = variants(folder)
        gap = read_gap(folder, rows)
        if given.figure:
            bars = group_bars([row for name, row in rows.items() if name in FIGURE])
            draw_groups(Path(given.figure), bars)
            if gap:
                draw_gap(Path(given.figure).with_suffix(".classes.png"), gap)
        for title, shown in answers(rows, gap):
            say("\n\n".join([f"\n{title}", *map(tables.markdown, shown)]))
    except UserError as error:
        sys.exit(f"error: {error}")


def numbers(seeds: Iterable[str]) -> list[int]:
    """Of the command line's list."""
    try:
        return list(map(int, seeds))
    except ValueError as error:
        given = ",".join(seeds)
        raise UserError(f"--seeds is {given}; give whole numbers, such as 0,1,2") from error


def planned(
    config: Config, folder: Path, names: Iterable[str], seeds: Iterable[int]
) -> list[tuple[Path, Config]]:
    """The work directory and the config of every run, ERM first where others need it."""
    names = list(names)
    if not config["oversampling"]["start_epoch"]:
        raise UserError(
            "config.oversampling.start_epoch is 0; give the epoch at which deferred rows start"
        )
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        raise UserError(f"there is no row {', '.join(unknown)}; use some of {', '.join(ROWS)}")
    if any(config_of(config, name, 0, folder)["init"]["fork_from"] for name in names):
        names = ["erm", *(name for name in names if name != "erm")]
    return [
        (run_directory(folder, name, seed), config_of(config, name, seed, folder))
        for seed in seeds
        for name in names
    ]


def train_all(runs: list[tuple[Path, Config]]) -> None:
    """Trains what is not finished; first looks whether all has the images that it shows."""
    shown = {
        experiment.generated_dir(run)
        for path, run in runs
        if run["oversampling"]["mode"] == "diffusion" and not (path / "summary.json").exists()
    }
    for folder in sorted(shown):
        if not folder.is_dir():
            raise UserError(
                f"there is no folder of generated images {folder}; give it as "
                f"--config.oversampling.generated_dir"
            )
        class_folders(folder)
    for number, (path, run) in enumerate(runs):
        say(f"run {number + 1} of {len(runs)}: {path}")
        if run["generation"]["selected_dir"]:
            if not (path / "summary.json").exists():
                select_once(run)
            run = on_selected(run)
        train(run, path)


def select_once(run: Config) -> None:
    """Selects the images of a run, unless the process of another seed has done it.

    Raises:
      UserError: where they were selected by other filters, or of other images.
    """
    selected = Path(run["generation"]["selected_dir"])
    with open(selected.with_name(f".{selected.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not selected.exists():
            select.select(run)
    asked = {name: run["generation"][name] for name in FILTERS}
    asked["generated_dir"] = run["oversampling"]["generated_dir"]
    done = workdir.read_json(selected / select.FILE)["settings"]
    asked["classifier_workdir"] = done["classifier_workdir"]  # of the first seed that came
    if changed := differences(done, asked):
        raise UserError(
            f"{selected} was selected otherwise ({'; '.join(changed)}); remove it, or give another "
            f"--workdir"
        )


def keep(directory: Path, target: Path) -> None:
    """Copies a run's figures and, as one-hot logits of a few kB, its predicted classes.

    Where its generated images were selected, what the filters were and said, too.
    """
    summary = workdir.read_json(directory / "summary.json")
    generated = summary["config"]["oversampling"]["generated_dir"]
    kept, made = directory / select.FILE, Path(generated) / select.FILE
    selection = made if generated and not kept.is_file() else kept
    for section, field in _PATHS:
        summary["config"][section][field] = Path(summary["config"][section][field]).name
    summary["forked_from"] = summary["config"]["init"]["fork_from"] or None
    with np.load(directory / "predictions.npz") as file:
        logits, label = file["logits"], file["label"]
    one_hot = np.eye(logits.shape[1], dtype=np.int8)[logits.argmax(axis=1)]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=one_hot, label=label.astype(np.int16))
    folder = target / directory.name
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_atomically(folder / "predictions.npz", buffer.getvalue())
    if selection.is_file():
        found = workdir.read_json(selection)
        for name in ("generated_dir", "classifier_workdir"):
            found["settings"][name] = Path(found["settings"][name]).name
        workdir.write_json(folder / select.FILE, found)
    workdir.write_json(folder / "summary.json", summary)


def keep_gap(source: Path, target: Path) -> None:
    """Copies what --mode=gap found, without the paths of this machine."""
    found = workdir.read_json(source)
    found["dataset"]["data_dir"] = Path(found["dataset"]["data_dir"]).name
    for name in ("store", "workdir"):
        found[name] = Path(found[name]).name
    target.mkdir(parents=True, exist_ok=True)
    workdir.write_json(target / _GAP, found)


def variants(folder: Path) -> dict[str, Variant]:
    """The finished runs by row, in the order of the rows.

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
                f"{run.directory}, of seed {run.seed}, is no run of a row; its name must be "
                f"ROW.seed_{run.seed}"
            )
        runs[name].append(run)
        _check_same(found[0], run, without=("oversampling", "loss"))
        _check_same(runs[name][0], run)
    return {
        name: Variant(ROWS[name].title, by_seed(members))
        for name, members in runs.items()
        if members
    }


def _check_same(first: Run, other: Run, without: Collection[str] = ()) -> None:
    """Raises UserError where configs differ in more than the seed and what rows may differ in."""
    configs = (without_seed(run.summary["config"]) for run in (first, other))
    changed = differences(*({k: v for k, v in c.items() if k not in without} for c in configs))
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
      changes: of rows that show as many generated images as can be, the change of each class's
        accuracy from that of deferred resampling, means over the seeds that both have.
    """

    classes: list[dict[str, Any]]
    counts: list[int]
    changes: dict[str, tuple[float, ...]]


def read_gap(folder: Path, rows: dict[str, Variant]) -> Gap | None:
    """What `keep_gap` left in a folder, with its rows; None where one of them is not there.

    Raises:
      UserError: where it is of another data set than the runs.
    """
    names = [f"osed_{road}_one" for road in ROADS]
    if not (folder / _GAP).is_file() or not {"drs", *names} <= rows.keys():
        return None
    found, run = workdir.read_json(folder / _GAP), rows["drs"].runs[0]
    if changed := differences(found["dataset"], run.summary["config"]["dataset"]):
        raise UserError(
            f"{folder / _GAP} is of other data than {run.directory} ({'; '.join(changed)}); "
            f"make it with the config of the runs"
        )
    pairs = pairs_with(rows["drs"], [rows[name] for name in names])
    changes = {pair.second: pair.by_class for pair in pairs}
    return Gap(found["classes"], run.summary["class_counts"], changes)


def answers(
    rows: dict[str, Variant], gap: Gap | None = None
) -> list[tuple[str, list[tables.Table]]]:
    """For each question that has two rows: its title, their figures and paired differences.

    For the second also the differences from OPeN and the accuracy of each class. Last, what the gap
    says of the classes.
    """
    found = []
    for title, names in QUESTIONS.items():
        there = [rows[name] for name in names if name in rows]
        if len(there) > 1 and names[0] in rows:
            shown = [tables.overall(there), tables.paired(pairs_with(there[0], there[1:]))]
            if title == BY_CLASS:
                osed = [rows[name] for name in names if name in rows and name.startswith("osed")]
                if "open" in rows and osed:
                    shown.append(tables.paired(pairs_with(rows["open"], osed)))
                shown.append(tables.classes(there))
            found.append((title, shown))
    if gap:
        found.append((GAP_TITLE, [gap_table(gap)]))
    return found


def gap_table(gap: Gap) -> tables.Table:
    """A row for each class: distances in the net's features, shares in %, changes in points.

    The last row has Spearman's rank correlation of a column with the distance of the generated
    images, and its p-value, over the classes that show any: all but the most frequent. Distances of
    few images are biased upwards; that of the test images shows by how much.
    """
    shown = [c for c, count in enumerate(gap.counts) if count < max(gap.counts)]
    distance = [gap.classes[c]["generated_frechet_distance"] for c in shown]

    def rank(change: Sequence[float]) -> str:
        # Rounded, so that classes that change alike share a rank.
        found = spearmanr(distance, np.round([change[c] for c in shown], 9))
        return f"{found.statistic:+.2f} (p {tables.p_value(found.pvalue)})"

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


def draw_gap(path: Path, gap: Gap) -> None:
    """The changes as bars, the class whose images are nearest to real ones on top."""
    order = np.argsort([row["generated_frechet_distance"] for row in gap.classes])
    names = [
        f"{gap.classes[c]['class']} ({gap.classes[c]['generated_frechet_distance']:.2f})"
        for c in order
    ]
    changes = {name: [change[c] for c in order] for name, change in gap.changes.items()}
    draw_changes(path, names, changes, "Against deferred resampling, by Fréchet distance")


if __name__ == "__main__":
    use_large_pages()
    flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
    config_flags.DEFINE_config_file("config", None, "The setting; without it nothing is trained.")
    flags.DEFINE_list("seeds", "0,1,2", "Of weights, plans and augmentation.")
    flags.DEFINE_list("rows", "all", f"Of {', '.join(ROWS)}; or all of them.")
    flags.DEFINE_string("figure", None, "PNG file of the groups; beside it .classes.png.")
    flags.DEFINE_string("gap", None, "With --keep: the gap.json of the generated images.")
    flags.DEFINE_string("keep", None, "Folder that gets the figures of every finished run.")
    app.run(main)
