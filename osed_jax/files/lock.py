"""The lock of a file or folder; that of a killed process ends with it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a folder, or of a file, which is made if missing, while the block runs.

    Raises:
      BlockingIOError: another process holds it, and `wait` is False.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether another process, or another block of this one, holds the lock."""
    try:
        with locked(path, wait=False):
            return False
    except BlockingIOError:
        return True
