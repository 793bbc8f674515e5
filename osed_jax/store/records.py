"""The lines that a store keeps of its images, and the names of its files; see `store`."""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
from PIL import Image

from osed_jax.files import digests
from osed_jax.files.atomic import write_atomically
from osed_jax.files.lock import is_locked
from osed_jax.files.records import as_line
from osed_jax.files.records import read_lines as read_sealed_lines
from osed_jax.store.reading import METADATA

REJECTED = "rejected.jsonl"
_SHARD = re.compile(r"\.metadata-(\d+)-of-(\d+)\.jsonl")
_FILE_NAME = re.compile(r"[^/\0]+/\d{6,}\.png")
IMAGE = re.compile(r"(\d{6,})\.png")

# What every line has, and of which type.
_NEEDED: Mapping[str, type | UnionType] = {
    "label": int,
    "index": int,
    "class": str,
    "file_name": str,
    "verdict": str,
    "reason": str | None,
    "sha256": str,
    "full_size_sha256": str | None,
}

Record = dict[str, Any]
Name = tuple[int, int]  # label, index


def merge(folder: Path) -> None:
    """Merges the shards into `metadata.jsonl` and `rejected.jsonl`; drops those of ended processes.

    Lines are sorted by class and index. A line whose image is gone is dropped: its index is free.
    """
    ended = [path for path in shards(folder) if not lives(path)]
    records = read_records(folder)
    found = [r for r in records.values() if not is_kept(r) or (folder / r["file_name"]).is_file()]
    write_records(folder, found)
    for path in ended:
        path.unlink()


def write_records(folder: Path, records: Sequence[Record]) -> None:
    """Writes `metadata.jsonl` and `rejected.jsonl`, each whole or not at all."""
    for file, lines in (
        (METADATA, [r for r in records if is_kept(r)]),
        (REJECTED, [r for r in records if not is_kept(r)]),
    ):
        if lines or file == METADATA:
            write_atomically(folder / file, "".join(map(as_line, lines)))
        else:
            (folder / file).unlink(missing_ok=True)


def changed_images(folder: Path, records: Mapping[Name, Record]) -> set[Name]:
    """Kept images whose files are no longer those that were written, by their sha256.

    An image as drawn counts too, unless the folder of all of them is gone.
    """
    drawn = full_size_folder(folder)

    def changed(record: Record) -> bool:
        name, of_drawn = record["file_name"], record["full_size_sha256"]
        files = [(folder / name, record["sha256"])]
        files += [(drawn / name, of_drawn)] if of_drawn and drawn.is_dir() else []
        return any(not path.is_file() or digests.file_sha256(path) != of for path, of in files)

    return {name for name, record in records.items() if is_kept(record) and changed(record)}


def read_records(folder: Path) -> dict[Name, Record]:
    """All whole lines of all processes, by label and index, sorted."""
    files = [folder / METADATA, folder / REJECTED, *shards(folder)]
    records = {(r["label"], r["index"]): r for file in files for r in read_lines(file)[0]}
    return dict(sorted(records.items(), key=lambda item: item[0]))


def read_lines(file: Path, *, growing: bool = False) -> tuple[list[Record], list[int]]:
    """The records of a file of lines, and the numbers of damaged lines, from 1.

    A line whose image would lie outside the store is damaged, as no store of ours has such. The
    last line of a file that is `growing` may be half-written.
    """

    def inside(record: Record) -> bool:
        typed = all(isinstance(record[key], kind) for key, kind in _NEEDED.items())
        typed &= isinstance(record.get("start_class", ""), str)
        if not typed or min(record["label"], record["index"]) < 0:
            return False
        name = record["file_name"]
        return bool(_FILE_NAME.fullmatch(name)) and not name.startswith("../")

    return read_sealed_lines(file, tuple(_NEEDED), growing=growing, allowed=inside)


def shards(folder: Path) -> list[Path]:
    """The shards that are there, of living and of ended processes."""
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def is_kept(record: Record) -> bool:
    """Whether no filter rejected an image."""
    return record["verdict"] == "kept"


def full_size_folder(folder: Path) -> Path:
    """Where images as drawn are: beside the store, for some readers take any folder for a class."""
    return folder.with_name(f"{folder.name}.full_size")


def unlisted_folder(folder: Path) -> Path:
    """Where whole images are moved that a full store has no line for: beside it, as above."""
    return folder.with_name(f"{folder.name}.unlisted")


def file_name(class_name: str, index: int) -> str:
    """Where an image is, below the store's folder."""
    return f"{class_name}/{index:06d}.png"


def encode(image: np.ndarray) -> bytes:
    """The PNG file of an image, uint8 [H, W, 3]; equal images give equal files."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def decode(path: Path, size: int | None = None) -> np.ndarray | None:
    """The pixels of a whole PNG file, uint8 [H, W, 3]; None where there is none of that size."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()  # the checksum of every part
        with Image.open(path, formats=("PNG",)) as image:
            fits = image.mode == "RGB" and (size is None or image.size == (size, size))
            return np.asarray(image) if fits else None
    except (OSError, SyntaxError, ValueError):
        return None


def sha256(content: bytes) -> str:
    """Of a file's content."""
    return hashlib.sha256(content).hexdigest()


def is_listed(records: Mapping[Name, Record], label: int, index: int) -> bool:
    """Whether there is a line that keeps an image."""
    return (label, index) in records and is_kept(records[label, index])


def lives(shard: Path) -> bool:
    """Whether the process that writes a shard is still at work."""
    return is_locked(shard)
