"""The files of a work directory, each written whole or not at all."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osed_jax import cluster
from osed_jax.config import differences
from osed_jax.errors import UserError
from osed_jax.renames import completed


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then renames it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, indented, with a final newline."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
      UserError: where the file is missing or broken.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; is {path.parent} a work directory?") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore or remove it") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines, such as `metrics.jsonl`.

    Raises:
      UserError: where the file is missing or one of its lines is broken.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"there is no {path}; is {path.parent} a work directory?") from error
    except ValueError as error:
        raise UserError(f"{path} has a broken line ({error}); restore or remove it") from error


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of the experiment in a work directory, also where an earlier version made it.

    Raises:
      UserError: where the file is missing or broken.
    """
    return completed(read_json(workdir / "config.json"))


@contextlib.contextmanager
def claimed(workdir: Path, config: dict[str, Any], setting: str = "--workdir") -> Iterator[None]:
    """Holds a work directory for one experiment, and against a second process.

    Args:
      workdir: the directory; made where it is missing.
      config: of the experiment, plain; kept in its `config.json`.
      setting: what the directory was given as, for messages.

    Raises:
      UserError: where the path cannot be a folder, another process trains in it, or it belongs to
        an experiment with another config; then it names the fields that differ.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "w")  # noqa: SIM115 - open as long as the run lasts
    except OSError as error:
        raise UserError(
            f"cannot write to the work directory {workdir}: {error.strerror}; "
            f"give another {setting}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {workdir}; wait for it or give another {setting}"
            ) from error
        if not (workdir / "config.json").exists() or not is_begun(workdir):
            write_json(workdir / "config.json", config)
        # Both are filled up, as --mode=finetune keeps a part of a section only.
        changed = differences(read_config(workdir), completed(config))
        if changed:
            raise UserError(
                f"{workdir} belongs to a run with another config ({'; '.join(changed)}); "
                f"give another {setting}, or the old values to go on with that run"
            )
        yield


def is_begun(workdir: Path) -> bool:
    """Whether an experiment has left something there that another config would not have made.

    Until then a config that proved unusable binds nobody: its correction starts in the same place.
    """
    metrics = workdir / "metrics.jsonl"
    made = ("summary.json", "base", "model_index.json")  # the last two by --mode=finetune
    return (metrics.exists() and metrics.stat().st_size > 0) or any(
        (workdir / name).exists() for name in made
    )


@contextlib.contextmanager
def claimed_by_first(workdir: Path, config: dict[str, Any]) -> Iterator[None]:
    """As `claimed`, for all processes of a job: the first one claims, the others wait for it."""
    with claimed(workdir, config) if cluster.is_first() else contextlib.nullcontext():
        cluster.wait_for_all("work directory")
        yield


def keep_lines_before(metrics: Path, unit: str, end: int) -> None:
    """Drops the lines of `metrics.jsonl` that a resumed run will write again.

    Args:
      metrics: the file.
      unit: the field that counts its lines, `epoch` or `step`.
      end: lines from this count on are dropped.
    """
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the line that a killed process was writing
            break
        if record[unit] >= end:
            break
        kept.append(line + "\n")
    write_atomically(metrics, "".join(kept))
