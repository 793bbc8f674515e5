"""Image folders: one folder a class, any formats and sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from osed_jax.data.image_cache import Findings, read_files
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import Images
from osed_jax.data.listing import (
    ENDINGS,
    ClassFiles,
    class_folders,
    files_of_classes,
    say_what_is_left_out,
)
from osed_jax.errors import UserError
from osed_jax.runtime.console import say

SPLITS = ("train", "test")
_OTHER_NAMES = ("val", "valid", "validation", "dev", "eval", "testing", "training")


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
    folders = _class_folders(data_dir, split)
    for other in SPLITS:
        if other != split and (root / other).is_dir():
            there = _class_folders(data_dir, other)
            _check_same_classes(root / split, folders, root / other, there)
    return read_class_folders(
        root / split,
        tuple(folders),
        image_size=image_size,
        cache_dir=cache_dir,
        max_decoded_gib=max_decoded_gib,
    )


def check_folder(data_dir: str) -> None:
    """Checks names only, before any image is decoded: train and test, classes, their files.

    Raises:
      UserError: as `load_folder` for either split.
    """
    root = Path(data_dir)
    train, test = (_class_folders(data_dir, split) for split in SPLITS)
    _check_same_classes(root / "train", train, root / "test", test)
    for folders in (train, test):
        _check_no_class_is_empty(folders, files_of_classes(folders))


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

    With `may_be_empty` a class may have no images or no folder. Prints which files are left out and
    what was done to the images.
    """
    there = class_folders(folder)
    folders = {name: there.get(name, folder / name) for name in class_names}
    found = files_of_classes(folders)
    if not may_be_empty:
        _check_no_class_is_empty(folders, found)
    paths = [path for files in found.values() for path in files.images]
    if not paths:
        raise UserError(f"{folder} contains no images; put them at {folder}/CLASS/*.png")
    say_what_is_left_out(folder, found)
    images = read_image_files(
        paths,
        image_size,
        cache_dir=cache_dir,
        max_decoded_gib=max_decoded_gib,
        label=str(folder),
    )
    label = np.repeat(np.arange(len(found)), [len(files.images) for files in found.values()])
    return ImageSet(images, label.astype(np.int64), tuple(class_names))


def read_image_files(
    paths: Sequence[Path], image_size: int, *, cache_dir: Path, max_decoded_gib: float, label: str
) -> Images:
    """Images of files, see `image_cache.read_files`; prints what was done to them."""
    images, found = read_files(
        paths, image_size, cache_dir=cache_dir, max_decoded_gib=max_decoded_gib, label=label
    )
    _say_findings(label, paths, found, image_size)
    return images


def _class_folders(data_dir: str, split: str) -> dict[str, Path]:
    root = Path(data_dir)
    if not data_dir or not root.is_dir():
        raise UserError(
            f"config.dataset.data_dir is {data_dir!r}, which is not a folder; give a folder "
            "that contains train/CLASS/* and test/CLASS/*"
        )
    folder = root / split
    if not folder.is_dir():
        others = [name for name in _OTHER_NAMES if (root / name).is_dir()]
        raise UserError(
            f"there is no folder {folder}; it must contain one folder for each class"
            + (
                f"; there is {root / others[0]}: if this is the folder, rename it to {split}"
                if others
                else ""
            )
        )
    names = class_folders(folder)
    if len(names) < 2:
        raise UserError(
            f"{folder} has only one class, {next(iter(names))!r}; at least 2 are needed"
        )
    return names


def _check_same_classes(
    folder: Path, names: Mapping[str, Path], other: Path, other_names: Mapping[str, Path]
) -> None:
    for here, there, missing in (
        (folder, other, set(names) - set(other_names)),
        (other, folder, set(other_names) - set(names)),
    ):
        if missing:
            raise UserError(
                f"class {', '.join(map(repr, sorted(missing)))} is in {here} but not in {there}; "
                "both must contain the same class folders"
            )


def _check_no_class_is_empty(folders: Mapping[str, Path], found: Mapping[str, ClassFiles]) -> None:
    empty = {name: folders[name] for name, files in found.items() if not files.images}
    if empty:
        raise UserError(
            f"class {', '.join(map(repr, empty))} has no images in "
            f"{', '.join(map(str, empty.values()))}; add some ({', '.join(sorted(ENDINGS))}) "
            "or remove the class everywhere"
        )


def _say_findings(label: str, paths: Sequence[Path], found: Findings, image_size: int) -> None:
    other = {s: n for s, n in found.sizes.items() if s != (image_size, image_size)}
    if other:
        (width, height), most = max(other.items(), key=lambda item: item[1])
        kinds = f"{most:,} of them {width}x{height}" if len(other) > 1 else f"{width}x{height}"
        say(
            f"note: {sum(other.values()):,} images of {label} ({kinds}) "
            f"were resized to {image_size}x{image_size}"
        )
    for note, (count, first) in found.notes.items():
        say(f"note: {count:,} images of {label} {note} (the first: {paths[first]})")
    if found.deep:
        say(
            f"note: {found.deep:,} images of {label} have more than 8 bits per value; "
            f"{found.white:,.6g} is taken as white in all of them, 0 as black"
        )
