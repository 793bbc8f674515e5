"""From which real image a generated one starts, and how far it may go from there."""

from collections.abc import Sequence

import numpy as np

from osed_jax.data.image_set import ImageSet
from osed_jax.diffusion.samples import Start
from osed_jax.store.format import Started

_ORDER, _STRENGTH, _OTHER = 0, 1, 2  # streams of random numbers


class Starts:
    """Chooses for every image of a store; the choice follows from seed, class and index alone.

    From the images of its own class, a class goes round all of them, in a new random order each
    time, so that they meet all prompts and strengths, which take turns, too. From other classes,
    each image draws a class, then one of its images, uniformly (Diff-Mix; Wang et al. 2024).
    """

    def __init__(
        self,
        train: ImageSet,
        positions: np.ndarray,
        *,
        seed: int,
        strength: Sequence[float],
        uniform: bool,
        other_class: bool = False,
    ) -> None:
        """Finds the images of each class; opens none.

        Args:
          train: the long-tailed training images, at least one of each class.
          positions: int [N] of these in the data set's training split, to name them by.
          seed: of the store.
          strength: taken in turn by index; with `uniform`, the two ends of a range.
          uniform: draw each image's strength from that range.
          other_class: start from images of the other classes, of which there is at least one.
        """
        self._train, self._positions = train, positions
        self._seed, self._strength = seed, tuple(strength)
        self._uniform, self._other_class = uniform, other_class
        self._rows = [np.flatnonzero(train.label == c) for c in range(len(train.class_names))]

    def row(self, label: int, index: int) -> int:
        """The position in the training images of the one that an image starts from."""
        if self._other_class:
            random = np.random.default_rng([self._seed, _OTHER, label, index])
            drawn = int(random.integers(len(self._rows) - 1))
            others = self._rows[drawn + (drawn >= label)]
            return int(others[random.integers(len(others))])
        rows = self._rows[label]
        turn, place = divmod(index, len(rows))
        order = np.random.default_rng([self._seed, _ORDER, label, turn]).permutation(len(rows))
        return int(rows[order[place]])

    def strength(self, label: int, index: int) -> float:
        """The strength of an image."""
        if not self._uniform:
            return self._strength[index % len(self._strength)]
        low, high = self._strength
        random = np.random.default_rng([self._seed, _STRENGTH, label, index])
        return round(float(random.uniform(low, high)), 4)

    def batch(self, names: Sequence[tuple[int, int]]) -> Start:
        """What images of these (label, index) start from."""
        rows = np.asarray([self.row(*name) for name in names])
        return Start(self._train.images.take(rows), [self.strength(*name) for name in names])

    def describe(self, label: int, index: int) -> Started:
        """The same for the line of one image."""
        row, paths = self.row(label, index), self._train.images.paths
        started: Started = {
            "start_image": int(self._positions[row]) if paths is None else str(paths[row]),
            "strength": self.strength(label, index),
        }
        if self._other_class:
            started["start_class"] = self._train.class_names[self._train.label[row]]
        return started
