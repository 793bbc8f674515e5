"""SGD and its learning-rate schedule, as in the published long-tailed recipe."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from osed_jax.models.layers import HEAD


def learning_rate_by_epoch(
    *,
    num_epochs: int,
    learning_rate: float,
    warmup_epochs: int,
    schedule: str,
    decay_at: Sequence[float],
    decay_factor: float,
) -> np.ndarray:
    """The learning rate of each epoch, float64 [num_epochs].

    `steps`: from each of the epochs f * num_epochs, f in decay_at, rounded down as the default of
    start_epoch is, on, multiplied by decay_factor. `cosine`: half a cosine down to 0. One value an
    epoch, as in Cao et al.'s and Kang et al.'s code. In epoch e (from 0) of the warm-up it is
    (e + 1) / warmup_epochs of that.
    """
    epoch = np.arange(num_epochs)
    rate = np.full(num_epochs, learning_rate)
    if schedule == "cosine":
        rate = cosine_by_epoch(num_epochs=num_epochs, learning_rate=learning_rate)
    else:
        for fraction in decay_at:
            # 0.7 * 10 is 7.000000000000001 or 6.999999999999999, as the numbers may be.
            rate[epoch >= int(round(fraction * num_epochs, 6))] *= decay_factor
    if warmup_epochs:
        rate *= np.minimum((epoch + 1) / warmup_epochs, 1)
    return rate


def cosine_by_epoch(*, num_epochs: int, learning_rate: float) -> np.ndarray:
    """Half a cosine from learning_rate in the first epoch towards 0, float64 [num_epochs]."""
    return learning_rate * (1 + np.cos(np.pi * np.arange(num_epochs) / max(num_epochs, 1))) / 2


def learning_rate_fn(by_epoch: np.ndarray, steps_per_epoch: int) -> Callable:
    """The schedule as a function of the step, for optax."""
    table = jnp.asarray(by_epoch, jnp.float32)

    def schedule(step: jax.Array) -> jax.Array:
        return table[jnp.minimum(step // steps_per_epoch, len(table) - 1)]

    return schedule


def sgd(
    schedule: Callable, *, momentum: float, weight_decay: float, pretrained_factor: float = 1.0
) -> optax.GradientTransformation:
    """SGD as in PyTorch: weight decay is added to the gradient before the momentum; no Nesterov.

    The learning rate of all layers but the last is `pretrained_factor` times that of the schedule.
    """
    steps = [
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum or None),
    ]
    if pretrained_factor != 1:
        steps.append(optax.stateless(lambda updates, _: _scaled_body(updates, pretrained_factor)))
    return optax.chain(*steps)


def _scaled_body(updates: Any, factor: float) -> Any:
    scaled = jax.tree.map(lambda update: factor * update, updates)
    return {**scaled, HEAD: updates[HEAD]}
