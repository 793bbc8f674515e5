"""A labelled set of images, and its long-tailed part."""

import dataclasses
import hashlib

import numpy as np

from osed_jax.data.images import Images
from osed_jax.runtime.console import progress

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
