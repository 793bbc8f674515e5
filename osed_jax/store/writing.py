"""A store of generated images: written, resumed, filled by several processes.

A process writes an image under a temporary name, renames it, then appends its line to a shard of
its own, `.metadata-I-of-N.jsonl`, which it holds locked as long as it lives. So a process killed at
any moment leaves whole images and at most half a line; the next start gives images without a line a
new one. Shards are merged, sorted, whenever a process starts or ends.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from osed_jax.errors import disk_problems_explained
from osed_jax.files.atomic import whole_file
from osed_jax.files.lock import is_locked, locked
from osed_jax.files.records import as_line
from osed_jax.runtime.console import say
from osed_jax.store.format import (
    LOCK,
    Line,
    Settings,
    StoreFile,
    file_name,
    full_size_folder,
    is_kept,
    shard_name,
    unlisted_folder,
)
from osed_jax.store.opening import begin
from osed_jax.store.records import (
    Name,
    decode,
    merge,
    read_all_lines,
    shards,
    write_lines,
)
from osed_jax.store.unlisted import make_room, put_aside_unlisted


class Store:
    """One process's share of a store: the images whose index is `share[0]` modulo `share[1]`.

    Attributes:
      folder: of the store.
      class_names: C names; they are the names of the class folders, too.
      wanted: C numbers of images.
      share: which of how many processes this is.
      lines: the lines of all images made so far, kept and rejected, by label and index.
      num_moved: files that were moved to FOLDER.unlisted/.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        wanted: Sequence[int],
        share: tuple[int, int],
        lines: dict[Name, Line],
        shard: IO[bytes],
        image_size: int,
        changed: Collection[Name] = (),
    ):
        self._image_size, self._changed, self.num_moved = image_size, changed, 0
        self.folder, self.class_names, self.share = folder, tuple(class_names), share
        self.wanted, self.lines, self._shard = tuple(wanted), lines, shard

    def missing(self) -> list[int]:
        """How many images of each class this process has still to make."""
        first, step = self.share
        there, own = np.zeros((2, len(self.wanted)), int)
        for (label, index), line in self.lines.items():
            there[label] += is_kept(line)
            own[label] += is_kept(line) and index % step == first
        wanted = np.asarray(self.wanted)
        # The second bound counts where an earlier run had another number of processes.
        lacks = np.minimum((wanted - first + step - 1) // step - own, wanted - there)
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
            free = (index for index in own if (label, index) not in self.lines)
            names += [(label, index) for _, index in zip(range(lacks), free)]
        return names

    def unlisted(self, name: Name) -> tuple[np.ndarray, np.ndarray | None] | None:
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

    def add(self, line: Line, image: bytes, full_size: bytes | None = None) -> None:
        """Writes a PNG image, if its line says that it is kept, then the line."""
        if full_size is not None:
            assert line["full_size_sha256"] is not None
            drawn = full_size_folder(self.folder)
            self._write(drawn, line, full_size, line["full_size_sha256"])
        self._write(self.folder, line, image, line["sha256"])
        written = as_line(line).encode()
        if self._shard.write(written) != len(written):  # unbuffered: the disk took a part of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._shard.name)
        self.lines[line["label"], line["index"]] = line

    def _write(self, root: Path, line: Line, content: bytes, digest: str) -> None:
        """Writes the file of an image; removes it if it is there but rejected."""
        path = root / line["file_name"]
        self.num_moved += make_room(self.folder, path, digest)
        if not is_kept(line):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(content)


@contextlib.contextmanager
def filling(
    folder: Path,
    *,
    settings: Settings,
    class_names: Sequence[str],
    wanted: Sequence[int],
    process_index: int = 0,
    process_count: int = 1,
    repeated: Callable[[Sequence[Line]], Sequence[Line]] = lambda lines: (),
    finish: Callable[[list[Line]], None] = lambda lines: None,
) -> Iterator[Store]:
    """Opens a store, new or not, to add the images of one process; merges what is there after.

    Args:
      folder: of the store.
      settings: all that the images follow from.
      class_names: C names.
      wanted: C numbers of images.
      process_index: which of the processes this is, from 0.
      process_count: how many processes, on however many hosts, fill the store at the same time.
      repeated: of all lines, those of images that repeat earlier ones, each as it is to be
        rejected; called after the last merge.
      finish: called with all lines after the last merge, while no other process merges.

    Raises:
      UserError: for a folder that is no store or one of other settings, a share that another
        process works on, a disk that is full or cannot be written.
    """
    share = process_index, process_count
    content: StoreFile = {
        "class_names": list(class_names),
        "wanted": dict(zip(class_names, wanted)),
        "settings": settings,
    }
    with disk_problems_explained(
        f"cannot write to the store {folder}",
        "free some space, or give another config.oversampling.generated_dir. The images made so "
        "far are kept: the same command continues from them",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        at_work = contextlib.ExitStack()
        with locked(folder / LOCK):
            lines, changed = begin(folder, content, share)
            shard = at_work.enter_context(_open_shard(folder / shard_name(share)))
        size = settings["size"]
        store = Store(folder, class_names, wanted, share, lines, shard, size, changed)
        try:
            with at_work:
                yield store
            # Only now: until a store is filled, what has no line may replace what is missing.
            store.num_moved += put_aside_unlisted(folder, class_names, share, store.lines)
        finally:
            if store.num_moved:
                say(
                    f"note: {store.num_moved:,} files of {folder} that it has no use for are in "
                    f"{unlisted_folder(folder)} now"
                )
            with locked(folder / LOCK):
                merge(folder)
                _reject_repeated(folder, repeated)
                finish(list(read_all_lines(folder).values()))


@contextlib.contextmanager
def _open_shard(path: Path) -> Iterator[IO[bytes]]:
    """A shard to append to, locked as long as it is open."""
    with locked(path), open(path, "ab", buffering=0) as shard:
        yield shard


def _reject_repeated(folder: Path, repeated: Callable[[Sequence[Line]], Sequence[Line]]) -> None:
    """Rejects images that equal those of other processes, once no process is at work."""
    if any(map(is_locked, shards(folder))):
        return
    lines = read_all_lines(folder)
    rejected = repeated(list(lines.values()))
    if not rejected:
        return
    lines |= {(line["label"], line["index"]): line for line in rejected}
    write_lines(folder, list(lines.values()))
    for line in rejected:
        for root in (folder, full_size_folder(folder)):
            (root / line["file_name"]).unlink(missing_ok=True)
    say(
        f"note: {len(rejected):,} images of {folder} were rejected, as they repeat images that "
        f"other processes made (the first: {rejected[0]['file_name']}); run the same command "
        f"again to replace them"
    )
