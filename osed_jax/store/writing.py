"""A store of generated images: written, resumed, filled by several processes.

    FOLDER/store.json         classes, how many images each should have, the settings of all images
    FOLDER/CLASS/000123.png   the image with index 123 of its class
    FOLDER/metadata.jsonl     one line an image, by class and index
    FOLDER/rejected.jsonl     the same for images that a filter rejected; their files are not kept
    FOLDER/README.md          dataset card
    FOLDER.full_size/CLASS/   images as the model drew them, where asked for
    FOLDER.unlisted/          whole images that a full store had no use for

A process writes an image under a temporary name, renames it, then appends its line to a shard of
its own, `.metadata-I-of-N.jsonl`, which it holds locked as long as it lives. So a process killed at
any moment leaves whole images and at most half a line; the next start gives images without a line a
new one.
Shards are merged, sorted, whenever a process starts or ends.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from osed_jax.errors import UserError, disk_problems_explained
from osed_jax.files import records
from osed_jax.files.atomic import remove_abandoned, whole_file
from osed_jax.files.lock import locked
from osed_jax.runtime.console import say
from osed_jax.store.reading import METADATA
from osed_jax.store.records import (
    REJECTED,
    Name,
    Record,
    changed_images,
    decode,
    file_name,
    full_size_folder,
    is_kept,
    lives,
    merge,
    read_lines,
    read_records,
    shards,
    write_records,
)
from osed_jax.store.settings import write_settings
from osed_jax.store.unlisted import make_room, put_aside_unlisted

_LOCK = ".lock"  # held while the lines are merged


class Store:
    """One process's share of a store: the images whose index is `share[0]` modulo `share[1]`.

    Attributes:
      folder: of the store.
      class_names: C names; they are the names of the class folders, too.
      wanted: C numbers of images.
      share: which of how many processes this is.
      records: the lines of all images made so far, kept and rejected, by label and index.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        wanted: Sequence[int],
        share: tuple[int, int],
        records: dict[Name, Record],
        shard: IO[bytes],
        image_size: int | None = None,
        changed: Collection[Name] = (),
    ):
        self._image_size, self._changed = image_size, changed
        self.folder, self.class_names, self.share = folder, tuple(class_names), share
        self.wanted, self.records, self._shard = tuple(wanted), records, shard

    def missing(self) -> list[int]:
        """How many images of each class this process has still to make."""
        first, step = self.share
        kept, own = np.zeros((2, len(self.wanted)), int)
        for (label, index), record in self.records.items():
            kept[label] += is_kept(record)
            own[label] += is_kept(record) and index % step == first
        wanted = np.asarray(self.wanted)
        # The second bound counts where an earlier run had another number of processes.
        lacks = np.minimum((wanted - first + step - 1) // step - own, wanted - kept)
        return np.maximum(lacks, 0).tolist()

    def position(self, name: Name) -> int:
        """Where an image stands in the order in which an undisturbed process makes its share."""
        (label, index), (first, step) = name, self.share
        before = sum((wanted - first + step - 1) // step for wanted in self.wanted[:label])
        return before + (index - first) // step

    def next_names(self, max_attempts: float) -> list[Name]:
        """The images to make next: as many of each class as are missing, lowest index first.

        Indices end at `max_attempts` times the wanted number, so fewer may be left to try.
        """
        first, step = self.share
        names: list[Name] = []
        for label, (lacks, wanted) in enumerate(zip(self.missing(), self.wanted)):
            own = range(first, int(np.ceil(wanted * max_attempts)), step) if lacks else ()
            free = (index for index in own if (label, index) not in self.records)
            names += [(label, index) for _, index in zip(range(lacks), free)]
        return names

    def found(self, name: Name) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The image that is there without a line, and as drawn if asked for; None for none.

        A process killed before the line, or damage of the lines, leaves such images; they are
        those that would be drawn again, as the settings of a store never change.
        """
        if name in self._changed:
            return None
        path = file_name(self.class_names[name[0]], name[1])
        drawn = full_size_folder(self.folder)
        image = decode(self.folder / path, self._image_size)
        if not drawn.is_dir():
            return None if image is None else (image, None)
        full_size = decode(drawn / path)
        return None if image is None or full_size is None else (image, full_size)

    def add(self, record: Record, image: bytes, full_size: bytes | None = None) -> None:
        """Writes a PNG image, if its record says that it is kept, then the record."""
        if full_size is not None:
            self._write(full_size_folder(self.folder), record, full_size, "full_size_sha256")
        self._write(self.folder, record, image, "sha256")
        line = records.as_line(record).encode()
        if self._shard.write(line) != len(line):  # unbuffered: the disk took a part of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._shard.name)
        self.records[record["label"], record["index"]] = record

    def _write(self, root: Path, record: Record, content: bytes, digest: str) -> None:
        """Writes the file of an image; removes it if it is there but rejected."""
        path = root / record["file_name"]
        make_room(self.folder, path, record[digest])
        if not is_kept(record):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(content)


@contextlib.contextmanager
def filling(
    folder: Path,
    *,
    settings: Mapping[str, Any],
    class_names: Sequence[str],
    wanted: Sequence[int],
    process_index: int = 0,
    process_count: int = 1,
    repeated: Callable[[Sequence[Record]], Sequence[Record]] = lambda records: (),
    finish: Callable[[list[Record]], None] = lambda records: None,
) -> Iterator[Store]:
    """Opens a store, new or not, to add the images of one process; merges what is there after.

    Args:
      folder: of the store.
      settings: all that the images follow from; plain JSON values.
      class_names: C names.
      wanted: C numbers of images.
      process_index: which of the processes this is, from 0.
      process_count: how many processes, on however many hosts, fill the store at the same time.
      repeated: of all records, those of images that repeat earlier ones, each as it is to be
        rejected; called after the last merge.
      finish: called with all records after the last merge, while no other process merges.

    Raises:
      UserError: for a folder that is no store or one of other settings, a share that another
        process works on, a disk that is full or cannot be written.
    """
    share = process_index, process_count
    content = {
        "class_names": list(class_names),
        "wanted": dict(zip(class_names, wanted)),
        "settings": dict(settings),
    }
    with disk_problems_explained(
        f"cannot write to the store {folder}",
        "free some space, or give another config.oversampling.generated_dir. The images made so "
        "far are kept: the same command continues from them",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        at_work = contextlib.ExitStack()
        with locked(folder / _LOCK):
            lines, changed = _begin(folder, content, share)
            shard = at_work.enter_context(_open_shard(_shard_path(folder, share)))
        try:
            with at_work:
                size = settings.get("size")
                yield Store(folder, class_names, wanted, share, lines, shard, size, changed)
            # Only now: until a store is filled, what has no line may replace what is missing.
            put_aside_unlisted(folder, class_names, share, lines)
        finally:
            with locked(folder / _LOCK):
                merge(folder)
                _reject_repeated(folder, repeated)
                finish(list(read_records(folder).values()))


def _begin(
    folder: Path, content: Mapping[str, Any], share: tuple[int, int]
) -> tuple[dict[Name, Record], set[Name]]:
    """Repairs and checks a store; returns the lines of its whole images, and which have changed."""
    names = content["class_names"]
    remove_abandoned(folder)
    for root in (folder, full_size_folder(folder)):
        for name in names:
            remove_abandoned(root / name)
    _refuse_living(folder, share)
    write_settings(folder, dict(content))
    _say_damaged(folder)
    merge(folder)
    lines = read_records(folder)
    _check_classes(folder, names, lines)
    _say_gaps(folder, names, share, lines)
    changed = changed_images(folder, lines)
    if changed:
        say(
            f"note: {len(changed):,} images of {folder} have changed since they were made, "
            f"by their sha256; they are made again"
        )
    return {name: line for name, line in lines.items() if name not in changed}, changed


def _check_classes(
    folder: Path, class_names: Sequence[str], records: Mapping[Name, Record]
) -> None:
    names = dict(enumerate(class_names))
    foreign = [r for (label, _), r in records.items() if names.get(label) != r["class"]]
    if foreign:
        first = foreign[0]
        raise UserError(
            f"{len(foreign):,} lines in {folder} are of classes that the store does not have (the "
            f"first: class {first['class']!r} with label {first['label']}); remove them from "
            f"{METADATA} and {REJECTED}: images that are there get new lines"
        )


def _say_gaps(
    folder: Path, class_names: Sequence[str], share: tuple[int, int], records: dict[Name, Record]
) -> None:
    """Tells where numbers before the last image have no line, as every drawn image has one."""
    first, step = share
    gaps = 0
    for label in range(len(class_names)):
        last = max((index for of, index in records if of == label), default=-1)
        gaps += sum((label, i) not in records for i in range(first, last, step))
    if gaps and not (folder / REJECTED).exists():
        say(
            f"note: {gaps:,} images before the last ones of {folder} have no line; if a filter "
            f"rejected them, {REJECTED} is missing"
        )


def _say_damaged(folder: Path) -> None:
    growing = shards(folder)
    for path in (folder / METADATA, folder / REJECTED, *growing):
        if damaged := read_lines(path, growing=path in growing)[1]:
            say(f"note: {records.describe_damaged(path, damaged)}; images that exist get new lines")


def _reject_repeated(
    folder: Path, repeated: Callable[[Sequence[Record]], Sequence[Record]]
) -> None:
    """Rejects images that equal those of other processes, once no process is at work."""
    if any(map(lives, shards(folder))):
        return
    records = read_records(folder)
    rejected = repeated(list(records.values()))
    if not rejected:
        return
    records |= {(r["label"], r["index"]): r for r in rejected}
    write_records(folder, list(records.values()))
    for record in rejected:
        for root in (folder, full_size_folder(folder)):
            (root / record["file_name"]).unlink(missing_ok=True)
    say(
        f"note: {len(rejected):,} images of {folder} were rejected, as they repeat images that "
        f"other processes made (the first: {rejected[0]['file_name']}); run the same command "
        f"again to replace them"
    )


def _refuse_living(folder: Path, share: tuple[int, int]) -> None:
    own = _shard_path(folder, share)
    for path in filter(lives, shards(folder)):
        if path == own:
            raise UserError(
                f"another process is filling share {share[0]} of {share[1]} of {folder}; wait for "
                "it, or give each process its own config.generation.process_index"
            )
        if not path.name.endswith(f"-of-{share[1]}.jsonl"):
            raise UserError(
                f"{folder} is being filled with another config.generation.process_count than "
                f"{share[1]} ({path.name}); give all processes the same, or wait until that one "
                "ends"
            )


def _shard_path(folder: Path, share: tuple[int, int]) -> Path:
    return folder / f".metadata-{share[0]}-of-{share[1]}.jsonl"


@contextlib.contextmanager
def _open_shard(path: Path) -> Iterator[IO[bytes]]:
    """A shard to append to, locked as long as it is open."""
    with locked(path), open(path, "ab", buffering=0) as shard:
        yield shard
