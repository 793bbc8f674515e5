"""Losses against NumPy and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from osed_jax import choices
from osed_jax.training.losses import LOSSES, LossFacts

RANDOM = np.random.RandomState(0)
COUNTS = np.array([100, 10, 1])
FACTS = LossFacts(COUNTS, num_epochs=10, start_epoch=8)


def loss(name, logits, target, epoch=0, **settings):
    loss_fn = LOSSES[name]({"name": name, "label_smoothing": 0.0, **settings}, FACTS)
    return np.asarray(loss_fn(jnp.asarray(logits), jnp.asarray(target), jnp.int32(epoch)))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_every_choice_has_a_loss():
    assert tuple(LOSSES) == choices.LOSSES


def test_cross_entropy():
    logits, label = RANDOM.randn(5, 3), np.array([0, 1, 2, 2, 1])
    got = loss("cross_entropy", logits, np.eye(3)[label])
    want = log_loss(label, np.exp(log_softmax(logits)))
    assert got.mean() == pytest.approx(want, rel=1e-5)


def test_targets_may_be_shares_of_classes():
    logits, target = RANDOM.randn(2, 3), np.array([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    got = loss("cross_entropy", logits, target)
    np.testing.assert_allclose(got, -(target * log_softmax(logits)).sum(1), rtol=1e-5)


def test_label_smoothing_spreads_the_target():
    logits, label = RANDOM.randn(4, 3), np.array([0, 1, 2, 1])
    target = 0.9 * np.eye(3)[label] + 0.1 / 3
    got = loss("cross_entropy", logits, np.eye(3)[label], label_smoothing=0.1)
    np.testing.assert_allclose(got, -(target * log_softmax(logits)).sum(1), rtol=1e-5)


def test_balanced_softmax_weighs_by_the_class_counts():
    logits, label = RANDOM.randn(4, 3), np.array([0, 1, 2, 1])
    weighted = COUNTS * np.exp(logits)
    want = -np.log(weighted[np.arange(4), label] / weighted.sum(1))
    got = loss("balanced_softmax", logits, np.eye(3)[label])
    np.testing.assert_allclose(got, want, rtol=1e-5)
