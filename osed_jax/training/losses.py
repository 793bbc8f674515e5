"""The losses that `config.loss.name` names, and the weights of the classes."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osed_jax.config.fields_of_training import Loss

# (logits float32 [B, K], target float32 [B, K], epoch int32 []) -> loss of each row, float32 [B].
# Each row of target sums to 1: one class, or shares of several.
LossFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# epoch int32 [] -> weight of each class, float32 [K].
ClassWeights = Callable[[jax.Array], jax.Array]


class LossFacts(NamedTuple):
    """What a loss may use of a run.

    Attributes:
      class_counts: int [K], real training images of each class.
      num_epochs: of the run.
      start_epoch: at which a deferred method starts.
      cosine_scale: the factor of the cosines in the logits; 0 if the last layer is linear.
    """

    class_counts: np.ndarray
    num_epochs: int
    start_epoch: int
    cosine_scale: float = 0.0


def cross_entropy(settings: Loss, facts: LossFacts) -> LossFn:
    """Cross-entropy, with label smoothing."""
    smoothing = settings.label_smoothing

    def loss(logits: jax.Array, target: jax.Array, epoch: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, smoothing))

    return loss


def balanced_softmax(settings: Loss, facts: LossFacts) -> LossFn:
    """Cross-entropy with the log of the class counts added to the logits.

    Ren et al. 2020, equation 4. Only in training: at test time the logits stay as they are.
    """
    return logit_adjustment(dataclasses.replace(settings, tau=1.0), facts)


def logit_adjustment(settings: Loss, facts: LossFacts) -> LossFn:
    """Cross-entropy with tau times the log of the class counts added to the logits.

    Menon et al. 2021, equation 10; with shares of all images in place of counts the loss is the
    same. Only in training: at test time the logits stay as they are.
    """
    plain = cross_entropy(settings, facts)
    log_prior = settings.tau * jnp.log(jnp.asarray(facts.class_counts, jnp.float32))

    def loss(logits: jax.Array, target: jax.Array, epoch: jax.Array) -> jax.Array:
        return plain(logits + log_prior[None], target, epoch)

    return loss


def ldam(settings: Loss, facts: LossFacts) -> LossFn:
    """Cross-entropy with a margin subtracted from the cosine of the row's own class.

    Cao et al. 2019, equations 11 to 13: the margin of a class of n images is in proportion to
    n^(-1/4), and the largest is `max_margin`. Logits are cosines times `facts.cosine_scale`, and so
    are the margins. If a row has shares of several classes, its margins have the same shares.
    """
    plain = cross_entropy(settings, facts)
    margin = np.asarray(facts.class_counts, np.float64) ** -0.25
    margin *= facts.cosine_scale * settings.max_margin / margin.max()
    off = jnp.asarray(margin, jnp.float32)

    def loss(logits: jax.Array, target: jax.Array, epoch: jax.Array) -> jax.Array:
        return plain(logits - off[None] * target, target, epoch)

    return loss


def class_weights(settings: Loss, facts: LossFacts) -> ClassWeights | None:
    """The configured weight of each class; None if all classes have weight 1 in all epochs.

    Cui et al. 2019, equation 2: in proportion to (1 - beta) / (1 - beta^n), with mean 1 over the
    classes. `deferred`: all are 1 before `start_epoch` (DRW; Cao et al. 2019, algorithm 1).
    """
    if settings.class_weights == "none":
        return None
    weight = 1 / (1 - settings.beta ** np.asarray(facts.class_counts, np.float64))
    balanced = jnp.asarray(weight / weight.mean(), jnp.float32)
    start = facts.start_epoch if settings.class_weights == "deferred" else 0
    return lambda epoch: jnp.where(epoch >= start, balanced, 1.0)


# Name -> a function of the section `loss` and the facts. choices.LOSSES has the same names.
LOSSES: dict[str, Callable[[Loss, LossFacts], LossFn]] = {
    "cross_entropy": cross_entropy,
    "balanced_softmax": balanced_softmax,
    "logit_adjustment": logit_adjustment,
    "ldam": ldam,
}
