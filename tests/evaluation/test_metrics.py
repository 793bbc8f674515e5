"""Figures against scikit-learn, SciPy and cases computed by hand."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as sk

from osed_jax.evaluation import metrics

RANDOM = np.random.RandomState(0)
LABEL = RANDOM.choice(4, 500, p=[0.5, 0.3, 0.15, 0.05])
LOGITS = (RANDOM.randn(500, 4) + 1.5 * np.eye(4)[LABEL]).astype(np.float32)
NAMES = ("a", "b", "c", "d")
GROUPS = {"many": (0, 1), "medium": (2, 3), "few": ()}


def report(logits=LOGITS, label=LABEL):
    return metrics.classification_report(logits, label, class_names=NAMES, groups=GROUPS)


def test_figures_equal_scikit_learn():
    got, predicted = report(), LOGITS.argmax(1)
    recall = sk.recall_score(LABEL, predicted, average=None)
    assert got["num_test_images"] == 500
    assert got["top1"] == pytest.approx(sk.accuracy_score(LABEL, predicted))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(LABEL, predicted))
    assert got["macro_f1"] == pytest.approx(sk.f1_score(LABEL, predicted, average="macro"))
    assert got["g_mean"] == pytest.approx(stats.gmean(recall))
    assert got["nll"] == pytest.approx(
        sk.log_loss(LABEL, special.softmax(LOGITS, axis=1)), rel=1e-5
    )
    assert got["confusion_matrix"] == sk.confusion_matrix(LABEL, predicted).tolist()
    assert list(got["per_class"].values()) == pytest.approx(list(recall))
    assert got["worst_class"] == {"name": NAMES[recall.argmin()], "accuracy": recall.min()}


def test_groups_count_images_not_classes():
    got = report()
    correct = LOGITS.argmax(1) == LABEL
    for name, members in (("many", [0, 1]), ("medium", [2, 3])):
        assert got["groups"][name]["accuracy"] == pytest.approx(
            correct[np.isin(LABEL, members)].mean()
        )
    assert got["groups"]["many"]["classes"] == ["a", "b"]


def test_an_empty_group_is_absent_and_not_zero():
    assert report()["absent_groups"] == ["few"] and "few" not in report()["groups"]


def test_calibration_error_by_hand():
    # Bin (0.5, 0.75]: mean confidence 0.65, accuracy 0.5; bin (0.75, 1]: 0.9 and 1.
    confidence = np.array([0.6, 0.7, 0.85, 0.95])
    correct = np.array([True, False, True, True])
    want = 0.5 * abs(0.5 - 0.65) + 0.5 * abs(1 - 0.9)
    got = metrics.expected_calibration_error(confidence, correct, num_bins=4)
    assert got == pytest.approx(want)


def test_a_perfectly_sure_and_right_classifier_is_calibrated():
    got = report(100 * np.eye(4, dtype=np.float32)[LABEL])
    assert got["ece"] == pytest.approx(0) and got["nll"] == pytest.approx(0)
    assert got["top1"] == got["g_mean"] == got["macro_f1"] == 1


def test_a_class_that_is_never_right_makes_the_g_mean_zero():
    logits = LOGITS.copy()
    logits[:, 3] = -1e3
    got = report(logits)
    assert got["g_mean"] == 0 and got["worst_class"] == {"name": "d", "accuracy": 0}


def test_a_class_without_test_images_has_no_accuracy():
    kept = LABEL != 3
    got = report(LOGITS[kept], LABEL[kept])
    assert got["per_class"]["d"] is None
    assert got["balanced_accuracy"] == pytest.approx(np.mean([got["per_class"][n] for n in "abc"]))
