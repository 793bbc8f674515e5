"""Logits of every image of a set, each once."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding

from osed_jax.console import progress
from osed_jax.data.images import Images
from osed_jax.data.placing import own_rows, place, shared_evenly
from osed_jax.training.state import TrainState


def predict(
    eval_step: Callable[[TrainState, jax.Array], jax.Array],
    state: TrainState,
    images: Images,
    *,
    batch_size: int,
    sharding: NamedSharding,
) -> np.ndarray:
    """Logits at test time, float32 [N, K].

    Args:
      eval_step: jitted, see `training.step.make_eval_step`.
      state: its weights and running statistics are used.
      images: N images.
      batch_size: of all devices together; more where they could not share it evenly. The last batch
        is filled up, its filling dropped.
      sharding: how a batch is split over the devices.
    """
    logits = []
    batch_size = shared_evenly(sharding, batch_size)
    own = own_rows(sharding, batch_size)
    with progress(total=len(images), unit="image", label="evaluating") as bar:
        for first in range(0, len(images), batch_size):
            rows = np.arange(first, min(first + batch_size, len(images)))
            filled = np.resize(rows, batch_size)
            image = place(images.take(filled[own]), sharding)
            logits.append(np.asarray(eval_step(state, image))[: len(rows)])
            bar.update(len(rows))
    return np.concatenate(logits)
