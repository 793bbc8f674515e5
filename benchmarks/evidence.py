r"""The runs of the pages on results: trains missing runs, keeps figures, prints tables.

    python benchmarks/evidence.py --config=configs/cifar10_lt_small.py --workdir=runs/small \
        --seeds=0,1 --config.dataset.name=folder --config.dataset.image_size=32 \
        --config.dataset.data_dir=DIR --config.oversampling.generated_dir=GENERATED
    python benchmarks/evidence.py --workdir=results/small     # the tables of what is there,
        # each question's of the seeds that all its rows have; with --seeds of these alone

A row is a method and the fields in which it differs from the config. Its run with a seed is
WORKDIR/ROW.seed_N. ERM is trained once per seed, and the deferred rows are forked from it. Finished
runs are skipped, interrupted ones continue. Several processes, each with some of the seeds, can
share a WORKDIR. Rows with few generated images show copies in WORKDIR/GENERATED.first_NUMBER. The
images of filtered rows are selected once, into WORKDIR/GENERATED.filtered, by the ERM net of the
first seed that needs them.

--keep=FOLDER copies all that the tables need: of each finished run its summary.json without the
paths of this machine, its metrics.jsonl, its predicted classes and what was filtered. With
--gap=FILE it also copies the gap.json that --mode=gap wrote for GENERATED.
"""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks import evidence_answers as tell
from benchmarks.evidence_rows import ROWS, config_of, first_images_of, on_selected, run_directory
from osed_jax.commands.filter import FILE as FILTER_FILE
from osed_jax.commands.filter import filter as filter_store
from osed_jax.commands.train import train
from osed_jax.comparison import tables
from osed_jax.config.build import check, differences
from osed_jax.data.listing import class_folders, files_of_classes
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.experiment.loading import Config
from osed_jax.files import atomic, records
from osed_jax.files.lock import locked
from osed_jax.generation.classifier_filter import FILTERS
from osed_jax.runtime.console import say

_SEEDS = (0, 1, 2)  # trained if no other seeds are given
_PATHS = (("dataset", "data_dir"), ("oversampling", "generated_dir"), ("init", "fork_from"))


