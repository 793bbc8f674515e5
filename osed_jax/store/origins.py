"""Which generated images started from real ones that a run does not train on.

An image that started from a real one may be a near copy of it. If that one is held out, a run that
shows the copy in training is judged on what it has seen.
"""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from osed_jax.data.image_set import ImageSet
from osed_jax.data.listing import class_folders
from osed_jax.errors import UserError
from osed_jax.runtime.console import say
from osed_jax.store.format import METADATA, START_FROM, Line
from osed_jax.store.records import read_lines
from osed_jax.store.settings import is_store, read_store_file


class Usable(NamedTuple):
    """The generated images that a run may show.

    Attributes:
      rows: of them, int64, ascending.
      left_out: how many of how many are left out and why, in words; "" if none is.
    """

    rows: np.ndarray
    left_out: str


def starts_from_real(folder: Path) -> bool:
    """Whether `folder` is a store whose images started from real ones."""
    keys = START_FROM.values()
    return is_store(folder) and any(key in read_store_file(folder)["settings"] for key in keys)


def read_image_lines(folder: Path, generated: ImageSet) -> list[Line | None]:
    """The line of each image of a store; None for an image without a whole one."""
    lines = {line["file_name"]: line for line in read_lines(folder / METADATA)[0]}
    names, folders = generated.class_names, class_folders(folder)
    assert generated.images.paths is not None  # they were read from files
    return [
        lines.get(f"{names[own]}/{path.relative_to(folders[names[own]])}")
        for path, own in zip(generated.images.paths, generated.label)
    ]


def start_rows(lines: Sequence[Line | None], whole: ImageSet, root: Path) -> np.ndarray:
    """Positions, in the whole training split, of what images started from; -1 if it is not there.

    Args:
      lines: of the M generated images.
      whole: the training split; its images have positions, or are files.
      root: where the paths of the files begin. The store may have been made where this folder has
        another name or place, so files are compared by their paths below it.

    Returns:
      int64 [M].
    """
    find = _by_path(whole.images.paths, root) if whole.images.paths else _by_position(whole)
    rows = np.full(len(lines), -1, np.int64)
    for i, line in enumerate(lines):
        if not line or "start_image" not in line:
            continue
        row = find(line["start_image"])
        of_class = line["start_class"] if "start_class" in line else line["class"]
        # Of another data set, or another version of it, the same position is another image.
        if row is not None and whole.class_names[whole.label[row]] == of_class:
            rows[i] = row
    return rows


def usable(
    folder: Path,
    lines: Sequence[Line | None],
    starts: np.ndarray,
    *,
    train: np.ndarray,
    held_out: np.ndarray,
    validates: bool,
) -> Usable:
    """The images that started from training images of the run.

    Without validation images, those whose lines do not say what they started from stay, too.

    Args:
      folder: of the store.
      lines: of its M images.
      starts: what they started from, see `start_rows`.
      train: positions of the training images of the run.
      held_out: positions of the images that it holds out.
      validates: whether it has validation images, held out or listed.

    Raises:
      UserError: if there are validation images and it cannot be told of any generated image
        whether it started from one.
    """
    if (starts < 0).all():
        problem = (
            f"the images of {folder} started from real images, but none of these is among the "
            f"training images of config.dataset (the first: {_first_start(lines)})"
        )
        if validates:
            raise UserError(
                f"{problem}, so it cannot be told which of them are validation images; give the "
                "data set that the store was made from, with the same paths below its folder, or "
                "hold out no images"
            )
        say(f"WARNING: {problem}; all are shown, though they may be near copies of test images")
        return Usable(np.arange(len(lines)), "")
    unknown = np.asarray([not line or "start_image" not in line for line in lines])
    of_held_out = np.isin(starts, held_out)
    foreign = ~unknown & ~of_held_out & ~np.isin(starts, train)
    reasons = {
        "started from images that this run holds out": of_held_out,
        "started from images that are not among its training images": foreign,
        f"have no whole line in {METADATA} that names what they started from": unknown & validates,
    }
    out = np.any(list(reasons.values()), axis=0)
    why = ", ".join(f"{of.sum():,} {reason}" for reason, of in reasons.items() if of.any())
    text = f"{out.sum():,} of {len(lines):,} images of {folder} are left out: {why}"
    return Usable(np.flatnonzero(~out), text if out.any() else "")


def _by_position(whole: ImageSet) -> Callable[[Any], int | None]:
    positions = range(len(whole.label))
    return lambda start: start if isinstance(start, int) and start in positions else None


def _by_path(paths: Sequence[Path], root: Path) -> Callable[[Any], int | None]:
    row_of = {_composed(str(path).removeprefix(f"{root}/")): row for row, path in enumerate(paths)}

    def find(start: Any) -> int | None:
        rest = _composed(start) if isinstance(start, str) else ""
        while rest and rest not in row_of:  # without one more of the folders that it is in
            rest = rest.partition("/")[2]
        return row_of.get(rest)

    return find


def _composed(path: str) -> str:
    """The same name in any form of Unicode, see `listing.class_folders`."""
    return unicodedata.normalize("NFC", path)


def _first_start(lines: Sequence[Line | None]) -> str:
    starts = (line["start_image"] for line in lines if line and "start_image" in line)
    return str(next(starts, f"no line of {METADATA} names one"))
