"""A trained classifier of this project as a judge of generated images."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from osed_jax.console import progress
from osed_jax.data.augment import normalise
from osed_jax.data.image_set import ImageSet
from osed_jax.data.sampling import Kind
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import Classifier, load_classifier
from osed_jax.generation.filters import Opinions, Prototypes, ranks
from osed_jax.training.mesh import make_mesh, replicated, split
from osed_jax.training.state import TrainState


def classifier_opinions(
    directory: Path, train: ImageSet, *, batch_size: int
) -> Callable[[np.ndarray, np.ndarray], Opinions]:
    """The judge that `Filters` takes, from a classifier and the real images it compares with.

    Args:
      directory: work directory of the classifier.
      train: real training images, some of every class. Test images have no part in this.
      batch_size: images at a time, a multiple of the number of devices.

    Raises:
      UserError: where the classifier has other classes or another image size.
    """
    mesh = make_mesh()
    classifier = load_classifier(directory, mesh)
    _check_same_images(directory, classifier, train)
    outputs = jax.jit(
        lambda state, image: _outputs(classifier, state, image),
        in_shardings=(replicated(mesh), split(mesh)),
        out_shardings=split(mesh),
    )

    def batch(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        filled = jax.device_put(image[np.resize(np.arange(len(image)), batch_size)], split(mesh))
        logits, features = jax.device_get(outputs(classifier.state, filled))
        return logits[: len(image)], features[: len(image)]

    features = []
    with progress(total=len(train.label), unit="image", label="real images") as bar:
        for first in range(0, len(train.label), batch_size):
            rows = np.arange(first, min(first + batch_size, len(train.label)))
            features.append(batch(train.images.take(rows))[1])
            bar.update(len(rows))
    prototypes = Prototypes(np.concatenate(features), train.label, len(train.class_names))

    def opinions(image: np.ndarray, labels: np.ndarray) -> Opinions:
        logits, features = batch(image)
        return Opinions(ranks(logits, labels), prototypes.distance(features, labels))

    return opinions


def _outputs(
    classifier: Classifier, state: TrainState, image: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Logits [N, K] of uint8 images [N, H, W, 3], and what the last layer sees, [N, D]."""
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


def _check_same_images(directory: Path, classifier: Classifier, train: ImageSet) -> None:
    for what, its, ours in (
        ("classes", classifier.facts["class_names"], list(train.class_names)),
        ("image size", classifier.facts["image_size"], train.images.image_size),
    ):
        if its != ours:
            raise UserError(
                f"config.generation.classifier_workdir is {directory}, whose {what} ({its}) is not "
                f"that of the data set ({ours}); train a classifier on this data set"
            )
