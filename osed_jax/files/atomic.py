"""Writes files and folders completely or not at all.

Until it is whole, a file or folder has a name that only this program gives, and is locked. So what
a killed process left behind is known by its name and by its lock, which nobody holds.
"""

import contextlib
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from osed_jax.files.lock import locked

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.osed-jax-partial", re.DOTALL)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` if the block succeeds."""
    with _partial(path, folder=False) as partial, open(partial, "wb") as file:
        yield file
        file.flush()
        os.replace(partial, path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that gets the name `path`, which must be free then, if the block succeeds."""
    with partial_folder(path) as partial:
        yield partial
        partial.rename(path)


@contextlib.contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, to make something whole in; it is removed after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    with _partial(path, folder=True) as partial:
        yield partial


@contextlib.contextmanager
def _partial(path: Path, *, folder: bool) -> Iterator[Path]:
    """A new, locked file or folder beside `path`, which is removed if it is still there."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.osed-jax-partial")
        if folder:
            partial.mkdir()
        with locked(partial):
            if not partial.exists():  # another process took it for abandoned before it was locked
                continue
            try:
                yield partial
            finally:
                if folder:
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink(missing_ok=True)
            return


def remove_abandoned(folder: Path) -> None:
    """Removes what killed processes left half-written in a folder: what nobody has locked."""
    for path in folder.glob(".*"):
        if _PARTIAL.fullmatch(path.name):
            with contextlib.suppress(OSError), locked(path, wait=False):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all; it is on the disk when this returns."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def free_name(path: Path) -> Path:
    """The path, or with a number before its suffix where something has that name already."""
    numbered = (path.with_suffix(f".{number}{path.suffix}") for number in itertools.count(1))
    return next(p for p in itertools.chain([path], numbered) if not os.path.lexists(p))


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder or, if it is missing, in its nearest parent."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(there, os.W_OK | os.X_OK)


def in_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; Python keeps other bytes of names as surrogates."""
    return text == text.encode(errors="ignore").decode()
