"""Writes files completely or not at all, and removes partial files of killed processes."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file that is renamed to `path` once complete; it is locked until then."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    file = _open_locked(partial)
    try:
        with file:
            yield file
            file.flush()
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _open_locked(partial: Path) -> IO[bytes]:
    while True:
        file = open(partial, "wb")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():  # else another process removed it as abandoned before it was locked
            return file
        file.close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder, so that other processes do not remove it as abandoned."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str = "*.partial") -> None:
    """Removes partial files and folders of killed processes: those that nobody has locked."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then renames it."""
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder or, if it is missing, in its nearest parent."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(there, os.W_OK | os.X_OK)


def in_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; Python keeps other bytes of names as surrogates."""
    return text == text.encode(errors="ignore").decode()
