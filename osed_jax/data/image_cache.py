"""A cache of decoded image files beside the work directories; every read is checked.

    KEY.json    its own key; what was found in the files: sizes, notes, a digest of each image
    KEY.npy     the decoded images; missing if there are too many and they stay in their files

The key of decoded images is the content of their files. The key of images that stay in files is
their paths, sizes and times, so that a start need not read them all. A damaged entry is reported
and made again. An entry is removed when its folder has other content, or after a month without use.
Other files that lie there are left alone.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from osed_jax.data import images
from osed_jax.data.decoding import DECODER, Decoded, UnreadableError, naming_the_file
from osed_jax.data.images import ArrayImages, FileImages, Images, as_rows, digest
from osed_jax.errors import DamageError, UserError, disk_problems_explained
from osed_jax.files.atomic import remove_abandoned, whole_file
from osed_jax.files.records import as_line, unsealed
from osed_jax.runtime.console import progress, say

CACHE_VARIABLE = "OSED_JAX_CACHE_DIR"  # by default it is beside the work directories
_KEY = re.compile(r"[0-9a-f]{32}")
_UNUSED_DAYS = 30
_NAMED = 100  # unreadable files that one error names


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was found while decoding the files of a folder.

    Attributes:
      sizes: how many images there were of each (width, height).
      notes: for each note of `decoding`: the number of its images, and the row of the first one.
      white: the value taken as white; 0 if no image has more than 8 bits.
      deep: number of images with more than 8 bits.
      digests: uint8 [N, 16], of the decoded images.
    """

    sizes: Counter[tuple[int, int]]
    notes: dict[str, tuple[int, int]]
    white: float
    deep: int
    digests: np.ndarray


def read_files(
    paths: Sequence[Path], image_size: int, *, cache_dir: Path, max_decoded_gib: float, label: str
) -> tuple[Images, Findings]:
    """Images of files: decoded once and cached, or left in their files if there are too many.

    Args:
      paths: of the image files.
      image_size: side in pixels to which images are resized.
      cache_dir: where decoded images are kept.
      max_decoded_gib: above this decoded size, in GiB, the images stay in their files.
      label: name of the folder for the progress bar and messages.

    Raises:
      UserError: naming all files that are empty or cannot be read; or if the cache cannot be
        written.
    """
    files = FileImages(paths, image_size)
    streamed = files.nbytes > max_decoded_gib * 2**30
    key = _key_of_files(paths, image_size) if streamed else _content_key(paths, image_size, label)
    entry = _Entry(cache_dir / key, files, streamed, label)
    with disk_problems_explained(
        f"cannot keep decoded images in {cache_dir}",
        f"free some space there, or name another folder in the environment's {CACHE_VARIABLE}",
    ):
        cache_dir.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cache_dir)
        try:
            return entry.read()
        except FileNotFoundError:
            pass
        except DamageError as error:
            say(f"note: {entry.record}: {error}; the images of {label} are decoded again")
        entry.make()
        prune(cache_dir, entry.record, entry.folder)
        return entry.read()


class _Entry:
    """The cache entry of one list of files."""

    def __init__(self, stem: Path, files: FileImages, streamed: bool, label: str):
        self.record, self.pixels = stem.with_suffix(".json"), stem.with_suffix(".npy")
        self.files, self.streamed = files, streamed
        self.label = label
        self.folder = f"{Path(label).resolve()} {files.image_size}"
        self._shape = (len(files), files.image_size, files.image_size, 3)

    def read(self) -> tuple[Images, Findings]:
        """The images and the findings; raises FileNotFoundError or DamageError."""
        findings = _parse(self.record, len(self.files))
        with contextlib.suppress(OSError):  # an entry of another user, or a read-only disk
            os.utime(self.record)  # when it was last used
        known: dict[str, Any] = {"digests": findings.digests, "white": findings.white}
        if self.streamed:
            return FileImages(self.files.paths, self.files.image_size, **known), findings
        header = _npy_header(self._shape)
        with open(self.pixels, "rb") as file:
            if file.read(len(header)) != header:
                raise DamageError(f"{self.pixels.name} begins with another header")
        if self.pixels.stat().st_size != len(header) + self.files.nbytes:
            raise DamageError(f"{self.pixels.name} has another length")
        array = np.memmap(self.pixels, np.uint8, "r", len(header), self._shape)
        wrong = (ArrayImages(array).digests != findings.digests).any(axis=1).sum()
        if wrong:
            raise DamageError(f"{wrong:,} of {len(array):,} images have other pixels")
        return ArrayImages(array, paths=self.files.paths, **known), findings

    def make(self) -> None:
        """Decodes all files; writes the pixels, if they are cached, then the record."""
        size = self.files.image_size
        with contextlib.ExitStack() as stack:  # the pixels get their name first, the record last
            record, file = stack.enter_context(whole_file(self.record)), None
            if not self.streamed:
                file = stack.enter_context(whole_file(self.pixels))
                file.write(_npy_header(self._shape))
            findings = self._decode_all(file, len(_npy_header(self._shape)), 3 * size**2)
            record.write(_format(self.record, findings, self.folder).encode())

    def _decode_all(self, file: IO[bytes] | None, start: int, nbytes: int) -> Findings:
        sizes: Counter = Counter()
        notes: dict[str, tuple[int, int]] = {}
        whites: dict[int, float] = {}  # of each deep image
        digests = bytearray()
        paths, image_size = self.files.paths, self.files.image_size
        decode_one: Callable[[Path], Decoded] = lambda p: images.decode(p, image_size)  # noqa: E731
        for row, decoded in enumerate(_each(decode_one, paths, f"decoding {self.label}")):
            sizes[decoded.size] += 1
            for note in decoded.notes:
                count, first = notes.get(note, (0, row))
                notes[note] = count + 1, first
            if decoded.white:
                whites[row] = decoded.white
            digests += digest(decoded.pixels)
            if file:
                file.write(decoded.pixels.data)
        white = max(whites.values(), default=0.0)
        for row in (r for r, own in whites.items() if own != white):  # one white for all
            pixels = images.decode(paths[row], image_size, white).pixels
            digests[16 * row : 16 * row + 16] = digest(pixels)
            if file:
                file.seek(start + row * nbytes)
                file.write(pixels.data)
        return Findings(sizes, notes, white, len(whites), as_rows(bytes(digests)))


