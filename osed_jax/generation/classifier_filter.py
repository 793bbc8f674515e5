"""The filters that a config asks for, with a trained classifier as a judge of generated images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.config.fields_of_generation import Generation
from osed_jax.data.image_set import ImageSet
from osed_jax.data.long_tail import subset_sha256
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import Classifier, load_classifier
from osed_jax.generation.filters import Filters, Opinions, Prototypes, ranks
from osed_jax.runtime.sharding import make_mesh
from osed_jax.training.predict import Predictor

# Fields of the section `generation`.
FILTERS = (
    "min_deviation",
    "drop_duplicates",
    "near_duplicate_bits",
    "safety_checker",
    "classifier_workdir",
    "classifier_top_k",
    "max_feature_distance",
)


def only_subset(rows: np.ndarray, held_out: np.ndarray) -> str | None:
    """The sha256 of the only training subset that a judging classifier may be of; None for any.

    Where images are held out, the classifier of another subset may have seen them, and what it
    keeps would carry them into the choice that is made on them.
    """
    return subset_sha256(rows) if len(held_out) else None


def load_judge(gen: Generation) -> Classifier | None:
    """The classifier of `classifier_workdir`; None where none is asked for."""
    directory = gen.classifier_workdir
    return load_classifier(Path(directory), make_mesh()) if directory else None


def filter_settings(gen: Generation, judge: Classifier | None) -> dict[str, Any]:
    """The filters of section `generation`; the judge is named by a digest of its weights."""
    values = {name: getattr(gen, name) for name in FILTERS if name != "classifier_workdir"}
    return {**values, "classifier": f"sha256:{judge.weights_sha256()}" if judge else ""}


def make_filters(
    gen: Generation,
    judge: Classifier | None,
    train: ImageSet,
    batch_size: int,
    only_of_subset: str | None,
) -> Filters:
    """The filters of section `generation`.

    Args:
      gen: the section.
      judge: the classifier that it names.
      train: the long-tailed training set.
      batch_size: of the classifier, images over all devices.
      only_of_subset: see `only_subset`.
    """
    values = {name: getattr(gen, name) for name in FILTERS if name != "classifier_workdir"}
    opinions = None
    if judge:
        opinions = classifier_opinions(
            judge,
            gen.classifier_workdir,
            train,
            batch_size=batch_size,
            only_of_subset=only_of_subset,
        )
    return Filters(**values, opinions=opinions)


def classifier_opinions(
    classifier: Classifier,
    directory: str,
    train: ImageSet,
    *,
    batch_size: int,
    only_of_subset: str | None,
) -> Callable[[np.ndarray, np.ndarray], Opinions]:
    """The judge that `Filters` takes, from a classifier and the real images it compares with.

    Args:
      classifier: the judge.
      directory: its work directory, for messages.
      train: real training images, some of every class. Test images have no part in this.
      batch_size: images at a time, over all devices.
      only_of_subset: see `only_subset`.

    Raises:
      UserError: where the classifier has other classes or another image size, or was trained on
        another subset than the one it must be of.
    """
    classifier.check_same_images(f"config.generation.classifier_workdir is {directory}", train)
    if only_of_subset not in (None, classifier.facts["subset_sha256"]):
        raise UserError(
            f"config.generation.classifier_workdir is {directory}, whose training subset "
            f"({classifier.facts['subset_sha256']}) is not that of the data set "
            f"({only_of_subset}), so it may have seen the validation images; train a classifier "
            f"with the same config.dataset"
        )
    known = classifier.facts["content_sha256"]["training"]
    if only_of_subset and known != train.content_sha256():
        raise UserError(
            f"config.generation.classifier_workdir is {directory}, which was trained on images of "
            f"other content than these, so it may have seen the validation images; train "
            f"a classifier with the same config.dataset"
        )
    net = Predictor(classifier.model, classifier.augmentation, make_mesh(), batch_size=batch_size)
    features = net.of_images(classifier.state, train.images, label="real images").features
    prototypes = Prototypes(features, train.label, len(train.class_names))

    def opinions(image: np.ndarray, labels: np.ndarray) -> Opinions:
        logits, features = net.of_array(classifier.state, image)
        return Opinions(ranks(logits, labels), prototypes.distance(features, labels))

    return opinions
