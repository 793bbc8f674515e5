"""Long-tailed class counts, the canonical subset and groups of classes."""

import hashlib
from collections.abc import Sequence

import numpy as np

from osed_jax.config.choices import GROUPS, PROFILES
from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError


def class_counts(
    num_max: int, num_classes: int, imbalance_ratio: float, profile: str = "exp"
) -> tuple[int, ...]:
    """Number of training images of each class, the first class being the most frequent.

    Source: Cao et al. 2019 (LDAM), section 4 and their `imbalance_cifar.py`.
    `exp`: n_c = int(num_max * ratio^(-c / (C - 1))); `step`: the first half of the classes has
    num_max images, the others int(num_max / ratio); `none`: num_max each.

    Args:
      num_max: images of the most frequent class.
      num_classes: C, at least 2.
      imbalance_ratio: num_max over the count of the rarest class, at least 1.
      profile: `exp`, `step` or `none`.

    Raises:
      UserError: for values out of range, or a class that would be left without an image.
    """
    if num_classes < 2:
        raise UserError(f"a long tail needs at least 2 classes, but there are {num_classes}")
    if num_max < 1:
        raise UserError(f"num_max is {num_max}; it must be at least 1 image")
    if not imbalance_ratio >= 1:
        raise UserError(f"imbalance_ratio is {imbalance_ratio}; it must be at least 1")
    if profile == "exp":
        tail = 1 / imbalance_ratio  # as in Cao's code: the published subset has its rounding
        counts = [int(num_max * tail ** (c / (num_classes - 1))) for c in range(num_classes)]
    elif profile == "step":
        half = num_classes // 2
        counts = [num_max] * half + [int(num_max / imbalance_ratio)] * (num_classes - half)
    elif profile == "none":
        counts = [num_max] * num_classes
    else:
        raise UserError(f"unknown profile {profile!r}; use one of {', '.join(PROFILES)}")
    if min(counts) < 1:
        raise UserError(
            f"imbalance_ratio {imbalance_ratio:g} leaves class {counts.index(0)} without an "
            f"image if the most frequent class has {num_max} images; use a ratio of at most "
            f"{num_max}, or dataset.imbalance_profile=none to take the images as they are"
        )
    return tuple(counts)


def canonical_subset(label: np.ndarray, class_counts: Sequence[int]) -> np.ndarray:
    """The subset that all published long-tailed results share (Cao et al. 2019).

    One `numpy.random.RandomState(0)` shuffles the positions of each class in turn; the first n_c
    of them are kept.

    Args:
      label: [N], integers in [0, C), in the data set's original order.
      class_counts: the n_c, one for each of the C classes.

    Returns:
      The selected positions, int64, sorted.

    Raises:
      UserError: if a class has fewer images than n_c.
    """
    chosen = []
    for c, (position, count) in enumerate(zip(_shuffled(label, len(class_counts)), class_counts)):
        if len(position) < count:
            raise UserError(
                f"class {c} has {len(position)} images, but {count} are needed; lower "
                "dataset.num_max or use dataset.imbalance_profile=none"
            )
        chosen.append(position[:count])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def held_out_subset(label: np.ndarray, class_counts: Sequence[int]) -> np.ndarray:
    """Positions that `canonical_subset` takes last: the other end of its shuffle of each class.

    So a smaller canonical subset is part of the published one, and it is disjoint from these
    positions if the class has enough images for both.

    Args:
      label: [N], integers in [0, C), in the data set's original order.
      class_counts: number of images of each of the C classes, at most as many as it has.

    Returns:
      The selected positions, int64, sorted.
    """
    shuffled = _shuffled(label, len(class_counts))
    chosen = [p[len(p) - count :] for p, count in zip(shuffled, class_counts)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _shuffled(label: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The positions of each class, shuffled as in Cao's `imbalance_cifar.py`."""
    # One generator for all classes, in their order, and the old one of NumPy: otherwise these would
    # not be the published images. The subset alone moves OPeN from 84.2 to 87.1 (MLRC, table 10).
    random = np.random.RandomState(0)
    by_class = [np.where(label == c)[0] for c in range(num_classes)]
    for position in by_class:
        random.shuffle(position)
    return by_class


def subset_sha256(index: np.ndarray) -> str:
    """The sha256 of sorted positions as little-endian int64, which identifies a subset."""
    return hashlib.sha256(np.ascontiguousarray(index, dtype="<i8").tobytes()).hexdigest()


def class_groups(
    class_counts: Sequence[int],
    *,
    groups: str = "five_equal",
    many_above: int = 100,
    few_below: int = 20,
) -> dict[str, tuple[int, ...]]:
    """Classes grouped by their number of training images.

    `five_equal` (MLRC): five groups of equally many classes by frequency, `group_1` the rarest.
    `thresholds` (Liu et al. 2019): `many` has more than `many_above` images, `few` fewer than
    `few_below`, `medium` the rest. Among equal counts the later class is the rarer one.

    Returns:
      Name -> its classes in ascending order; () for a group that no class falls into.
    """
    counts = np.asarray(class_counts)
    if groups == "five_equal":
        rarest_first = np.lexsort((-np.arange(len(counts)), counts))
        fifths = np.array_split(rarest_first, 5)
        by_name = {f"group_{g}": members for g, members in enumerate(fifths, start=1)}
    elif groups == "thresholds":
        few, many = counts < few_below, counts > many_above
        by_name = {
            "many": np.flatnonzero(many),
            "medium": np.flatnonzero(~many & ~few),
            "few": np.flatnonzero(few),
        }
    else:
        raise UserError(f"unknown groups {groups!r}; use one of {', '.join(GROUPS)}")
    return {name: tuple(sorted(int(c) for c in members)) for name, members in by_name.items()}


def split_fold(
    label: np.ndarray, rows: np.ndarray, *, folds: int, fold: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training set in two: what stays in it, and what one fold holds out.

    In each class every `folds`-th image is held out, beginning with the number of the fold. If a
    class has only one image, it stays: a class without any could not be trained.

    Args:
      label: int [N] of the whole set.
      rows: sorted int64, those of the training set.
      folds: number of parts.
      fold: number of the part that is held out, from 0.

    Returns:
      The rows that stay and those that are held out, both sorted.
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
        counts = class_counts(num_max or min(available), len(available), imbalance_ratio, profile)
        for name, has, wanted in zip(data.class_names, available, counts):
            if has < wanted:
                beside = " beside the validation images" if validation_fraction else ""
                raise UserError(
                    f"class {name!r} has {has} training images{beside}, but the long tail needs "
                    f"{wanted}; lower config.dataset.num_max (0: the size of the smallest class), "
                    f"or use config.dataset.imbalance_profile=none to take the images as they are"
                )
    return (
        canonical_subset(data.label, counts),
        held_out_subset(data.label, held_out),
    )
