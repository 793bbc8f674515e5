"""A labelled set of images, and its long-tailed part."""

import dataclasses
import hashlib

import numpy as np

from osed_jax.console import progress
from osed_jax.data import long_tail
from osed_jax.data.images import Images
from osed_jax.errors import UserError

_HASHED_AT_ONCE = 256  # images at a time; the digest does not depend on it


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    Attributes:
      images: N of them.
      label: int64 [N], in [0, C).
      class_names: C names.
    """

    images: Images
    label: np.ndarray
    class_names: tuple[str, ...]

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of images of each class."""
        return tuple(np.bincount(self.label, minlength=len(self.class_names)).tolist())

    def select(self, rows: np.ndarray) -> "ImageSet":
        """Only these rows, in this order."""
        return ImageSet(self.images.select(rows), self.label[rows], self.class_names)

    def content_sha256(self) -> str | None:
        """The sha256 of pixels and labels in their order; None if there are no images.

        It does not depend on paths or file formats. Images that are streamed from files are
        decoded once more for it.
        """
        if not len(self.label):
            return None
        digest = hashlib.sha256(self.label.astype("<i8").tobytes())
        digest.update(str(self.images.image_size).encode())
        starts = range(0, len(self.label), _HASHED_AT_ONCE)
        for first in progress(starts, total=len(starts), unit="batch", label="hashing images"):
            rows = np.arange(first, min(first + _HASHED_AT_ONCE, len(self.label)))
            digest.update(self.images.take(rows).tobytes())
        return digest.hexdigest()


def split_fold(
    label: np.ndarray, rows: np.ndarray, *, folds: int, fold: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training set in two: what stays in it, and what one fold holds out.

    In each class every `folds`-th image is held out, beginning with the number of the fold. If a
    class has only one image, it stays.

    Args:
      label: int [N] of the whole set.
      rows: sorted int64, those of the training set.
      folds: number of parts.
      fold: number of the part that is held out, from 0.
    """
    held_out = np.zeros(len(rows), bool)
    for c in np.unique(label[rows]):
        members = np.flatnonzero(label[rows] == c)
        if len(members) > 1:
            held_out[members[fold::folds]] = True
    return rows[~held_out], rows[held_out]


def long_tailed_rows(
    data: ImageSet,
    *,
    profile: str,
    imbalance_ratio: float,
    num_max: int,
    validation_fraction: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the canonical long-tailed subset and of the validation images, sorted int64.

    The validation images are the given share of each class, rounded down; the long tail is taken
    from the others. With num_max 0 the most frequent class gets as many images as the smallest
    class has. Profile `none` keeps each class as it is, up to num_max images if that is given.

    Raises:
      UserError: if a class has too few images, or none could be held out.
    """
    # 0.29 of 100 is 28.999999999999996 in floating point.
    held_out = tuple(int(round(n * validation_fraction, 6)) for n in data.class_counts)
    if validation_fraction and not any(held_out):
        raise UserError(
            f"config.dataset.validation_fraction is {validation_fraction:g}, which holds out "
            f"no image, because the most frequent class has {max(data.class_counts)}; raise "
            "it, or set it to 0"
        )
    if empty := [name for name, n in zip(data.class_names, data.class_counts) if not n]:
        raise UserError(
            f"there are no training images of class {', '.join(map(repr, empty))}; every class of "
            f"the data set needs at least one"
        )
    available = tuple(n - h for n, h in zip(data.class_counts, held_out))
    if profile == "none":
        counts = tuple(min(n, num_max or n) for n in available)
    else:
        counts = long_tail.class_counts(
            num_max or min(available), len(available), imbalance_ratio, profile
        )
        for name, has, wanted in zip(data.class_names, available, counts):
            if has < wanted:
                beside = " beside the validation images" if validation_fraction else ""
                raise UserError(
                    f"class {name!r} has {has} training images{beside}, but the long tail needs "
                    f"{wanted}; lower config.dataset.num_max (0: the size of the smallest class), "
                    f"or use config.dataset.imbalance_profile=none to take the images as they are"
                )
    return (
        long_tail.canonical_subset(data.label, counts),
        long_tail.held_out_subset(data.label, held_out),
    )
