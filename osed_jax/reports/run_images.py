"""The parts of a report that are made of images: each draws a figure, returns HTML."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from osed_jax.batches.augment import augment
from osed_jax.data.image_set import ImageSet
from osed_jax.evaluation.metrics import log_softmax
from osed_jax.experiment import build
from osed_jax.experiment.loading import Data
from osed_jax.kinds import KIND_NAMES, Kind
from osed_jax.reports import mosaics, page
from osed_jax.reports.feature_map import draw_feature_map
from osed_jax.reports.report_input import ReportInput
from osed_jax.reports.style import MANY_CLASSES
from osed_jax.runtime.sharding import replicated
from osed_jax.training.predict import Predictor

_MISTAKES = 12
_PER_KIND = 8  # images of a batch that are shown of each kind
_NONE = np.zeros((0, 1, 1, 3), np.uint8)


def mistakes(subject: ReportInput, folder: Path) -> str:
    """The wrongly classified test images with the highest confidence."""
    names, label = subject.class_names, subject.test.label
    prediction = subject.logits.argmax(axis=1)
    sure = np.exp(log_softmax(subject.logits)).max(axis=1)
    wrong = np.flatnonzero(prediction != label)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:_MISTAKES]
    captions = [
        f"{names[label[i]]}, taken\nfor {names[prediction[i]]}\n({sure[i]:.1%} sure)" for i in worst
    ]
    path = folder / "mistakes.png"
    mosaics.draw_mistakes(path, subject.test.images.take(worst), captions)
    return page.picture(path, "test images with their true and predicted class")


def batch(subject: ReportInput, data: Data, mesh: Mesh, folder: Path) -> str:
    """The first batch of the last epoch as the net sees it, by kind of row."""
    last = subject.config.train.num_epochs - 1
    plan = build.make_plan(subject.config, data, last)
    noise = bool((plan.kind == Kind.NOISE).any())
    settings = build.make_augmentation(subject.config, data.facts, noise=noise)
    rows = next(iter(build.make_feeder(subject.config, data, mesh).batches(plan)))
    show = jax.jit(
        lambda image, kind, key: augment(image, kind, key, settings), out_shardings=replicated(mesh)
    )
    seen = show(rows["image"], rows["kind"], jax.random.key(subject.config.seed))
    pixels = np.clip(np.asarray(seen) * np.asarray(settings.std) + np.asarray(settings.mean), 0, 1)
    kind = plan.kind[0]
    present = {name: kind == k for k, name in KIND_NAMES.items() if (kind == k).any()}
    path = folder / "batch.png"
    by_kind = {name: pixels[here][:_PER_KIND] for name, here in present.items()}
    mosaics.draw_batch(path, by_kind, "A batch as the net sees it, augmented")
    numbers = ", ".join(f"{here.sum()} {name}" for name, here in present.items())
    return page.text(f"The first batch of epoch {last + 1}: {numbers}.") + page.picture(
        path, "images of a batch by kind"
    )


def real_and_generated(subject: ReportInput, data: Data, count: int, folder: Path) -> str:
    """Up to `count` real and as many generated images of each class."""
    total = len(subject.class_names)
    chosen = np.unique(np.linspace(0, total - 1, min(total, MANY_CLASSES)).round().astype(int))
    lines = [
        (subject.class_names[c], _first(data.train, c, count), _first(data.generated, c, count))
        for c in chosen
    ]
    path = folder / "real_and_generated.png"
    note = f"{len(chosen)} of {total} classes, from the most frequent to the rarest"
    mosaics.draw_real_and_generated(path, lines, note if len(chosen) < total else "")
    return page.picture(path, "real and generated images of each class")


def feature_map(subject: ReportInput, data: Data, total: int, mesh: Mesh, folder: Path) -> str:
    """t-SNE of the last layer's features of up to `total` images."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    sets = {"test": subject.test, "natural": data.train, "generated": data.generated}
    present = {kind: images for kind, images in sets.items() if images is not None}
    net = subject.classifier
    size = min(100, subject.config.evaluate.batch_size)  # one program for all three sets
    predictor = Predictor(net.model, net.augmentation, mesh, batch_size=size)
    features, kinds, labels = [], [], []
    for kind, images in present.items():
        rows = _balanced_rows(images.label, total // len(present), subject.config.seed)
        outputs = predictor.of_images(net.state, images.images, rows, label="features")
        features.append(outputs.features)
        kinds += [kind] * len(rows)
        labels.append(images.label[rows])
    x = np.concatenate(features).astype(np.float64)
    x = PCA(min(50, *x.shape), random_state=0).fit_transform(x)
    perplexity = min(30.0, (len(x) - 1) / 3)
    place = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(x)
    path = folder / "features.png"
    draw_feature_map(path, place, np.asarray(kinds), np.concatenate(labels), subject.class_names)
    return page.text(
        f"{len(x):,} images, drawn evenly from the classes; t-SNE (van der Maaten & Hinton 2008) "
        f"with perplexity {perplexity:.0f}. Distances between far clusters mean little."
    ) + page.picture(path, "map of test, training and generated images")


def _first(images: ImageSet | None, c: int, count: int) -> np.ndarray:
    if images is None:
        return _NONE
    rows = np.flatnonzero(images.label == c)[:count]
    return images.images.take(rows) if len(rows) else _NONE


def _balanced_rows(label: np.ndarray, total: int, seed: int) -> np.ndarray:
    """About `total` rows, equally many of each class if it has them, without replacement."""
    random = np.random.default_rng(seed)
    classes = np.unique(label)
    each = max(1, total // len(classes))
    drawn = [random.permutation(np.flatnonzero(label == c))[:each] for c in classes]
    return np.concatenate(drawn)