def main(argv: list[str]) -> None:
    """Trains, keeps, prints."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    folder = Path(given.workdir)
    try:
        if given.gap and not given.keep:
            raise UserError("--gap is used only with --keep; give --keep too")
        seeds = numbers(given.seeds) if given.seeds else None
        if given.config is not None:
            names = list(ROWS) if given.rows == ["all"] else given.rows
            config = check(given.config)
            runs = planned(config, folder, names, seeds or _SEEDS)
            copy_first_images(config, names, folder)
            if any(folder.rglob("summary.json")):
                tell.variants(
                    folder
                )  # wrong runs in the folder are reported before hours of training
            train_all(runs)
        rows = tell.variants(folder, seeds)
        if given.keep:
            for run in (run for row in rows.values() for run in row.runs):
                keep(run.directory, Path(given.keep))
            if given.gap:
                keep_gap(Path(given.gap), Path(given.keep))
        gap = tell.read_gap(folder, rows)
        if given.figure:
            tell.draw(Path(given.figure), rows, gap)
        for title, shown in tell.answers(rows, gap):
            say("\n\n".join([f"\n{title}", *map(tables.markdown, shown)]))
    except UserError as error:
        sys.exit(f"error: {error}")


def numbers(seeds: Iterable[str]) -> list[int]:
    """The numbers in a list on the command line."""
    try:
        return list(map(int, seeds))
    except ValueError as error:
        given = ",".join(seeds)
        raise UserError(f"--seeds is {given}; give whole numbers, such as 0,1,2") from error


def planned(
    config: Config, folder: Path, names: Iterable[str], seeds: Iterable[int]
) -> list[tuple[Path, Config]]:
    """The work directory and the config of every run, ERM first if others need it."""
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
    """Trains unfinished runs; first checks that all have the images that they show."""
    shown = {
        loading.generated_dir(run)
        for path, run in runs
        if run["oversampling"]["mode"] == "generated" and not (path / "summary.json").exists()
    }
    for folder in sorted(shown):
        if not folder.is_dir():
            raise UserError(
                f"there is no folder of generated images {folder}; give one in "
                "--config.oversampling.generated_dir"
            )
        class_folders(folder)
    for number, (path, run) in enumerate(runs):
        say(f"run {number + 1} of {len(runs)}: {path}")
        if run["generation"]["filtered_dir"]:
            if not (path / "summary.json").exists():
                select_once(run)
            run = on_selected(run)
        train(run, path)


def copy_first_images(config: Config, names: Iterable[str], folder: Path) -> None:
    """Copies the first generated images of each class, for rows that show so many of them.

    Several processes may do so at once: each copies to a folder of its own, and the first one's is
    used.

    Raises:
      UserError: if the copies that are there are of other images.
    """
    for number in sorted({ROWS[name].images for name in names} - {0}):
        source, target = loading.generated_dir(config), first_images_of(config, number, folder)
        found = files_of_classes(class_folders(source))
        wanted = {
            path.relative_to(source): path.stat().st_size
            for files in found.values()
            for path in sorted(files.images)[:number]
        }
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{target.name}.") as part:
                made = Path(part) / target.name
                for path in wanted:
                    (made / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source / path, made / path)
                with contextlib.suppress(OSError):  # another process was first
                    made.rename(target)
        there = {p.relative_to(target): p.stat().st_size for p in target.rglob("*") if p.is_file()}
        if there != wanted:
            raise UserError(
                f"{target} does not hold the first {number} images of each class of {source}; "
                "remove it, or give another --workdir"
            )


def select_once(run: Config) -> None:
    """Selects the images of a run, unless the process of another seed has done it.

    Raises:
      UserError: if they were selected by other filters or from other images.
    """
    selected = Path(run["generation"]["filtered_dir"])
    with locked(selected.with_name(f".{selected.name}.lock")):
        if not selected.exists():
            filter_store(run)
    asked = {name: run["generation"][name] for name in FILTERS}
    asked["generated_dir"] = run["oversampling"]["generated_dir"]
    done = records.read_json(selected / FILTER_FILE)["settings"]
    asked["classifier_workdir"] = done["classifier_workdir"]  # of the first seed that came
    if changed := differences(done, asked):
        raise UserError(
            f"{selected} was selected with other settings ({'; '.join(changed)}); remove it, "
            "or give another --workdir"
        )


def keep(directory: Path, target: Path) -> None:
    """Copies a run's figures, epochs and, as one-hot logits of a few kB, its predicted classes.

    Where its generated images were selected, what the filters were and said, too.
    """
    summary = records.read_json(directory / "summary.json")
    generated = summary["config"]["oversampling"]["generated_dir"]
    kept, made = directory / FILTER_FILE, Path(generated) / FILTER_FILE
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
    atomic.write_atomically(folder / "predictions.npz", buffer.getvalue())
    if (directory / "metrics.jsonl").is_file():
        atomic.write_atomically(folder / "metrics.jsonl", (directory / "metrics.jsonl").read_text())
    if selection.is_file():
        found = records.read_json(selection)
        for name in ("generated_dir", "classifier_workdir"):
            found["settings"][name] = Path(found["settings"][name]).name
        records.write_json(folder / FILTER_FILE, found)
    records.write_json(folder / "summary.json", summary)


def keep_gap(source: Path, target: Path) -> None:
    """Copies what --mode=gap found, without the paths of this machine."""
    found = records.read_json(source)
    found["dataset"]["data_dir"] = Path(found["dataset"]["data_dir"]).name
    for name in ("store", "workdir"):
        found[name] = Path(found[name]).name
    target.mkdir(parents=True, exist_ok=True)
    records.write_json(target / tell.GAP, found)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
    config_flags.DEFINE_config_file("config", None, "The setting; without it nothing is trained.")
    flags.DEFINE_list("seeds", None, "Trained (0,1,2) and shown (all that are there).")
    flags.DEFINE_list("rows", "all", f"Of {', '.join(ROWS)}; or all of them.")
    flags.DEFINE_string(
        "figure", None, "PNG file of the groups; beside it .norms.png and .classes.png."
    )
    flags.DEFINE_string("gap", None, "With --keep: the gap.json of the generated images.")
    flags.DEFINE_string("keep", None, "Folder that gets the figures of every finished run.")
    app.run(main)
