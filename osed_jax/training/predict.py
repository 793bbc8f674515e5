"""Predictions at test time: logits, and features, which are the input of the last layer."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from osed_jax.batches.augment import Augmentation
from osed_jax.data.images import Images
from osed_jax.errors import UserError
from osed_jax.runtime.console import progress
from osed_jax.runtime.sharding import jit_eval_step, own_rows, place, shared_evenly, split
from osed_jax.training.state import TrainState
from osed_jax.training.step import make_eval_step


class Outputs(NamedTuple):
    """Logits float32 [N, K] and features float32 [N, D] of N images, in their order."""

    logits: np.ndarray
    features: np.ndarray


@functools.lru_cache(maxsize=8)
def _eval_step(model: nn.Module, augmentation: Augmentation, mesh: Mesh) -> Callable:
    """The jitted step; runs whose nets and normalisations are equal share it."""
    eval_step = make_eval_step(model=model, augmentation=augmentation)
    return jit_eval_step(eval_step, mesh, model.dtype)


class Predictor:
    """A net at test time, jitted for one batch size, or a smaller one for a small set of images.

    Every image is seen once.

    All modes predict through this class, so no output that is not finite is ever scored.
    """

    def __init__(
        self, model: nn.Module, augmentation: Augmentation, mesh: Mesh, *, batch_size: int
    ):
        """Prepares for batches of `batch_size` images over all devices.

        Args:
          model: the net.
          augmentation: how its images are normalised.
          mesh: the devices; the batch size is rounded up to split evenly, the last batch is padded.
          batch_size: images.
        """
        self._sharding = split(mesh)
        self._batch_size = shared_evenly(self._sharding, batch_size)
        self._eval_step = _eval_step(model, augmentation, mesh)

    def of_array(self, state: TrainState, image: np.ndarray) -> Outputs:
        """Outputs for uint8 images [N, H, W, 3], N at most the batch size.

        Args:
          state: its weights and running statistics are used.
          image: the images.

        Raises:
          UserError: if an output is not finite.
        """
        return self._of_batch(state, image, self._batch_size)

    def _of_batch(self, state: TrainState, image: np.ndarray, size: int) -> Outputs:
        filled = np.resize(np.arange(len(image)), size)
        own = own_rows(self._sharding, size)
        found = self._eval_step(
            state.replace(opt_state=()), place(image[filled[own]], self._sharding)
        )
        outputs = Outputs(*(np.asarray(rows)[: len(image)] for rows in found))
        if not all(np.isfinite(rows).all() for rows in outputs):
            raise UserError(
                f"the net's outputs are not finite after step {int(state.step)}: training has "
                f"diverged; train again with a lower config.optimizer.learning_rate, in another "
                f"--workdir"
            )
        return outputs

    def of_images(
        self,
        state: TrainState,
        images: Images,
        rows: np.ndarray | None = None,
        *,
        label: str = "evaluating",
    ) -> Outputs:
        """Outputs for `rows` [N] of `images`, by default all of them.

        Args:
          state: its weights and running statistics are used.
          images: the set of images.
          rows: which ones.
          label: text of the progress bar.

        Raises:
          UserError: if an output is not finite.
        """
        rows = np.arange(len(images)) if rows is None else rows
        # Powers of two, so that sets of other sizes seldom need programs of their own.
        few = shared_evenly(self._sharding, 1 << (len(rows) - 1).bit_length())
        size = min(few, self._batch_size)
        parts = []
        with progress(total=len(rows), unit="image", label=label) as bar:
            for first in range(0, len(rows), size):
                part = rows[first : first + size]
                parts.append(self._of_batch(state, images.take(part), size))
                bar.update(len(part))
        return Outputs(*(np.concatenate(column) for column in zip(*parts)))
