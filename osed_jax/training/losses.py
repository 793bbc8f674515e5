"""The losses that `config.loss.name` chooses from."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# (logits float32 [B, K], target float32 [B, K], epoch int32 []) -> loss of each row, float32 [B].
# A target's row sums to 1: one class, or shares of several.
LossFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class LossFacts(NamedTuple):
    """What a loss may know of a run.

    Attributes:
      class_counts: int [K], real training images of each class.
      num_epochs: of the run.
      start_epoch: at which a deferred method starts.
    """

    class_counts: np.ndarray
    num_epochs: int
    start_epoch: int


def cross_entropy(settings: Mapping[str, Any], facts: LossFacts) -> LossFn:
    """Cross-entropy, with label smoothing."""
    smoothing = settings["label_smoothing"]

    def loss(logits: jax.Array, target: jax.Array, epoch: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, smoothing))

    return loss


def balanced_softmax(settings: Mapping[str, Any], facts: LossFacts) -> LossFn:
    """Cross-entropy with the log of the class counts added to the logits.

    Ren et al. 2020, equation 4. Only in training: at test time the logits stay as they are.
    """
    plain = cross_entropy(settings, facts)
    log_prior = jnp.log(jnp.asarray(facts.class_counts, jnp.float32))

    def loss(logits: jax.Array, target: jax.Array, epoch: jax.Array) -> jax.Array:
        return plain(logits + log_prior[None], target, epoch)

    return loss


# Name -> a function of the section `loss` and the facts. choices.LOSSES has the same names.
LOSSES: dict[str, Callable[[Mapping[str, Any], LossFacts], LossFn]] = {
    "cross_entropy": cross_entropy,
    "balanced_softmax": balanced_softmax,
}
