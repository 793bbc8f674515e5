"""Losses against NumPy and scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from osed_jax.config import choices
from osed_jax.config.fields_of_training import Loss
from osed_jax.training.losses import LOSSES, LossFacts, class_weights

RANDOM = np.random.RandomState(0)
COUNTS = np.array([100, 10, 1])
FACTS = LossFacts(COUNTS, num_epochs=10, start_epoch=8, cosine_scale=30.0)


def loss(name, logits, target, epoch=0, **settings):
    loss_fn = LOSSES[name](Loss(name=name, **settings), FACTS)
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


def test_logit_adjustment_scales_the_prior_by_tau():
    """Oracle: Menon (10): log(1 + sum over others of (pi_k / pi_y)^tau e^(z_k - z_y))."""
    logits, label = RANDOM.randn(4, 3), np.array([0, 1, 2, 1])
    prior = COUNTS / COUNTS.sum()
    for tau in (0.0, 0.5, 1.0, 2.0):
        own = np.arange(4), label
        ratio = (prior / prior[label][:, None]) ** tau
        terms = ratio * np.exp(logits - logits[own][:, None])
        terms[own] = 0
        got = loss("logit_adjustment", logits, np.eye(3)[label], tau=tau)
        np.testing.assert_allclose(got, np.log1p(terms.sum(1)), rtol=1e-4)
    one = loss("logit_adjustment", logits, np.eye(3)[label], tau=1.0)
    balanced = loss("balanced_softmax", logits, np.eye(3)[label])
    np.testing.assert_array_equal(one, balanced)


def test_ldam_takes_a_margin_off_the_cosine_of_the_own_class():
    """Oracle: Cao's formula on cosines; margins 0.5 for 1 image, 0.5 / 10^(1/4) for 10."""
    cosine, label = np.tanh(RANDOM.randn(4, 3)), np.array([0, 1, 2, 1])
    margin = np.array([0.5 / 100**0.25, 0.5 / 10**0.25, 0.5])
    want = []
    for row, y in zip(cosine, label):
        others = sum(np.exp(30 * row[k]) for k in range(3) if k != y)
        own = np.exp(30 * (row[y] - margin[y]))
        want.append(-np.log(own / (own + others)))
    got = loss("ldam", 30 * cosine, np.eye(3)[label], max_margin=0.5)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    smaller = loss("ldam", 30 * cosine, np.eye(3)[label], max_margin=0.1)
    assert (smaller <= got).all() and (smaller < got).any()


def test_class_weights_are_one_over_the_effective_number_of_images():
    """Oracle: 1 + beta + ... + beta^(n - 1), the effective number of Cui, summed up."""
    effective = np.array([sum(0.9**i for i in range(n)) for n in COUNTS])
    want = 3 / effective / (1 / effective).sum()
    settings = {"class_weights": "class_balanced", "beta": 0.9}
    always = class_weights(settings, FACTS)
    np.testing.assert_allclose(always(jnp.int32(0)), want, rtol=1e-6)
    deferred = class_weights({**settings, "class_weights": "deferred"}, FACTS)
    np.testing.assert_array_equal(deferred(jnp.int32(7)), np.ones(3))
    np.testing.assert_allclose(deferred(jnp.int32(8)), want, rtol=1e-6)
    assert class_weights({**settings, "class_weights": "none"}, FACTS) is None
    # With few images of each class beta = 0.9999 is as good as one over their number.
    usual = class_weights({**settings, "beta": 0.9999}, FACTS)(jnp.int32(0))
    np.testing.assert_allclose(usual, 3 / COUNTS / (1 / COUNTS).sum(), rtol=1e-2)
