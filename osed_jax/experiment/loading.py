"""Loads the images of an experiment from a checked config."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from osed_jax.config.fields_of_data import Oversampling
from osed_jax.config.schema import Config
from osed_jax.data import datasets, long_tail
from osed_jax.data.image_cache import CACHE_VARIABLE
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import channel_statistics
from osed_jax.data.long_tail import long_tailed_rows, split_fold
from osed_jax.data.overlap import check_sets
from osed_jax.errors import UserError
from osed_jax.experiment import pretrained
from osed_jax.files.digests import file_sha256
from osed_jax.runtime.console import say
from osed_jax.store import reading
from osed_jax.store.origins import read_image_lines, start_rows, starts_from_real, usable
from osed_jax.store.started_from import StartedFrom, content_sha256, read_started_from


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of an experiment.

    Attributes:
      train: the long-tailed training set.
      validation: training images held out of it; empty if the config holds out none.
      test: the test set; empty if it was not opened.
      generated: generated images; None if the mode uses none.
      facts: the content of `dataset.json`: name, class_names, class_counts,
        num_train_images, num_validation_images, subset_sha256, content_sha256 (of each part), mean,
        std, image_size, generated_counts, generated_classes (those that may show generated images).
      started_from: what the generated images started from, which has a share of their labels; None
        if each has the label of its own class alone.
      left_out: how many generated images are left out and why, in words; "" if none is.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    generated: ImageSet | None
    facts: dict[str, Any]
    started_from: StartedFrom | None = None
    left_out: str = ""


def open_cache(workdir: Path) -> Path:
    """Opens the cache beside the work directories, which runs share; returns its image folder.

    It keeps decoded images and compiled programs, so that a second start is quick. An environment
    variable can name another folder.
    """
    beside = workdir.absolute().parent / ".cache"
    cache = Path(os.environ.get(CACHE_VARIABLE) or beside).expanduser().absolute()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "programs"))
    return cache / "images"


def load_split(config: Config, split_name: str, cache_dir: Path) -> ImageSet:
    """The whole training set or the test set that the config names."""
    dataset = config.dataset
    return datasets.load(
        dataset.name,
        split_name,
        data_dir=dataset.data_dir,
        lists=_lists(config),
        image_size=dataset.image_size,
        cache_dir=cache_dir,
        max_decoded_gib=dataset.max_decoded_gib,
    )


def _lists(config: Config) -> dict[str, str]:
    dataset = config.dataset
    return {
        "train": dataset.train_list,
        "validation": dataset.validation_list,
        "test": dataset.test_list,
    }


def generated_dir(config: Config) -> Path:
    """The folder of generated images.

    Raises:
      UserError: if the config names none.
    """
    folder = config.oversampling.generated_dir
    if not folder:
        raise UserError(
            "config.oversampling.generated_dir is empty; give the folder of generated images, "
            "for example --config.oversampling.generated_dir=generated/digits"
        )
    return Path(folder)


class TrainSplit(NamedTuple):
    """The training set of a data set, and the parts of it that an experiment uses.

    Attributes:
      whole: all its images.
      rows: sorted positions of the long-tailed training images.
      held_out: sorted positions of the validation images.
      listed: validation images from a list of their own; None if there is no such list.
    """

    whole: ImageSet
    rows: np.ndarray
    held_out: np.ndarray
    listed: ImageSet | None = None

    @property
    def train(self) -> ImageSet:
        """The long-tailed training images."""
        return self.whole.select(self.rows)

    @property
    def validation(self) -> ImageSet:
        """The images held out."""
        return self.listed or self.whole.select(self.held_out)

    @property
    def rest(self) -> ImageSet:
        """The images that are in neither."""
        used = np.concatenate([self.rows, self.held_out])
        return self.whole.select(np.setdiff1d(np.arange(len(self.whole.label)), used))


def load_train(config: Config, cache_dir: Path) -> TrainSplit:
    """The training set, split as the config says. Opens no test image."""
    dataset = config.dataset
    whole = load_split(config, "train", cache_dir)
    rows, held_out = long_tailed_rows(
        whole,
        profile=dataset.imbalance_profile,
        imbalance_ratio=dataset.imbalance_ratio,
        num_max=dataset.num_max,
        validation_fraction=dataset.validation_fraction,
    )
    say(
        f"{len(rows):,} of {len(whole.label):,} training images are used "
        f"(config.dataset.imbalance_profile={dataset.imbalance_profile})"
    )
    if folds := dataset.validation_folds:
        rows, held_out = split_fold(whole.label, rows, folds=folds, fold=dataset.validation_fold)
    has_list = dataset.name == "list" and dataset.validation_list
    listed = load_split(config, "validation", cache_dir) if has_list else None
    return TrainSplit(whole, rows, held_out, listed)


def load_generated(config: Config, train: ImageSet, cache_dir: Path) -> ImageSet:
    """All of the configured generated images."""
    return reading.load_generated(
        str(generated_dir(config)),
        class_names=train.class_names,
        image_size=train.images.image_size,
        cache_dir=cache_dir,
        max_decoded_gib=config.dataset.max_decoded_gib,
    )


def check_need(
    config: Config,
    train: ImageSet,
    made: ImageSet,
    shown: Sequence[str] = (),
    left_out: str = "",
) -> None:
    """See `reading.check_need`."""
    reading.check_need(
        generated_dir(config),
        made,
        train.class_counts,
        shown=shown,
        in_all_classes=config.oversampling.replace_in == "all",
        left_out=left_out,
    )


def load_data(config: Config, cache_dir: Path) -> Data:
    """Loads all images for training and evaluation, and cuts out the long tail."""
    datasets.check_names(config.dataset.name, config.dataset.data_dir, _lists(config))
    data = load_training_data(config, cache_dir)
    data = dataclasses.replace(data, test=load_split(config, "test", cache_dir))
    sets = {"training": data.train, "validation": data.validation, "test": data.test}
    check_sets({**sets, **({"generated": data.generated} if data.generated else {})})
    digests = {**data.facts["content_sha256"], "test": data.test.content_sha256()}
    return dataclasses.replace(data, facts={**data.facts, "content_sha256": digests})


def check_weights(config: Config) -> None:
    """Finds the weights to start from, so that a mistake is said before images are decoded."""
    if config.init.weights:
        pretrained.locate(config.init.weights)


def with_weights_digest(config: Config, data: Data) -> Data:
    """The data, with `weights_sha256` in its facts if the run starts from pretrained weights."""
    if not config.init.weights:
        return data
    digest = file_sha256(pretrained.locate(config.init.weights))
    return dataclasses.replace(data, facts={**data.facts, "weights_sha256": digest})


def load_training_data(config: Config, cache_dir: Path) -> Data:
    """As `load_data`, without opening a test image; the test set is empty."""
    dataset, over = config.dataset, config.oversampling
    folder = generated_dir(config) if over.mode == "generated" else None
    split_set = load_train(config, cache_dir)
    train = split_set.train
    made, started, shown, left_out = None, None, [], ""
    if folder:
        only, max_gap = over.generated_classes, over.max_gap
        shown = reading.classes_shown(folder, train.class_names, only=only, max_gap=max_gap)
        made = load_generated(config, train, cache_dir)
        if max_gap:
            reading.check_measured(folder, made.content_sha256())
        if starts_from_real(folder):
            made, started, left_out = _usable(config, split_set, made)
        check_need(config, train, made, shown, left_out)
        _check_labels(folder, started, over.soft_label_exponent)
    validation = split_set.validation
    mean, std = dataset.mean, dataset.std
    if not mean:
        mean, std = channel_statistics(train.images)
    facts = {
        "dataset": dataset.name,
        "image_size": train.images.image_size,
        "class_names": list(train.class_names),
        "class_counts": list(train.class_counts),
        "num_train_images": len(train.label),
        "num_validation_images": len(validation.label),
        "subset_sha256": long_tail.subset_sha256(split_set.rows),
        "content_sha256": {
            "training": train.content_sha256(),
            "validation": validation.content_sha256(),
            "test": None,
            "generated": content_sha256(made, started) if made else None,
        },
        "mean": list(mean),
        "std": list(std),
        "generated_counts": list(made.class_counts) if made else None,
        "generated_classes": shown if made else None,
    }
    nothing = train.select(np.zeros(0, np.int64))
    return Data(train, validation, nothing, made, facts, started, left_out)


def _usable(
    config: Config, split_set: TrainSplit, made: ImageSet
) -> tuple[ImageSet, StartedFrom | None, str]:
    """Those generated images that may be shown, what they started from, and why not the others."""
    dataset, folder = config.dataset, generated_dir(config)
    lines = read_image_lines(folder, made)
    started = read_started_from(folder, made, lines)
    root = Path(dataset.data_dir or Path(dataset.train_list).parent)
    rows, left_out = usable(
        folder,
        lines,
        start_rows(lines, split_set.whole, root),
        train=split_set.rows,
        held_out=split_set.held_out,
        validates=bool(len(split_set.held_out) or split_set.listed),
    )
    if not left_out:  # a selection would be a copy in memory
        return made, started, left_out
    say(f"note: {left_out}")
    return made.select(rows), started and started.select(rows), left_out


def _check_labels(folder: Path, started: StartedFrom | None, exponent: float) -> None:
    """Prints the labels of generated images if other classes have a share of them.

    Raises:
      UserError: if an exponent is given and there is no such share.
    """
    if started is None:
        if exponent != (usual := Oversampling().soft_label_exponent):
            raise UserError(
                f"config.oversampling.soft_label_exponent is {exponent:g}, but the images of "
                f"{folder} did not start from images of other classes, so their labels are not "
                f"soft; set it to {usual:g}"
            )
        return
    share = started.own_share(exponent)
    say(
        f"{folder}: its images started from images of other classes, so their labels are soft: "
        f"{share.min():.0%} to {share.max():.0%} their own class, the rest the other"
    )
