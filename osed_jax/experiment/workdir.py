"""The files of a work directory; each is written completely or not at all."""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from osed_jax.config.build import from_plain
from osed_jax.config.compare import differences
from osed_jax.config.field import NUMBERS
from osed_jax.config.schema import Config
from osed_jax.errors import DamageError, UserError
from osed_jax.files.atomic import can_be_written, remove_abandoned
from osed_jax.files.lock import locked
from osed_jax.files.records import read_json, unsealed, write_json
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say

CHECKPOINTS, ABOUT = "checkpoints", "default/about.json"  # of a work directory, of a checkpoint
REPORT_FOLDER, REPORT_PAGE = "report", "report.html"
_LOCK = ".lock"
_WRITTEN = (  # by a run
    "config.json",
    "dataset.json",
    "metrics.jsonl",
    "summary.json",
    "predictions.npz",
    "evaluation.json",
    "held_out.npz",
    CHECKPOINTS,
    f"{CHECKPOINTS}.damaged",
    "tensorboard",
    REPORT_FOLDER,
    "diagnose",
)


def read_config(workdir: Path) -> Config:
    """The config of the run in a work directory.

    Raises:
      UserError: if it is missing or damaged, in the checkpoints too.
    """
    return from_plain(_read_kept(workdir, "config"), of_a_run=True)


def read_kept_config(workdir: Path) -> dict[str, Any]:
    """The content of `config.json`: sections of a run, or of --mode=finetune."""
    return _read_kept(workdir, "config")


def read_facts(workdir: Path) -> dict[str, Any]:
    """The facts of a run's images: the content of `dataset.json` in its work directory.

    Raises:
      UserError: if it is missing or damaged, in the checkpoints too.
    """
    return _read_kept(workdir, "dataset")


def keep_facts(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Writes `dataset.json`, the facts of a run's images.

    Raises:
      UserError: if the images have changed since the run began.
    """
    if is_begun(workdir) and (changed := changed_images(read_facts(workdir), facts)):
        what = "weights" if changed[0].startswith("weights_sha256") else "images"
        raise UserError(
            f"the {what} have changed since {workdir} began ({'; '.join(changed)}); restore "
            "them to continue, or give another --workdir to train on these"
        )
    write_json(workdir / "dataset.json", facts)


def changed_images(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between the images of two runs, by their facts, in words; [] if there is none.

    A mode that only reads a run does not open the weights that it started from, and has no digest
    of them to compare.
    """
    known = {n: v for n, v in before.items() if n in now or n != "weights_sha256"}
    changed = differences(known, now)
    of_content = "content_sha256."
    return [
        f"other {c.removeprefix(of_content).partition(':')[0]} images"
        if c.startswith(of_content)
        else c
        for c in changed
    ]


def read_about(workdir: Path, epoch: int) -> dict[str, Any]:
    """`config` and `dataset`, the facts, of the run that a checkpoint belongs to.

    Raises:
      UserError: if the file is missing or damaged.
    """
    return read_json(workdir / CHECKPOINTS / str(epoch) / ABOUT)


def checkpoint_epochs(workdir: Path) -> list[int]:
    """Numbers of finished epochs that have a checkpoint, ascending."""
    found = (workdir / CHECKPOINTS).glob("*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def _is_whole(path: Path) -> bool:
    """Whether a file is one of this program, unchanged."""
    with contextlib.suppress(OSError, DamageError):
        return bool(unsealed(path.read_bytes()))
    return False


def _read_kept(workdir: Path, name: str) -> dict[str, Any]:
    """NAME.json; if it is missing or damaged, the copy in a checkpoint, with a message."""
    try:
        return read_json(workdir / f"{name}.json")
    except UserError as problem:
        for epoch in reversed(checkpoint_epochs(workdir)):
            with contextlib.suppress(UserError):
                content = read_about(workdir, epoch)[name]
                why = "is damaged" if isinstance(problem, DamageError) else "is missing"
                say(
                    f"note: {workdir / name}.json {why}; its content is taken from the "
                    f"checkpoint of epoch {epoch}"
                )
                return content
        raise


@contextlib.contextmanager
def claimed(
    workdir: Path,
    config: dict[str, Any],
    setting: str = "--workdir",
    also: Collection[str] = (),
) -> Iterator[None]:
    """Reserves a work directory for one experiment and one process, as long as the block runs.

    Args:
      workdir: the directory; it is made if missing.
      config: the plain config of the experiment; saved in `config.json`.
      setting: the flag or field that names the directory, for messages.
      also: names of files and folders that the experiment will write, besides those of a run.

    Raises:
      UserError: if the path cannot be a folder, another process trains in it, it belongs to an
        experiment with another config (then the message names the fields that differ), or has
        somebody else's files where the experiment will write. Fields that change no number may
        differ, and so may places: what is there is known by digests.
    """
    if (workdir / "summary.json").exists() and not can_be_written(workdir):
        _check_same_config(workdir, _read_kept(workdir, "config"), config, setting)
        yield  # finished, on a read-only disk: no lock is needed
        return
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(workdir / _LOCK, wait=False))
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {workdir}; wait for it or give another {setting}"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot write to the work directory {workdir}: {error.strerror}; give another "
                f"{setting}"
            ) from error
        remove_abandoned(workdir)
        path, begun = workdir / "config.json", is_begun(workdir)
        if not begun and not _is_whole(path):
            _refuse_foreign(workdir, setting, also)
        kept = _read_kept(workdir, "config") if begun else config
        _check_same_config(workdir, kept, config, setting)
        finished = (workdir / "summary.json").exists()  # then it stays as it was trained
        if not (begun and _is_whole(path)) or (config != kept and not finished):
            write_json(path, kept if finished else config)
        yield


