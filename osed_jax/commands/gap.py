"""--mode=gap: measures how far generated images are from real ones, and finds copies."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.config.build import as_plain, run_as_plain
from osed_jax.config.compare import differences
from osed_jax.config.schema import Config
from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import Classifier, load_classifier
from osed_jax.evaluation.frechet import frechet_distance, nearest, precision_recall
from osed_jax.experiment import loading
from osed_jax.experiment.workdir import read_config
from osed_jax.files import atomic, records
from osed_jax.reports.gap_page import Pairs, draw_gap, draw_pairs, gap_page
from osed_jax.runtime.console import say
from osed_jax.runtime.sharding import make_mesh
from osed_jax.store.reading import report_path
from osed_jax.training.predict import Predictor

# Root mean square difference of pixels in [0, 1]. It is our choice, not a standard: about 13 of 255
# levels is the difference of a lossy copy. The figures of the test images show how often unrelated
# real images are as close.
NEAR_COPY_BELOW = 0.05
MEASURES = ("frechet_distance", "precision", "recall")
_SETS = ("training", "test", "generated")
_SEARCHES = (("generated", "training"), ("generated", "test"), ("test", "training"))
_PAIRS, _PAIRS_OF_A_CLASS = 24, 2  # most pairs of images shown

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The measured images of a set, and their features, float64 [N, D]."""

    data: ImageSet
    features: np.ndarray

    def of_class(self, c: int | None) -> np.ndarray:
        """Which of them are of class c, bool [N]; None for all."""
        return self.data.label == c if c is not None else np.ones(len(self.features), bool)


@dataclasses.dataclass(frozen=True)
class _Nearest:
    """For each image of one set: its nearest in another set, and both distances."""

    index: np.ndarray
    distance: np.ndarray
    difference: np.ndarray


def gap(config: Config, directory: Path) -> dict[str, Any]:
    """Compares generated with real images in the features of a checkpoint; writes STORE.report/.

    Fréchet distance, precision and recall to the long-tailed training set, and copies of training
    and test images, per class and for all classes; the same for the test set, as a reference.

    Args:
      config: as `config.check` returns it. It says which real and generated images.
      directory: work directory of the run whose net gives the features.

    Returns:
      What `gap.json` says.

    Raises:
      UserError: if there is no checkpoint, no generated images, or the net is of other classes
        or another image size.
    """
    store = loading.generated_dir(config)
    mesh = make_mesh()
    classifier = load_classifier(directory, mesh)
    sets = _load(config, directory, classifier)
    digests = {name: data.content_sha256() for name, data in sets.items()}
    _check_same_content(config, directory, classifier, digests)
    net = Predictor(
        classifier.model,
        classifier.augmentation,
        mesh,
        batch_size=config.evaluate.batch_size,
    )
    measured = {}
    for name, data in sets.items():
        shown = _drawn(config, name, data)
        outputs = net.of_images(classifier.state, data.images, shown, label=f"{name} images")
        measured[name] = _Measured(data.select(shown), outputs.features.astype(np.float64))
    found = {pair: _search(measured[pair[0]], measured[pair[1]]) for pair in _SEARCHES}

    k, names = config.gap.num_neighbours, sets["training"].class_names
    rows = [_row(name, c, measured, found, k) for c, name in enumerate(names)]
    result = {
        "store": str(store),
        "workdir": str(directory),
        "epoch": classifier.epoch,
        "dataset": as_plain(config)["dataset"],
        "seed": config.seed,
        **dataclasses.asdict(config.gap),
        "near_copy_below": NEAR_COPY_BELOW,
        "content_sha256": digests,
        "available_images": {name: len(data.label) for name, data in sets.items()},
        "classes": rows,
        "mean_of_classes": _means(rows),
        "all": _row("all", None, measured, found, k),
    }
    report = report_path(store)
    _write(report, result, measured, found)
    say(_summary(result))
    say(f"written to {report / 'report.html'}")
    return result


def _load(config: Config, directory: Path, classifier: Classifier) -> dict[str, ImageSet]:
    cache_dir = loading.open_cache(directory)
    train = loading.load_train(config, cache_dir).train
    classifier.check_same_images(f"--workdir is {directory}", train)
    generated = loading.load_generated(config, train, cache_dir)
    loading.check_need(config, train, generated)
    test = loading.load_split(config, "test", cache_dir)
    return {"training": train, "test": test, "generated": generated}


def _check_same_content(
    config: Config, directory: Path, classifier: Classifier, digests: dict[str, str | None]
) -> None:
    """Raises UserError if real images named as in the run are not those of the run."""
    known = classifier.facts["content_sha256"]
    changed = [part for part in ("training", "test") if digests[part] != known[part]]
    theirs = read_config(directory)
    same_choice = not differences(
        run_as_plain(theirs), run_as_plain(config), lambda field: bool(field.chooses_images)
    )
    if changed and same_choice:
        raise UserError(
            f"the {' and '.join(changed)} images are not those that {directory} was trained and "
            f"tested on, by their content; restore them, or train a run on these"
        )
    if changed:
        say(f"note: the net of {directory} was trained or tested on other images than these")


