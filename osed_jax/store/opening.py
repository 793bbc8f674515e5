"""What comes before a process fills its share of a store: repairs, and what is refused or said."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from osed_jax.errors import UserError
from osed_jax.files.atomic import remove_abandoned
from osed_jax.files.lock import is_locked
from osed_jax.files.records import describe_damaged
from osed_jax.runtime.console import say
from osed_jax.store.format import (
    METADATA,
    REJECTED,
    Line,
    StoreFile,
    full_size_folder,
    share_of,
)
from osed_jax.store.records import (
    Name,
    changed_images,
    merge,
    read_all_lines,
    read_lines,
    shards,
)
from osed_jax.store.settings import write_store_file


def begin(
    folder: Path, content: StoreFile, share: tuple[int, int]
) -> tuple[dict[Name, Line], set[Name]]:
    """Repairs and checks a store; the caller holds its lock.

    Args:
      folder: of the store, which exists.
      content: of its `store.json`.
      share: which of how many processes asks.

    Returns:
      The lines of all images that are as they were made, and the images that are not.

    Raises:
      UserError: for a folder that is no store or one of other settings or classes, and a share
        that another process works on.
    """
    names = content["class_names"]
    remove_abandoned(folder)
    for root in (folder, full_size_folder(folder)):
        for name in names:
            remove_abandoned(root / name)
    _refuse_living(folder, share)
    write_store_file(folder, content)
    _say_damaged(folder)
    merge(folder)
    lines = read_all_lines(folder)
    _check_classes(folder, names, lines)
    _say_gaps(folder, names, share, lines)
    changed = changed_images(folder, lines)
    if changed:
        say(
            f"note: {len(changed):,} images of {folder} have changed since they were made, "
            f"by their sha256; they are made again"
        )
    return {name: line for name, line in lines.items() if name not in changed}, changed


def _refuse_living(folder: Path, share: tuple[int, int]) -> None:
    for path in filter(is_locked, shards(folder)):
        living = share_of(path.name)
        if living == share:
            raise UserError(
                f"another process is filling share {share[0]} of {share[1]} of {folder}; wait for "
                "it, or give each process its own config.generation.process_index"
            )
        if living and living[1] != share[1]:
            raise UserError(
                f"{folder} is being filled with another config.generation.process_count than "
                f"{share[1]} ({path.name}); give all processes the same, or wait until that one "
                "ends"
            )


def _check_classes(folder: Path, class_names: Sequence[str], lines: Mapping[Name, Line]) -> None:
    names = dict(enumerate(class_names))
    foreign = [line for (label, _), line in lines.items() if names.get(label) != line["class"]]
    if foreign:
        first = foreign[0]
        raise UserError(
            f"{len(foreign):,} lines in {folder} are of classes that the store does not have (the "
            f"first: class {first['class']!r} with label {first['label']}); remove them from "
            f"{METADATA} and {REJECTED}: images that are there get new lines"
        )


def _say_gaps(
    folder: Path, class_names: Sequence[str], share: tuple[int, int], lines: Mapping[Name, Line]
) -> None:
    """Tells where numbers before the last image have no line, as every drawn image has one."""
    first, step = share
    gaps = 0
    for label in range(len(class_names)):
        last = max((index for of, index in lines if of == label), default=-1)
        gaps += sum((label, i) not in lines for i in range(first, last, step))
    if gaps and not (folder / REJECTED).exists():
        say(
            f"note: {gaps:,} images before the last ones of {folder} have no line; if a filter "
            f"rejected them, {REJECTED} is missing"
        )


def _say_damaged(folder: Path) -> None:
    growing = shards(folder)
    for path in (folder / METADATA, folder / REJECTED, *growing):
        if damaged := read_lines(path, growing=path in growing)[1]:
            say(f"note: {describe_damaged(path, damaged)}; images that exist get new lines")