def _format(record: Path, findings: Findings, folder: str) -> str:
    return as_line(
        {
            "key": record.stem,
            "folder": folder,
            "sizes": [[*size, count] for size, count in findings.sizes.items()],
            "notes": findings.notes,
            "white": findings.white,
            "deep": findings.deep,
            "digests": findings.digests.tobytes().hex(),
        }
    )


def _parse(record: Path, count: int) -> Findings:
    content = unsealed(record.read_bytes())
    try:
        return Findings(
            Counter({(width, height): n for width, height, n in content["sizes"]}),
            {note: (n, first) for note, (n, first) in content["notes"].items()},
            content["white"],
            content["deep"],
            as_rows(bytes.fromhex(content["digests"])).reshape(count, 16),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError("it is not a record of these images") from error


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _content_key(paths: Sequence[Path], image_size: int, label: str) -> str:
    def of_file(path: Path) -> bytes:
        with naming_the_file(path), open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    key = hashlib.sha256(f"{DECODER} {image_size} {len(paths)}".encode())
    for each in _each(of_file, paths, f"hashing {label}"):
        key.update(each)
    return key.hexdigest()[:32]


def _key_of_files(paths: Sequence[Path], image_size: int) -> str:
    key = hashlib.sha256(f"{DECODER} {image_size} {len(paths)}".encode())
    for path in paths:
        with naming_the_file(path):
            about = path.stat()
        line = os.fsencode(path.resolve()) + f" {about.st_size} {about.st_mtime_ns}\n".encode()
        key.update(line)
    return key.hexdigest()[:32]


def _each(do: Callable, paths: Sequence[Path], label: str) -> Iterator:
    """Maps over paths in parallel; an unreadable file does not stop it, so that all are named.

    It works in batches, so that results do not fill the memory.

    Raises:
      UserError: at the end, naming every file that could not be read.
    """
    failed: list[UnreadableError] = []

    def attempt(path: Path) -> Any:
        try:
            return do(path)
        except UnreadableError as error:
            return error

    with progress(total=len(paths), unit="file", label=label) as bar:
        for start in range(0, len(paths), 1024):
            for result in images.THREADS.map(attempt, paths[start : start + 1024]):
                bar.update()
                if isinstance(result, UnreadableError):
                    failed.append(result)
                elif not failed:  # after a failure the other files are only checked
                    yield result
    if len(failed) == 1:
        raise failed[0]
    if failed:
        named = ", ".join(f"{error.path} ({error.why})" for error in failed[:_NAMED])
        more = f" and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else ""
        raise UserError(
            f"cannot read {len(failed):,} images: {named}{more}; replace or remove them"
        )


def prune(cache_dir: Path, new: Path, folder: str) -> None:
    """Removes entries that a new one replaces, and entries not used for a long time.

    Args:
      cache_dir: the cache.
      new: the new entry's record.
      folder: the folder of these images; other entries of it are from its earlier content.
    """
    removed = 0
    for record in sorted(cache_dir.glob("*.json")):
        if record == new or (its_folder := _folder_of(record)) is None:
            continue
        unused = time.time() - record.stat().st_mtime > _UNUSED_DAYS * 86400
        if unused or its_folder == folder:
            for path in (record, record.with_suffix(".npy")):
                if path.exists():
                    removed += path.stat().st_size
                    path.unlink(missing_ok=True)
    if removed:
        say(
            f"note: {removed / 2**20:,.1f} MiB of decoded images that are no longer needed "
            f"were removed from {cache_dir}"
        )


def _folder_of(record: Path) -> str | None:
    """The folder whose images an entry has; None for a file that is no record of the cache."""
    if not _KEY.fullmatch(record.stem):
        return None
    try:
        content = unsealed(record.read_bytes())
    except (OSError, DamageError):
        return None
    return content.get("folder") if content.get("key") == record.stem else None
