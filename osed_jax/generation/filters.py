"""What keeps a bad image out, and the reason it gives."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from osed_jax.store.format import Line, is_kept, verdict

# Scores of a record; null where the filter is off.
SCORES = (
    "deviation",
    "perceptual_hash",
    "safety_margin",
    "classifier_rank",
    "feature_distance",
)


class Opinions(NamedTuple):
    """What a classifier thinks of images.

    Attributes:
      rank: int [N], the place of the image's class among all classes, 1 the most probable.
      distance: float [N], from the mean feature of the class's real images.
    """

    rank: np.ndarray
    distance: np.ndarray


class Filters:
    """Judges images one after the other; an image is compared with those kept before it."""

    def __init__(
        self,
        *,
        min_deviation: float = 0.0,
        drop_duplicates: bool = False,
        near_duplicate_bits: int = 0,
        safety_checker: bool = False,
        classifier_top_k: int = 0,
        max_feature_distance: float = 0.0,
        opinions: Callable[[np.ndarray, np.ndarray], Opinions] | None = None,
    ):
        """Sets what is tried; a filter whose value is 0 or False is off.

        Args:
          min_deviation: reject images whose pixels deviate less from their mean, in [0, 1]: black,
            white, constant ones.
          drop_duplicates: reject images that equal one of their class, pixel for pixel.
          near_duplicate_bits: reject images of which fewer than this many of the 64 bits of
            `perceptual_hash` differ from one of their class.
          safety_checker: reject images that the generator's own safety checker flags.
          classifier_top_k: reject images whose class is not among the k most probable ones.
          max_feature_distance: reject images that are farther from their class's real images.
          opinions: (uint8 [N, H, W, 3], labels [N]) -> `Opinions`, for the last two.
        """
        self._min_deviation, self._drop_duplicates = min_deviation, drop_duplicates
        self._near_duplicate_bits = near_duplicate_bits
        self._safety_checker = safety_checker
        self._top_k, self._max_distance = classifier_top_k, max_feature_distance
        self._opinions = opinions
        self._files: set[tuple[int, str]] = set()
        self._hashes: defaultdict[int, list[int]] = defaultdict(list)

    @property
    def needs_drawing(self) -> bool:
        """Whether judging an image takes what only its drawing tells: the safety checker."""
        return self._safety_checker

    def score(
        self, images: np.ndarray, labels: np.ndarray, safety_margin: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """The `SCORES` of images, uint8 [N, H, W, 3], each by itself.

        Args:
          images: as they will be stored.
          labels: int [N].
          safety_margin: float [N], of the safety checker; it flags images above 0.
        """
        opinions = self._opinions(images, labels) if self._opinions else None
        scores = []
        for i, image in enumerate(images):
            score = dict.fromkeys(SCORES)
            if self._min_deviation:
                score["deviation"] = round(float(image.std() / 255), 6)
            if self._near_duplicate_bits:
                score["perceptual_hash"] = f"{perceptual_hash(image):016x}"
            if self._safety_checker and safety_margin is not None:
                score["safety_margin"] = round(float(safety_margin[i]), 3)
            if opinions and self._top_k:
                score["classifier_rank"] = int(opinions.rank[i])
            if opinions and self._max_distance:
                score["feature_distance"] = round(float(opinions.distance[i]), 4)
            scores.append(score)
        return scores

    def reason(self, record: Mapping[str, Any]) -> str | None:
        """Why to reject an image, from its label, sha256 and scores; None to keep it."""
        # Equal images give equal files: one encoder writes them all.
        if self._min_deviation and record["deviation"] < self._min_deviation:
            return "constant"
        if self._drop_duplicates and (record["label"], record["sha256"]) in self._files:
            return "duplicate"
        if self._near_duplicate_bits and self._nearest(record) < self._near_duplicate_bits:
            return "near duplicate"
        if self._safety_checker and record["safety_margin"] > 0:
            return "flagged by the safety checker"
        if self._top_k and record["classifier_rank"] > self._top_k:
            return "not recognised"
        if self._max_distance and record["feature_distance"] > self._max_distance:
            return "far from real images"
        return None

    def repeated(self, lines: Sequence[Line]) -> list[Line]:
        """Of all lines, those of images that repeat an earlier one, each with its verdict.

        Processes side by side do not know each other's images; afterwards this finds what each
        alone could not.
        """
        fresh = Filters(
            drop_duplicates=self._drop_duplicates, near_duplicate_bits=self._near_duplicate_bits
        )
        repeated: list[Line] = []
        for line in filter(is_kept, lines):
            if reason := fresh.reason(line):
                repeated.append({**line, **verdict(reason)})
            else:
                fresh.remember(line)
        return repeated

    def remember(self, record: Mapping[str, Any]) -> None:
        """Takes note of an image that was kept."""
        self._files.add((record["label"], record["sha256"]))
        if self._near_duplicate_bits:
            self._hashes[record["label"]].append(int(record["perceptual_hash"], 16))

    def _nearest(self, record: Mapping[str, Any]) -> int:
        """Bits in which the nearest kept image of the class differs; 64 where there is none."""
        kept = np.asarray(self._hashes[record["label"]], np.uint64)
        own = np.uint64(int(record["perceptual_hash"], 16))
        return int(np.bitwise_count(kept ^ own).min(initial=64))


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits: whether each of 8x8 places is brighter than its right neighbour ("dHash").

    The image is made grey and reduced to 9x8 pixels, so brightness, contrast, size and small
    details change few bits or none.

    Args:
      image: uint8 [H, W, 3].
    """
    grey = Image.fromarray(image).convert("F").resize((9, 8), Image.Resampling.BOX)
    pixels = np.asarray(grey)
    bits = (pixels[:, :-1] > pixels[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Prototypes:
    """Distances from classes' real images in a feature space.

    A feature is scaled to length 1; a class's prototype is the mean of its real images. Distances
    are in units of the real images' median distance from their own class's prototype, so that 1
    is an ordinary image of the class.
    """

    def __init__(self, features: np.ndarray, labels: Sequence[int] | np.ndarray, num_classes: int):
        """Takes real images' features [N, D] and labels [N]; every class needs an image."""
        self._means = np.zeros((num_classes, features.shape[1]))
        features = _unit(features)
        np.add.at(self._means, labels, features)
        self._means /= np.bincount(labels, minlength=num_classes)[:, None]
        self._unit = float(np.median(np.linalg.norm(features - self._means[labels], axis=1)))

    def distance(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Distances [N] of features [N, D] from the prototypes of their labels [N]."""
        difference = _unit(features) - self._means[labels]
        return np.linalg.norm(difference, axis=1) / max(self._unit, 1e-12)


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place of each label [N] among all classes by its logits [N, K], 1 the highest."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return 1 + (logits > own).sum(axis=1)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