def _drawn(config: Config, name: str, data: ImageSet) -> np.ndarray:
    """The measured rows: at most gap.max_images per class, always the same ones."""
    random = np.random.default_rng([config.seed, _SETS.index(name)])
    of_class = [np.flatnonzero(data.label == c) for c in range(len(data.class_names))]
    most = config.gap.max_images
    drawn = [r if len(r) <= most else random.choice(r, most, replace=False) for r in of_class]
    return np.sort(np.concatenate(drawn))


def _search(source: _Measured, target: _Measured) -> _Nearest:
    index, distance = nearest(source.features, target.features)
    parts = []
    for first in range(0, len(index), 500):
        part = np.arange(first, min(first + 500, len(index)))
        images = source.data.images.take(part), target.data.images.take(index[part])
        apart = (images[0].astype(np.float64) - images[1]) / 255
        parts.append(np.sqrt(np.square(apart).mean(axis=(1, 2, 3))))
    return _Nearest(index, distance, np.concatenate(parts))


def _row(
    name: str,
    c: int | None,
    measured: dict[str, _Measured],
    found: dict[tuple[str, str], _Nearest],
    k: int,
) -> Row:
    """All figures of class c, None for all classes; None if there are too few images."""
    members = {s: m.of_class(c) for s, m in measured.items()}
    features = {s: m.features[members[s]] for s, m in measured.items()}
    row: Row = {"class": name, **{f"{s}_images": len(features[s]) for s in _SETS}}
    for s in ("generated", "test"):
        shares = precision_recall(features["training"], features[s], k) or (None, None)
        values = frechet_distance(features[s], features["training"]), *shares
        row |= {f"{s}_{measure}": value for measure, value in zip(MEASURES, values)}
    for (s, target), near in found.items():
        apart = near.difference[members[s]]
        exact, close = int((apart == 0).sum()), int(((apart > 0) & (apart < NEAR_COPY_BELOW)).sum())
        row[f"{s}_copies_of_{target}"] = exact if len(apart) else None
        row[f"{s}_near_copies_of_{target}"] = close if len(apart) else None
    return row


def _means(rows: Sequence[Row]) -> Row:
    """Means over the classes that have a measure for generated and for test images, both."""
    means: Row = {}
    for measure in MEASURES:
        names = [f"{s}_{measure}" for s in ("generated", "test")]
        both = [[r[n] for n in names] for r in rows if None not in [r[n] for n in names]]
        means[f"{measure}_classes"] = len(both)
        means |= dict(zip(names, np.mean(both, axis=0).tolist() if both else [None, None]))
    return means


def _write(
    report: Path,
    result: dict[str, Any],
    measured: dict[str, _Measured],
    found: dict[tuple[str, str], _Nearest],
) -> None:
    report.mkdir(exist_ok=True)
    records.write_json(report / "gap.json", result)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(result["all"]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*result["classes"], result["all"]])
    atomic.write_atomically(report / "gap.csv", table.getvalue())
    draw_gap(report / "gap.png", result["classes"])
    for real_set, name in (("training", "nearest_train.png"), ("test", "nearest_test.png")):
        pairs = _closest(measured["generated"], measured[real_set], found["generated", real_set])
        draw_pairs(report / name, pairs, real_set=real_set, near_copy_below=NEAR_COPY_BELOW)
    atomic.write_atomically(report / "report.html", gap_page(report, result))


def _closest(generated: _Measured, real: _Measured, near: _Nearest) -> Pairs:
    """The closest pairs, a few of each class, so that all classes are seen."""
    chosen: list[int] = []
    label, shown = generated.data.label, np.zeros(len(generated.data.class_names), int)
    for i in np.lexsort([near.difference, near.distance]):
        if shown[label[i]] < _PAIRS_OF_A_CLASS and len(chosen) < _PAIRS:
            shown[label[i]] += 1
            chosen.append(i)
    rows = np.asarray(chosen)
    index, names = near.index[rows], generated.data.class_names
    return Pairs(
        generated=generated.data.images.take(rows),
        real=real.data.images.take(index),
        generated_class=[names[c] for c in label[rows]],
        real_class=[names[c] for c in real.data.label[index]],
        distance=near.distance[rows],
        difference=near.difference[rows],
    )


def _summary(result: dict[str, Any]) -> str:
    """Means over classes and numbers of copies, for generated images and for test images."""
    means, total = result["mean_of_classes"], result["all"]
    lines = [
        f"generated images of {result['store']}, in the features of {result['workdir']} (epoch "
        f"{result['epoch']}); copies as exact + near (below {NEAR_COPY_BELOW:g})",
        "| images | Fréchet distance | precision | recall | copies of training | copies of test |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for s, name in (("generated", "generated"), ("test", "real test, as a yardstick")):
        distance, *shares = (means[f"{s}_{measure}"] for measure in MEASURES)
        cells = ["—" if distance is None else f"{distance:.4g}"]
        cells += ["—" if share is None else f"{100 * share:.1f}%" for share in shares]
        for target in ("training", "test"):
            copies = total.get(f"{s}_copies_of_{target}")
            near = total.get(f"{s}_near_copies_of_{target}")
            cells.append("—" if copies is None else f"{copies:,} + {near:,}")
        lines.append(f"| {name} ({total[f'{s}_images']:,}) | {' | '.join(cells)} |")
    lines.append(
        f"means of {means['frechet_distance_classes']} classes (distance) and "
        f"{means['precision_classes']} (precision, recall); lower distances are closer"
    )
    return "\n".join(lines)
