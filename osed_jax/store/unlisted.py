"""Files that a store has no use for: moved beside it, never deleted."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from osed_jax.files.atomic import free_name
from osed_jax.files.digests import file_sha256
from osed_jax.runtime.console import say
from osed_jax.store.records import (
    IMAGE,
    Name,
    Record,
    full_size_folder,
    is_listed,
    unlisted_folder,
)


def make_room(store: Path, path: Path, sha256: str) -> None:
    """Moves what lies at the place of an image, unless it is a file of this content."""
    if os.path.lexists(path) and not (path.is_file() and file_sha256(path) == sha256):
        say(f"note: {path} was another file, so it was moved to {_set_aside(store, path)}")


def put_aside_unlisted(
    store: Path, class_names: Sequence[str], share: tuple[int, int], records: Mapping[Name, Record]
) -> None:
    """Moves this share's images without a line out of a full store."""
    moved = 0
    for root in (store, full_size_folder(store)):
        for label, name in enumerate(class_names):
            for path in (root / name).glob("*.png"):
                match = IMAGE.fullmatch(path.name)
                index = int(match[1]) if match else 0
                if match and index % share[1] == share[0] and not is_listed(records, label, index):
                    _set_aside(store, path)
                    moved += 1
    if moved:
        say(
            f"note: {moved:,} images of {store} that it has no use for are in "
            f"{unlisted_folder(store)} now"
        )


def _set_aside(store: Path, path: Path) -> Path:
    target = free_name(unlisted_folder(store) / path.relative_to(store.parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    return path.rename(target)
