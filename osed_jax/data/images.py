"""Where images are kept (in memory or in files) and how a file becomes pixels."""

import abc
import concurrent.futures
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from osed_jax.console import progress
from osed_jax.errors import UserError

_DECODER = "1"  # part of the cache's key: change it whenever `decode` gives other pixels
_THREADS = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), "decode")


class Images(abc.ABC):
    """N square RGB images of one size."""

    image_size: int

    @abc.abstractmethod
    def __len__(self) -> int:
        """N."""

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The images of these rows: uint8 [len(rows), image_size, image_size, 3]."""

    @abc.abstractmethod
    def select(self, rows: np.ndarray) -> "Images":
        """These rows alone, in this order."""

    @property
    def nbytes(self) -> int:
        """Size of all decoded images in bytes."""
        return len(self) * self.image_size**2 * 3


class ArrayImages(Images):
    """Images in memory, or in a memory-mapped file: uint8 [N, H, H, 3]."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.image_size = array.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.take`."""
        return self.array[rows]

    def select(self, rows: np.ndarray) -> "ArrayImages":
        """See `Images.select`."""
        return ArrayImages(self.array[rows])


class FileImages(Images):
    """Images in files, decoded whenever they are taken."""

    def __init__(self, paths: Sequence[Path], image_size: int):
        self.paths = tuple(paths)
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.take`."""
        # Slots that show no stored image all name row 0, which is decoded once.
        needed, where = np.unique(rows, return_inverse=True)
        decoded = _THREADS.map(lambda r: decode(self.paths[r], self.image_size)[0], needed)
        return np.stack(list(decoded))[where]

    def select(self, rows: np.ndarray) -> "FileImages":
        """See `Images.select`."""
        return FileImages([self.paths[r] for r in rows], self.image_size)


class Bank:
    """The images that a plan's rows count: the natural ones, then the generated ones.

    Attributes:
      parts: the sets of images, all of one size.
      image_size: that size in pixels.
      nbytes: size of all of them decoded, in bytes.
      in_memory: whether no part has to be decoded from files.
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


def decode(path: Path, image_size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads an image file of any format, size and mode.

    EXIF rotation is applied; transparent pixels are laid on white; 16-bit grey is scaled. The
    shorter side is resized to `image_size` (Lanczos, antialiased), the longer one cropped about
    its centre.

    Returns:
      uint8 [image_size, image_size, 3], and the (width, height) it had.

    Raises:
      UserError: naming the file, where it is empty or cannot be decoded.
    """
    with _naming_the_file(path), Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(fit(upright, image_size)), upright.size


def fit(image: Image.Image, image_size: int) -> Image.Image:
    """The image as RGB, resized and cropped to a square as `decode` says."""
    size = (image_size, image_size)
    return ImageOps.fit(_as_rgb(image), size, Image.Resampling.LANCZOS)


def read_files(
    paths: Sequence[Path], image_size: int, *, cache_dir: Path, max_decoded_gib: float, label: str
) -> tuple[Images, Counter[tuple[int, int]]]:
    """Images of files: decoded once and cached, or left in their files where they are too many.

    Args:
      paths: of the image files.
      image_size: side in pixels that every image gets.
      cache_dir: where decoded images are kept, in files named by the content of `paths`.
      max_decoded_gib: above this decoded size, in GiB, the images stay in their files; then only
        their headers are checked here.
      label: of the progress bar.

    Returns:
      The images, and how many there were of each original (width, height).

    Raises:
      UserError: naming the first file that is empty or cannot be read.
    """
    images = FileImages(tuple(paths), image_size)
    if images.nbytes > max_decoded_gib * 2**30:
        return images, Counter(_with_progress(_header, paths, label=f"checking {label}"))
    target = cache_dir / f"{_content_key(paths, image_size, label)}.npy"
    sizes_file = target.with_suffix(".json")
    try:
        return _cached(target, sizes_file)
    except (OSError, ValueError, EOFError):  # not there, or broken
        _decode_all(paths, image_size, target, sizes_file, label)
        return _cached(target, sizes_file)


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


def _cached(target: Path, sizes_file: Path) -> tuple[Images, Counter[tuple[int, int]]]:
    sizes = {tuple(s): n for s, n in json.loads(sizes_file.read_text())}
    return ArrayImages(np.load(target, mmap_mode="r")), Counter(sizes)


def _decode_all(
    paths: Sequence[Path], image_size: int, target: Path, sizes_file: Path, label: str
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    partial_sizes = partial.with_suffix(".sizes")
    try:
        shape = (len(paths), image_size, image_size, 3)
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        sizes: Counter = Counter()
        decoded = _with_progress(lambda p: decode(p, image_size), paths, label=f"decoding {label}")
        for i, (pixels, size) in enumerate(decoded):
            array[i] = pixels
            sizes[size] += 1
        array.flush()
        partial_sizes.write_text(json.dumps(list(sizes.items())))
        os.replace(partial_sizes, sizes_file)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
        partial_sizes.unlink(missing_ok=True)


def _content_key(paths: Sequence[Path], image_size: int, label: str) -> str:
    def digest(path: Path) -> bytes:
        with _naming_the_file(path), open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    key = hashlib.sha256(f"{_DECODER} {image_size} {len(paths)}".encode())
    for each in _with_progress(digest, paths, label=f"hashing {label}"):
        key.update(each)
    return key.hexdigest()[:32]


def _header(path: Path) -> tuple[int, int]:
    with _naming_the_file(path), Image.open(path) as image:
        return image.size


def _with_progress(do: Callable, paths: Sequence[Path], *, label: str) -> Iterator:
    """Maps over paths in parallel; in batches, so that results do not pile up in memory."""
    batches: Iterable = (paths[i : i + 1024] for i in range(0, len(paths), 1024))
    with progress(total=len(paths), unit="file", label=label) as bar:
        for batch in batches:
            for result in _THREADS.map(do, batch):
                yield result
                bar.update()


class _naming_the_file:
    """Turns whatever a broken image raises into one line that names the file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            empty = self.path.is_file() and self.path.stat().st_size == 0
            why = "the file is empty" if empty else str(error) or type(error).__name__
            raise UserError(
                f"cannot read the image {self.path}: {why}; replace or remove it"
            ) from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255
        return Image.fromarray((np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
