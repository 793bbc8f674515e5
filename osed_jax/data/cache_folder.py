"""The cache's folder: where it is, and what is removed from it."""

import json
import time
from pathlib import Path

from osed_jax.console import say

CACHE_VARIABLE = "OSED_JAX_CACHE_DIR"  # by default it is beside the work directories
_UNUSED_DAYS = 30


def prune(cache_dir: Path, new: Path, folder: str) -> None:
    """Removes entries that a new one replaces, and entries not used for a long time.

    Args:
      cache_dir: the cache.
      new: the new entry's record.
      folder: the folder of these images; other entries of it are from its earlier content.
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
            f"note: {removed / 2**20:,.1f} MiB of decoded images that are no longer needed "
            f"were removed from {cache_dir}"
        )


def _folder_of(record: Path) -> str | None:
    try:
        return json.loads(record.read_bytes())["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
