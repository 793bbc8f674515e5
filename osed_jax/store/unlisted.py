"""Files that a store has no use for: moved beside it, never deleted."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from osed_jax.files.atomic import free_name
from osed_jax.files.digests import file_sha256
from osed_jax.store.format import IMAGE, Line, full_size_folder, unlisted_folder
from osed_jax.store.records import Name, is_listed


def make_room(store: Path, path: Path, sha256: str) -> bool:
    """Moves what lies at the place of an image, unless it is a file of this content.

    Returns:
      Whether something was moved.
    """
    if not os.path.lexists(path) or (path.is_file() and file_sha256(path) == sha256):
        return False
    _set_aside(store, path)
    return True


def put_aside_unlisted(
    store: Path, class_names: Sequence[str], share: tuple[int, int], lines: Mapping[Name, Line]
) -> int:
    """Moves this share's images without a line out of a full store; returns how many."""
    moved = 0
    for root in (store, full_size_folder(store)):
        for label, name in enumerate(class_names):
            for path in (root / name).glob("*.png"):
                match = IMAGE.fullmatch(path.name)
                index = int(match[1]) if match else 0
                own = index % share[1] == share[0]
                if match and own and not is_listed(lines, (label, index)):
                    _set_aside(store, path)
                    moved += 1
    return moved


def _set_aside(store: Path, path: Path) -> None:
    target = free_name(unlisted_folder(store) / path.relative_to(store.parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
