"""What a trained net makes of images: logits, and the features that its last layer sees."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from osed_jax.console import progress
from osed_jax.data.augment import normalise
from osed_jax.data.images import Images
from osed_jax.data.placing import own_rows, place, shared_evenly
from osed_jax.data.sampling import Kind
from osed_jax.evaluation.classifier import Classifier
from osed_jax.training.mesh import replicated, split
from osed_jax.training.state import TrainState


class Outputs(NamedTuple):
    """Logits float32 [N, K] and features float32 [N, D] of N images, in their order."""

    logits: np.ndarray
    features: np.ndarray


class Extractor:
    """A net at test time, jitted for one batch size."""

    def __init__(self, classifier: Classifier, mesh: Mesh, *, batch_size: int):
        """Batches of `batch_size` images, or what devices share evenly; the last is filled."""
        self._state, self._sharding = classifier.state, split(mesh)
        self._batch_size = shared_evenly(self._sharding, batch_size)
        self._outputs = jax.jit(
            lambda state, image: _outputs(classifier, state, image),
            in_shardings=(replicated(mesh), split(mesh)),
            out_shardings=replicated(mesh),
        )

    def of_array(self, image: np.ndarray) -> Outputs:
        """Outputs for uint8 images [N, H, W, 3], N at most the batch size."""
        filled = np.resize(np.arange(len(image)), self._batch_size)
        own = own_rows(self._sharding, self._batch_size)
        outputs = self._outputs(self._state, place(image[filled[own]], self._sharding))
        return Outputs(*(rows[: len(image)] for rows in jax.device_get(outputs)))

    def of_images(self, images: Images, rows: np.ndarray, *, label: str) -> Outputs:
        """Outputs for rows [N] of `images`; `label` is what a progress bar says."""
        parts = []
        with progress(total=len(rows), unit="image", label=label) as bar:
            for first in range(0, len(rows), self._batch_size):
                part = rows[first : first + self._batch_size]
                parts.append(self.of_array(images.take(part)))
                bar.update(len(part))
        return Outputs(*(np.concatenate(column) for column in zip(*parts)))


def _outputs(
    classifier: Classifier, state: TrainState, image: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x = normalise(image.astype(jnp.float32) / 255, classifier.augmentation)
    kind = jnp.full(image.shape[:1], Kind.NATURAL)
    logits, seen = classifier.model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        x,
        kind,
        train=False,
        mutable=["intermediates"],
    )
    return logits, seen["intermediates"]["features"][0]
