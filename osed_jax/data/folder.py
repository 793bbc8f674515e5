"""Image folders: one folder a class, any formats and sizes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from osed_jax.console import say
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import read_files
from osed_jax.errors import UserError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)


def load_folder(
    data_dir: str, split: str, *, image_size: int, cache_dir: Path, max_decoded_gib: float
) -> ImageSet:
    """The images of DIR/train/CLASS/* or DIR/test/CLASS/*.

    Classes and, within each class, files are taken in the order of their names.

    Raises:
      UserError: for a missing folder, fewer than two classes, classes that differ between train
        and test, a class without images, an image that cannot be read.
    """
    root = Path(data_dir)
    if not data_dir or not root.is_dir():
        raise UserError(
            f"config.dataset.data_dir is {data_dir!r}, which is no folder; give one that holds "
            f"train/CLASS/* and test/CLASS/*"
        )
    names = class_folders(root / split)
    for other in {"train", "test"} - {split}:
        if (root / other).is_dir():
            _check_same_classes(root / split, names, root / other, class_folders(root / other))
    if len(names) < 2:
        raise UserError(f"{root / split} has one class only, {names[0]!r}; at least 2 are needed")
    return read_class_folders(
        root / split,
        names,
        image_size=image_size,
        cache_dir=cache_dir,
        max_decoded_gib=max_decoded_gib,
    )


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted; hidden ones do not count."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; it must hold one folder a class")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise UserError(f"{folder} holds no class folders; put images at {folder}/CLASS/*.jpg")
    return names


def read_class_folders(
    folder: Path,
    class_names: Sequence[str],
    *,
    image_size: int,
    cache_dir: Path,
    max_decoded_gib: float,
    may_be_empty: bool = False,
) -> ImageSet:
    """All images of `class_names` in `folder`, in the order of class and file name.

    With `may_be_empty` a class may lack images or its whole folder. Says aloud which sizes were
    resized.
    """
    paths: list[Path] = []
    label: list[int] = []
    for c, name in enumerate(class_names):
        found = image_files(folder / name)
        if not found and not may_be_empty:
            raise UserError(
                f"class {name!r} has no images in {folder / name}; "
                f"add some ({', '.join(sorted(EXTENSIONS))}) or remove the class everywhere"
            )
        paths += found
        label += [c] * len(found)
    if not paths:
        raise UserError(f"{folder} holds no images; put them at {folder}/CLASS/*.png")
    images, sizes = read_files(
        paths,
        image_size,
        cache_dir=cache_dir,
        max_decoded_gib=max_decoded_gib,
        label=str(folder),
    )
    _say_resized(folder, sizes, image_size)
    return ImageSet(images, np.asarray(label, np.int64), tuple(class_names))


def image_files(folder: Path) -> list[Path]:
    """Image files directly in `folder`, sorted by name; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.name[0] != "."
    )


def _check_same_classes(
    folder: Path, names: Sequence[str], other: Path, other_names: Sequence[str]
) -> None:
    for here, there, missing in (
        (folder, other, set(names) - set(other_names)),
        (other, folder, set(other_names) - set(names)),
    ):
        if missing:
            raise UserError(
                f"class {', '.join(map(repr, sorted(missing)))} is in {here} but not in {there}; "
                f"both must hold the same class folders"
            )


def _say_resized(folder: Path, sizes: Counter[tuple[int, int]], image_size: int) -> None:
    other = Counter({s: n for s, n in sizes.items() if s != (image_size, image_size)})
    if other:
        (width, height), most = other.most_common(1)[0]
        kinds = f"{most:,} of them {width}x{height}" if len(other) > 1 else f"{width}x{height}"
        say(
            f"note: {sum(other.values()):,} images of {folder} ({kinds}) "
            f"were resized to {image_size}x{image_size}"
        )
