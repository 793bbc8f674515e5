"""Images in memory, or in files that are decoded each time they are read."""

import abc
import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from osed_jax.data.decoding import decode
from osed_jax.errors import UserError

THREADS = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "decode")
_AT_ONCE = 1024  # images that one thread hashes at a time


class Images(abc.ABC):
    """N square RGB images of one size.

    Attributes:
      image_size: side in pixels.
      white: the value taken as white if files have more than 8 bits; 0 if none has.
      paths: the N files that they come from; None if they do not come from files.
    """

    image_size: int
    white: float = 0.0
    paths: tuple[Path, ...] | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """N."""

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The images of these rows: uint8 [len(rows), image_size, image_size, 3]."""

    @abc.abstractmethod
    def select(self, rows: np.ndarray) -> "Images":
        """Only these rows, in this order."""

    @property
    @abc.abstractmethod
    def digests(self) -> np.ndarray:
        """The digest of the decoded pixels of each image: uint8 [N, 16]."""

    @property
    def nbytes(self) -> int:
        """Size of all decoded images in bytes."""
        return len(self) * self.image_size**2 * 3


class ArrayImages(Images):
    """Images in memory, or in a memory-mapped file: uint8 [N, H, H, 3]."""

    def __init__(
        self,
        array: np.ndarray,
        *,
        digests: np.ndarray | None = None,
        paths: Sequence[Path] | None = None,
        white: float = 0.0,
    ):
        self.array, self._digests, self.white = array, digests, white
        self.paths = None if paths is None else tuple(paths)
        self.image_size = array.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.take`."""
        return self.array[rows]

    def select(self, rows: np.ndarray) -> "ArrayImages":
        """See `Images.select`."""
        return ArrayImages(
            self.array[rows],
            digests=self.digests[rows],
            paths=self.paths and [self.paths[r] for r in rows],
            white=self.white,
        )

    @cached_property
    def digests(self) -> np.ndarray:
        """See `Images.digests`."""
        if self._digests is not None:
            return self._digests
        parts = (self.array[i : i + _AT_ONCE] for i in range(0, len(self), _AT_ONCE))
        return as_rows(b"".join(THREADS.map(lambda part: b"".join(map(digest, part)), parts)))


class FileImages(Images):
    """Images in files, decoded each time they are read."""

    def __init__(
        self,
        paths: Sequence[Path],
        image_size: int,
        *,
        digests: np.ndarray | None = None,
        white: float = 0.0,
    ):
        self.paths: tuple[Path, ...] = tuple(paths)
        self.image_size, self._digests, self.white = image_size, digests, white

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.take`."""
        # Slots without a stored image have row 0, which is decoded once.
        needed, where = np.unique(rows, return_inverse=True)
        return np.stack(list(THREADS.map(self._pixels, needed)))[where]

    def select(self, rows: np.ndarray) -> "FileImages":
        """See `Images.select`."""
        paths, known = [self.paths[r] for r in rows], self._digests
        digests = None if known is None else known[rows]
        return FileImages(paths, self.image_size, digests=digests, white=self.white)

    @cached_property
    def digests(self) -> np.ndarray:
        """See `Images.digests`; if they are not known yet, every file is decoded."""
        if self._digests is not None:
            return self._digests
        return as_rows(b"".join(THREADS.map(lambda r: digest(self._pixels(r)), range(len(self)))))

    def _pixels(self, row: int) -> np.ndarray:
        return decode(self.paths[row], self.image_size, self.white).pixels


class Bank:
    """The images that the rows of a plan refer to: the natural ones, then the generated ones.

    Attributes:
      parts: the sets of images, all of one size.
      image_size: that size in pixels.
      nbytes: size of all of them decoded, in bytes.
      in_memory: whether all parts are in memory.
    """

    def __init__(self, *parts: Images):
        self.parts = parts
        self.image_size = parts[0].image_size
        self.nbytes = sum(p.nbytes for p in parts)
        self.in_memory = all(isinstance(p, ArrayImages) for p in parts)

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The images of these rows: uint8 [len(rows), image_size, image_size, 3]."""
        out = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        first = 0
        for part in self.parts:
            here = (rows >= first) & (rows < first + len(part))
            if here.any():
                out[here] = part.take(rows[here] - first)
            first += len(part)
        return out


def digest(pixels: np.ndarray) -> bytes:
    """The digest of an image's pixels: 16 bytes."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()[:16]


def as_rows(digests: bytes) -> np.ndarray:
    """A list of digests as uint8 [N, 16]."""
    return (
        np.frombuffer(digests, np.uint8).reshape(-1, 16) if digests else np.zeros((0, 16), np.uint8)
    )


def channel_statistics(images: Images, sample: int = 10_000) -> tuple[tuple, tuple]:
    """Mean and standard deviation of each channel in [0, 1], over at most `sample` images."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), sample)).astype(np.int64))
    total, squares = np.zeros(3), np.zeros(3)
    for part in np.array_split(rows, -(-len(rows) // 500)):
        pixels = images.take(part).reshape(-1, 3) / 255
        total += pixels.mean(axis=0) * len(part)
        squares += np.square(pixels).mean(axis=0) * len(part)
    mean = total / len(rows)
    std = np.sqrt(np.maximum(squares / len(rows) - np.square(mean), 0))
    if std.min() < 1e-3:
        raise UserError(
            "the training images are constant in at least one channel, so they cannot be "
            "normalised; check the images, or set dataset.mean and dataset.std"
        )
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())
