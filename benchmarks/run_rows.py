r"""Trains rows of a setting and adds them to what is kept of it.

    python -m benchmarks.run_rows --config=configs/cifar10_lt_tenth.py --workdir=runs/few_images \
        --rows=erm,fill_shared_third --seeds=0,1 --keep=results/few_images \
        --config.dataset.name=folder --config.dataset.image_size=32 \
        --config.dataset.data_dir=CIFAR10 --config.oversampling.generated_dir=GENERATED

A row is a method and the fields in which it differs from the config. Its run with a seed is
WORKDIR/ROW.seed_N. ERM is trained once per seed, and the deferred rows are forked from it. Finished
runs are skipped, interrupted ones continue. Several processes, each with some of the seeds, can
share a WORKDIR. Rows with few generated images show copies in WORKDIR/GENERATED.first_NUMBER. The
images of filtered rows are selected once, into WORKDIR/GENERATED.filtered, by the ERM net of the
first seed that needs them.

--keep=FOLDER adds every finished run of WORKDIR to FOLDER/runs.npz, without the paths of this
machine; --net=NAME puts NAME/ before its name, where a setting has several nets. Then
`python -m benchmarks.tables` writes the tables anew.
"""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks import kept
from benchmarks.rows import ROWS, config_of, first_images_of, on_filtered, run_directory
from osed_jax.commands.filter import filter as filter_store
from osed_jax.commands.train import train
from osed_jax.config.build import as_plain, from_plain
from osed_jax.config.compare import differences
from osed_jax.config.schema import Config
from osed_jax.data.listing import class_folders, files_of_classes
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.files import atomic, lock, records
from osed_jax.generation.classifier_filter import FILTERS
from osed_jax.runtime.console import say


def main(argv: list[str]) -> None:
    """Trains, keeps."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    folder = Path(given.workdir)
    try:
        names = list(ROWS) if given.rows == ["all"] else given.rows
        config = from_plain(given.config.to_dict())
        runs = planned(config, folder, names, numbers(given.seeds))
        copy_first_images(config, names, folder)
        train_all(runs)
        if given.keep:
            keep(folder, Path(given.keep), given.net)
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
    if not config.oversampling.start_epoch:
        raise UserError(
            "config.oversampling.start_epoch is 0; give the epoch at which deferred rows start"
        )
    if unknown := sorted(set(names) - set(ROWS)):
        raise UserError(f"there is no row {', '.join(unknown)}; use some of {', '.join(ROWS)}")
    if any(config_of(config, name, 0, folder).init.fork_from for name in names):
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
        if run.oversampling.mode == "generated" and not (path / "summary.json").exists()
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
        if run.generation.filtered_dir:
            if not (path / "summary.json").exists():
                select_once(run)
            run = on_filtered(run)
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
            try:
                with atomic.whole_folder(target) as copies:
                    for path in wanted:
                        (copies / path).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(source / path, copies / path)
            except OSError:
                if not target.exists():  # else another process was first
                    raise
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
    selected = Path(run.generation.filtered_dir)
    with lock.locked(selected.with_name(f".{selected.name}.lock")):
        if not selected.exists():
            filter_store(run)
    plain = as_plain(run)
    asked = {name: plain["generation"][name] for name in FILTERS}
    asked["generated_dir"] = plain["oversampling"]["generated_dir"]
    done = records.read_json(selected / kept.FILTER)["settings"]
    asked["classifier_workdir"] = done["classifier_workdir"]  # of the first seed that came
    if changed := differences(done, asked):
        raise UserError(
            f"{selected} was selected with other settings ({'; '.join(changed)}); remove it, "
            "or give another --workdir"
        )


def keep(folder: Path, target: Path, net: str) -> None:
    """Adds the finished runs below a folder to those of a setting; a run of that name is replaced.

    Raises:
      UserError: if the setting would hold rows of different settings.
    """
    begins = f"{net}/" if net else ""
    runs = kept.read(target)
    for summary in sorted(folder.glob("*/summary.json")):
        name = f"{begins}{summary.parent.name}"
        runs[name] = kept.of_directory(summary.parent, name)
    kept.variants(run for name, run in runs.items() if name.rpartition("/")[0] == net)
    kept.write(target, runs.values())
    say(f"{target / kept.FILE} has {len(runs)} runs")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
    config_flags.DEFINE_config_file("config", None, "The setting.")
    flags.mark_flag_as_required("config")
    flags.DEFINE_list("seeds", "0,1,2", "Seeds.")
    flags.DEFINE_list("rows", "all", f"Of {', '.join(ROWS)}; or all of them.")
    flags.DEFINE_string("keep", None, "Folder of the setting in results/, which gets the runs.")
    flags.DEFINE_string("net", "", "Name of the net, where a setting has several.")
    app.run(main)
