"""The cache's folder: files written whole or not at all, and what is removed from it."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from osed_jax.console import say

CACHE_VARIABLE = "OSED_JAX_CACHE_DIR"  # of the environment; by default beside the work directories
_UNUSED_DAYS = 30


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file that gets its name when it is whole; until then its lock keeps others off."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
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
        if partial.exists():  # else another process took it for abandoned before it was locked
            return file
        file.close()


def remove_abandoned(cache_dir: Path) -> None:
    """Removes what killed processes left half written: nobody holds its lock."""
    for partial in cache_dir.glob("*.partial"):
        with contextlib.suppress(OSError), open(partial, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()


def prune(cache_dir: Path, new: Path, folder: str) -> None:
    """Removes entries that a new one replaces, and those that were not used for long.

    Args:
      cache_dir: the cache.
      new: the new entry's record.
      folder: whose images those are; other entries of it are of what it held before.
    """
    removed = 0
    for stem in sorted({p.with_suffix("") for p in cache_dir.iterdir() if p.suffix != ".partial"}):
        record = stem.with_suffix(".json")
        files = [p for p in (record, stem.with_suffix(".npy")) if p.exists()]
        if record == new or not files:
            continue
        unused = time.time() - max(p.stat().st_mtime for p in files) > _UNUSED_DAYS * 86400
        if unused or _folder_of(record) == folder:
            removed += sum(p.stat().st_size for p in files)
            for path in files:
                path.unlink(missing_ok=True)
    if removed:
        say(
            f"note: {removed / 2**20:,.1f} MiB of decoded images that nothing needs any more were "
            f"removed from {cache_dir}"
        )


def _folder_of(record: Path) -> str | None:
    try:
        return json.loads(record.read_bytes())["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
