"""The other class that generated images started from, which has a share of their labels.

Diff-Mix (Wang et al., "Enhance Image Classification via Inter-Class Image Mixup with Diffusion
Model", CVPR 2024): a real image of class i that was edited with strength s towards class j has the
label (1 - s^gamma) y_i + s^gamma y_j.
"""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError
from osed_jax.store.format import METADATA, START_FROM, Line
from osed_jax.store.settings import is_store, read_store_file


class StartedFrom(NamedTuple):
    """The real images that M generated images started from.

    Attributes:
      label: their classes, int32 [M], never that of the generated image.
      strength: share of the denoising steps that were taken from there, in (0, 1], float64 [M].
    """

    label: np.ndarray
    strength: np.ndarray

    def own_share(self, exponent: float) -> np.ndarray:
        """Share that the generated image's own class has of its label, float32 [M]."""
        return (self.strength**exponent).astype(np.float32)

    def select(self, rows: np.ndarray) -> "StartedFrom":
        """Of these generated images alone."""
        return StartedFrom(self.label[rows], self.strength[rows])


def starts_elsewhere(folder: Path) -> bool:
    """Whether `folder` is a store whose images started from images of other classes."""
    return is_store(folder) and START_FROM["other_class"] in read_store_file(folder)["settings"]


def read_started_from(
    folder: Path, generated: ImageSet, lines: Sequence[Line | None]
) -> StartedFrom | None:
    """What the images of a folder started from; None if not from images of other classes.

    Args:
      folder: of the store.
      generated: its M images.
      lines: of each of them, see `origins.read_image_lines`.

    Raises:
      UserError: if an image has no line that says it.
    """
    if not starts_elsewhere(folder):
        return None
    names = generated.class_names
    label_of = {name: label for label, name in enumerate(names)}
    label, strength, unknown = [], [], []
    assert generated.images.paths is not None  # they were read from files
    for path, own, line in zip(generated.images.paths, generated.label, lines):
        if line and _names_a_start(line, label_of, names[own]):
            label.append(label_of[line["start_class"]])
            strength.append(line["strength"])
        else:
            unknown.append(path)
    if unknown:
        raise UserError(
            f"{len(unknown):,} images of {folder} have no whole line in {METADATA} with the "
            f"start_class and the strength that their labels follow from (the first: "
            f"{unknown[0]}); remove images that are not of this store and lines that were changed, "
            "then run --mode=generate, which writes lines that are missing"
        )
    return StartedFrom(np.asarray(label, np.int32), np.asarray(strength, np.float64))


def content_sha256(generated: ImageSet, started: StartedFrom | None) -> str | None:
    """The sha256 of generated images and of all that their labels follow from."""
    of_images = generated.content_sha256()
    if started is None or of_images is None:
        return of_images
    digest = hashlib.sha256(of_images.encode())
    digest.update(started.label.astype("<i4").tobytes())
    digest.update(started.strength.astype("<f8").tobytes())
    return digest.hexdigest()


def _names_a_start(line: Line, class_names: Collection[str], own: str) -> bool:
    if "start_class" not in line or "strength" not in line:
        return False
    in_another = line["start_class"] in class_names and line["start_class"] != own
    return in_another and 0 < line["strength"] <= 1