def _refuse_foreign(workdir: Path, setting: str, also: Collection[str]) -> None:
    """Nothing is written over what lay in a folder before its first run."""
    there = [name for name in (*_WRITTEN, *also) if os.path.lexists(workdir / name)]
    if there:
        raise UserError(
            f"{workdir} has {', '.join(there)}, which no run of OSeD-JAX has written and this one "
            f"would write over; give another {setting}, or move this away"
        )


def _check_same_config(
    workdir: Path, kept: dict[str, Any], config: dict[str, Any], setting: str
) -> None:
    changed = differences(kept, config, lambda field: field.matters_for in NUMBERS)
    if changed:
        raise UserError(
            f"{workdir} belongs to a run with another config ({'; '.join(changed)}); give "
            f"another {setting}, or the old values to continue that run"
        )


def is_begun(workdir: Path) -> bool:
    """Whether a run has saved results there.

    Until then another config may use the same folder, for example after an error in the config.
    """
    metrics = workdir / "metrics.jsonl"
    made = ("summary.json", "base", "model_index.json")  # the last two by --mode=finetune
    return (
        bool(checkpoint_epochs(workdir))
        or (metrics.exists() and metrics.stat().st_size > 0)
        or any((workdir / name).exists() for name in made)
    )


def check_there(workdir: Path) -> None:
    """Raises UserError if a claimed work directory was removed or moved in the meantime."""
    if not (workdir / _LOCK).exists():
        raise UserError(
            f"the work directory {workdir} was removed or moved during the run; start again "
            "with --workdir at its new place, or with a new one"
        )


@contextlib.contextmanager
def claimed_by_first(workdir: Path, config: dict[str, Any]) -> Iterator[None]:
    """As `claimed`, for all processes of a job: the first one claims it, the others wait."""
    with claimed(workdir, config) if cluster.is_first() else contextlib.nullcontext():
        cluster.wait_for_all("work directory")
        if not (workdir / "config.json").exists():
            raise UserError(
                f"{workdir} is not the work directory of process 0; all processes need the same "
                f"--workdir, on a file system that they share"
            )
        yield
