"""Class counts, subset and groups against the published figures."""

import dataclasses

import numpy as np
import pytest

from osed_jax.data import long_tail
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.data.long_tail import long_tailed_rows, split_fold
from osed_jax.errors import UserError
from tests.conftest import ROOT

IR_100 = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)


def cifar10_labels() -> np.ndarray:
    """The labels of CIFAR-10's training images in the original order, two in a byte."""
    packed = np.fromfile(ROOT / "tests" / "oracles" / "cifar10_train_labels.bin", np.uint8)
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1).astype(np.int64)


def test_cifar10_counts_are_the_published_ones():
    assert long_tail.class_counts(5000, 10, 100) == IR_100
    fifty = (5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100)
    assert long_tail.class_counts(5000, 10, 50) == fifty


@pytest.mark.parametrize(
    ("num_max", "classes", "ratio", "total"),
    [
        (5000, 10, 100, 12_406),
        (5000, 10, 50, 13_996),
        (500, 100, 100, 10_847),
        (500, 100, 50, 12_608),
    ],
)
def test_totals_are_the_published_ones(num_max, classes, ratio, total):
    assert sum(long_tail.class_counts(num_max, classes, ratio)) == total


def test_other_profiles():
    assert long_tail.class_counts(100, 5, 10, "step") == (100, 100, 10, 10, 10)
    assert long_tail.class_counts(7, 3, 10, "none") == (7, 7, 7)
    assert long_tail.class_counts(7, 3, 1) == (7, 7, 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((10, 1, 10), "at least 2 classes"),
        ((0, 3, 10), "num_max"),
        ((10, 3, 0.5), "imbalance_ratio"),
        ((10, 3, float("nan")), "imbalance_ratio"),
        ((10, 3, 11), "without an image"),
        ((10, 3, 2, "linear"), "exp, step, none"),
    ],
)
def test_bad_counts_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        long_tail.class_counts(*arguments)


def test_cifar10_subset_is_the_published_one():
    index = long_tail.canonical_subset(cifar10_labels(), IR_100)
    assert index.dtype == np.int64 and len(index) == 12_406
    published = "f7669c469c9ddf9afcfabc0b127018ebfa21ac9ecddbe2642455be26c359cb8d"
    assert long_tail.subset_sha256(index) == published


def test_what_is_held_out_is_the_other_end_of_the_published_shuffle():
    label, num = cifar10_labels(), 500
    held_out = long_tail.held_out_subset(label, (num,) * 10)
    assert held_out.dtype == np.int64 and (np.diff(held_out) > 0).all()
    assert np.bincount(label[held_out]).tolist() == [num] * 10
    # Cao's own loop, of which this is what it would take last.
    random = np.random.RandomState(0)
    for c in range(10):
        position = np.where(label == c)[0]
        random.shuffle(position)
        np.testing.assert_array_equal(held_out[label[held_out] == c], np.sort(position[-num:]))
    published = long_tail.canonical_subset(label, IR_100)
    smaller = long_tail.canonical_subset(label, long_tail.class_counts(4500, 10, 100))
    assert len(smaller) == 11_165 and set(smaller) < set(published)
    assert not set(held_out) & set(smaller)
    assert len(long_tail.held_out_subset(label, (0,) * 10)) == 0


def labelled(counts):
    label = np.repeat(np.arange(len(counts)), counts)
    return ImageSet(ArrayImages(np.zeros((len(label), 1, 1, 3), np.uint8)), label, ("a", "b", "c"))


