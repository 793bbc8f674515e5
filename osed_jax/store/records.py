"""The lines and the files of a store's images: read, written, merged, checked."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from osed_jax.files import records
from osed_jax.files.atomic import write_atomically
from osed_jax.files.digests import file_sha256
from osed_jax.files.lock import is_locked
from osed_jax.store.format import (
    METADATA,
    REJECTED,
    Line,
    full_size_folder,
    is_kept,
    is_line,
    share_of,
)

Name = tuple[int, int]  # label, index


def merge(folder: Path) -> None:
    """Merges the shards into `metadata.jsonl` and `rejected.jsonl`; drops those of ended processes.

    Lines are sorted by class and index. A line whose image is gone is dropped: its index is free.
    """
    ended = [path for path in shards(folder) if not is_locked(path)]
    lines = read_all_lines(folder).values()
    write_lines(
        folder, [line for line in lines if not is_kept(line) or _image(folder, line).is_file()]
    )
    for path in ended:
        path.unlink()


def write_lines(folder: Path, lines: Sequence[Line]) -> None:
    """Writes `metadata.jsonl` and `rejected.jsonl`, each whole or not at all."""
    metadata = [records.as_line(line) for line in lines if is_kept(line)]
    rejected = [records.as_line(line) for line in lines if not is_kept(line)]
    write_atomically(folder / METADATA, "".join(metadata))
    if rejected:
        write_atomically(folder / REJECTED, "".join(rejected))
    else:
        (folder / REJECTED).unlink(missing_ok=True)


def changed_images(folder: Path, lines: Mapping[Name, Line]) -> set[Name]:
    """Kept images whose files are no longer those that were written, by their sha256.

    An image as drawn counts too, unless the folder of all of them is gone.
    """
    drawn = full_size_folder(folder)

    def changed(line: Line) -> bool:
        files = [(_image(folder, line), line["sha256"])]
        if line["full_size_sha256"] and drawn.is_dir():
            files.append((_image(drawn, line), line["full_size_sha256"]))
        return any(not path.is_file() or file_sha256(path) != of for path, of in files)

    return {name for name, line in lines.items() if is_kept(line) and changed(line)}


def read_all_lines(folder: Path) -> dict[Name, Line]:
    """All whole lines of all processes, by label and index, sorted."""
    files = [folder / METADATA, folder / REJECTED, *shards(folder)]
    lines = {(line["label"], line["index"]): line for file in files for line in read_lines(file)[0]}
    return dict(sorted(lines.items(), key=lambda item: item[0]))


def read_lines(file: Path, *, growing: bool = False) -> tuple[list[Line], list[int]]:
    """The lines of a file, and the numbers of its damaged ones, from 1.

    The last line of a file that is `growing` may be half-written.
    """
    lines, damaged = records.read_lines(file, growing=growing, allowed=is_line)
    return cast(list[Line], lines), damaged


def shards(folder: Path) -> list[Path]:
    """The files of lines of all processes; a living process holds the lock of its own."""
    return sorted(path for path in folder.iterdir() if share_of(path.name))


def is_listed(lines: Mapping[Name, Line], name: Name) -> bool:
    """Whether there is a line that keeps an image."""
    return name in lines and is_kept(lines[name])


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


def _image(root: Path, line: Line) -> Path:
    return root / line["file_name"]