def test_validation_images_are_a_share_of_each_class_and_never_trained_on():
    data, exp = labelled((40, 40, 40)), {"profile": "exp", "imbalance_ratio": 4, "num_max": 0}
    rows, held_out = long_tailed_rows(data, validation_fraction=0.13, **exp)
    assert np.bincount(data.label[held_out]).tolist() == [5, 5, 5], "5.2, rounded down"
    assert np.bincount(data.label[rows]).tolist() == [35, 17, 8]
    assert not set(rows) & set(held_out)
    assert len(long_tailed_rows(data, **exp)[1]) == 0
    hundred = labelled((100, 100, 100))
    _, held_out = long_tailed_rows(hundred, validation_fraction=0.29, **exp)
    assert len(held_out) == 3 * 29, "although 100 * 0.29 is less than 29 in floating point"

    natural, none = labelled((30, 12, 5)), {"profile": "none", "imbalance_ratio": 1, "num_max": 0}
    rows, held_out = long_tailed_rows(natural, validation_fraction=0.1, **none)
    assert np.bincount(natural.label[held_out], minlength=3).tolist() == [3, 1, 0]
    assert sorted([*rows, *held_out]) == list(range(47))
    with pytest.raises(
        UserError, match="holds out no image, because the most frequent class has 30"
    ):
        long_tailed_rows(natural, validation_fraction=0.01, **none)
    with pytest.raises(UserError, match="'a' has 36 training images beside the validation images"):
        long_tailed_rows(data, validation_fraction=0.1, **{**exp, "num_max": 40})
    for profile in (exp, none):
        empty = dataclasses.replace(data, class_names=(*data.class_names, "yak", "zebu"))
        with pytest.raises(UserError, match="no training images of class 'yak', 'zebu'; every"):
            long_tailed_rows(empty, **profile)


def test_subset_depends_on_each_class_order_alone():
    label = cifar10_labels()
    by_class = np.argsort(label, kind="stable")
    mixed = long_tail.canonical_subset(label, IR_100)
    grouped = by_class[long_tail.canonical_subset(label[by_class], IR_100)]
    np.testing.assert_array_equal(np.sort(grouped), mixed)


def test_subset_of_too_few_images_is_refused():
    with pytest.raises(UserError, match="class 1 has 2 images, but 3"):
        long_tail.canonical_subset(np.array([0, 0, 0, 1, 1]), (3, 3))


def test_five_equal_groups_count_from_the_rarest():
    groups = long_tail.class_groups(IR_100)
    assert groups == {
        "group_1": (8, 9),
        "group_2": (6, 7),
        "group_3": (4, 5),
        "group_4": (2, 3),
        "group_5": (0, 1),
    }
    shuffled = long_tail.class_groups((50, 5000, 83, 2997, 139, 1796, 232, 1077, 387, 645))
    assert shuffled["group_1"] == (0, 2) and shuffled["group_5"] == (1, 3)


def test_groups_may_be_empty():
    few = long_tail.class_groups((9, 5, 3))
    assert few == {"group_1": (2,), "group_2": (1,), "group_3": (0,), "group_4": (), "group_5": ()}
    thresholds = long_tail.class_groups(IR_100, groups="thresholds")
    assert thresholds == {"many": tuple(range(8)), "medium": (8, 9), "few": ()}


def test_thresholds_are_exclusive_for_many_and_few():
    groups = long_tail.class_groups((101, 100, 20, 19), groups="thresholds")
    assert groups == {"many": (0,), "medium": (1, 2), "few": (3,)}
    moved = long_tail.class_groups(
        (101, 100, 20, 19), groups="thresholds", many_above=10, few_below=5
    )
    assert moved == {"many": (0, 1, 2, 3), "medium": (), "few": ()}


def test_folds_hold_out_every_image_once_and_never_a_classs_only_one():
    label = np.repeat([0, 1, 2, 3], [7, 3, 2, 1])
    whole, rows = np.concatenate([label, label]), np.arange(1, 26, 2)  # half of it
    folds = [split_fold(whole, rows, folds=3, fold=f) for f in range(3)]
    held_out = np.concatenate([h for _, h in folds])
    alone = np.bincount(whole[rows]) == 1
    assert sorted(held_out) == [r for r in rows if not alone[whole[r]]]
    for kept, held in folds:
        assert sorted([*kept, *held]) == rows.tolist()
        assert set(whole[kept]) == set(whole[rows])  # no class is left without an image
