"""From a checked config to the parts of an experiment: data, net, optimizer, augmentation."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from osed_jax.console import say
from osed_jax.data import datasets, epoch_plan, generated, long_tail
from osed_jax.data.augment import Augmentation
from osed_jax.data.cache_folder import CACHE_VARIABLE
from osed_jax.data.epoch_plan import Plan
from osed_jax.data.image_set import ImageSet, long_tailed_rows, split_fold
from osed_jax.data.images import Bank, channel_statistics
from osed_jax.data.resident_feeder import ResidentFeeder, fits
from osed_jax.data.same_images import check_sets
from osed_jax.data.tfdata_feeder import TfDataFeeder
from osed_jax.errors import UserError
from osed_jax.models.nets import NETS
from osed_jax.sharding import split
from osed_jax.stages import replaced_share, stage_of, stages
from osed_jax.training import optimizer
from osed_jax.training.losses import LOSSES, LossFacts, LossFn
from osed_jax.training.state import TrainState, create_state
from osed_jax.training.step import make_train_step

Config = dict[str, Any]

# Sections of a config that a run's numbers follow from; the others serve other modes.
_OF_A_RUN = (
    "seed",
    "train",
    "dataset",
    "oversampling",
    "augment",
    "model",
    "optimizer",
    "loss",
    "init",
    "evaluate",
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of an experiment.

    Attributes:
      train: the long-tailed training set.
      validation: training images held out of it; none where validation_fraction is 0.
      test: the test set; empty where it was not opened.
      generated: generated images; None where the mode uses none.
      facts: what `dataset.json` says of them: name, class_names, class_counts,
        num_train_images, num_validation_images, subset_sha256, content_sha256 (of each part), mean,
        std, image_size, generated_counts, generated_classes (those that may show generated images).
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    generated: ImageSet | None
    facts: dict[str, Any]


def of_a_run(config: Config) -> Config:
    """The part of a config that a run is bound to and that its `config.json` keeps.

    A norm that no row goes through is `shared` there, as in the net, whatever the default is.
    """
    kept = {name: config[name] for name in _OF_A_RUN}
    if config["oversampling"]["mode"] != "generated":
        kept["oversampling"] = {**config["oversampling"], "generated_norm": "shared"}
    return kept


def open_cache(workdir: Path) -> Path:
    """The folder beside work directories that their runs share; returns where images go.

    Decoded image folders are kept there, and compiled programs, so that a second start is quick.
    The environment may name another folder.
    """
    beside = workdir.absolute().parent / ".cache"
    cache = Path(os.environ.get(CACHE_VARIABLE) or beside).expanduser().absolute()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "programs"))
    return cache / "images"


def load_split(config: Config, split_name: str, cache_dir: Path) -> ImageSet:
    """The whole training set or the test set that the config names."""
    dataset = config["dataset"]
    return datasets.load(
        dataset["name"],
        split_name,
        data_dir=dataset["data_dir"],
        image_size=dataset["image_size"],
        cache_dir=cache_dir,
        max_decoded_gib=dataset["max_decoded_gib"],
    )


def generated_dir(config: Config) -> Path:
    """The folder of generated images.

    Raises:
      UserError: where the config names none.
    """
    folder = config["oversampling"]["generated_dir"]
    if not folder:
        raise UserError(
            "config.oversampling.generated_dir is empty; give the folder of generated images, "
            "for example --config.oversampling.generated_dir=generated/digits"
        )
    return Path(folder)


class TrainSplit(NamedTuple):
    """The training set of a data set, and what of it an experiment may use.

    Attributes:
      whole: all its images.
      rows: sorted positions of the long-tailed training images.
      held_out: sorted positions of the validation images.
    """

    whole: ImageSet
    rows: np.ndarray
    held_out: np.ndarray

    @property
    def train(self) -> ImageSet:
        """The long-tailed training images."""
        return self.whole.select(self.rows)

    @property
    def validation(self) -> ImageSet:
        """The images held out."""
        return self.whole.select(self.held_out)

    @property
    def rest(self) -> ImageSet:
        """What is in neither."""
        used = np.concatenate([self.rows, self.held_out])
        return self.whole.select(np.setdiff1d(np.arange(len(self.whole.label)), used))


def load_train(config: Config, cache_dir: Path) -> TrainSplit:
    """The training set, split as the config says. Opens no test image."""
    dataset = config["dataset"]
    whole = load_split(config, "train", cache_dir)
    rows, held_out = long_tailed_rows(
        whole,
        profile=dataset["imbalance_profile"],
        imbalance_ratio=dataset["imbalance_ratio"],
        num_max=dataset["num_max"],
        validation_fraction=dataset["validation_fraction"],
    )
    say(
        f"{len(rows):,} of {len(whole.label):,} training images are used "
        f"(config.dataset.imbalance_profile={dataset['imbalance_profile']})"
    )
    if folds := dataset["validation_folds"]:
        rows, held_out = split_fold(whole.label, rows, folds=folds, fold=dataset["validation_fold"])
    return TrainSplit(whole, rows, held_out)


def load_generated(
    config: Config, train: ImageSet, cache_dir: Path, shown: Sequence[str] = ()
) -> ImageSet:
    """The configured generated images; `shown` is that of `generated.load_generated`."""
    return generated.load_generated(
        str(generated_dir(config)),
        class_names=train.class_names,
        class_counts=train.class_counts,
        image_size=train.images.image_size,
        cache_dir=cache_dir,
        max_decoded_gib=config["dataset"]["max_decoded_gib"],
        shown=shown,
        in_all_classes=config["oversampling"]["replace_in"] == "all",
    )


def load_data(config: Config, cache_dir: Path) -> Data:
    """Loads everything that training and its evaluation need, and takes the long tail."""
    datasets.check_names(config["dataset"]["name"], config["dataset"]["data_dir"])
    data = load_training_data(config, cache_dir)
    data = dataclasses.replace(data, test=load_split(config, "test", cache_dir))
    sets = {"training": data.train, "validation": data.validation, "test": data.test}
    check_sets({**sets, **({"generated": data.generated} if data.generated else {})})
    digests = {**data.facts["content_sha256"], "test": data.test.content_sha256()}
    return dataclasses.replace(data, facts={**data.facts, "content_sha256": digests})


def load_training_data(config: Config, cache_dir: Path) -> Data:
    """The same without the test set, of which no image is opened; that part is empty."""
    dataset, over = config["dataset"], config["oversampling"]
    folder = generated_dir(config) if over["mode"] == "generated" else None
    split_set = load_train(config, cache_dir)
    train = split_set.train
    made, shown = None, []
    if folder:
        only, max_gap = over["generated_classes"], over["max_gap"]
        shown = generated.classes_shown(folder, train.class_names, only=only, max_gap=max_gap)
        made = load_generated(config, train, cache_dir, shown)
        if max_gap:
            generated.check_measured(folder, made.content_sha256())
    mean, std = dataset["mean"], dataset["std"]
    if not mean:
        mean, std = channel_statistics(train.images)
    facts = {
        "dataset": dataset["name"],
        "image_size": train.images.image_size,
        "class_names": list(train.class_names),
        "class_counts": list(train.class_counts),
        "num_train_images": len(train.label),
        "num_validation_images": len(split_set.held_out),
        "subset_sha256": long_tail.subset_sha256(split_set.rows),
        "content_sha256": {
            "training": train.content_sha256(),
            "validation": split_set.validation.content_sha256(),
            "test": None,
            "generated": made.content_sha256() if made else None,
        },
        "mean": list(mean),
        "std": list(std),
        "generated_counts": list(made.class_counts) if made else None,
        "generated_classes": shown if made else None,
    }
    nothing = train.select(np.zeros(0, np.int64))
    return Data(train, split_set.validation, nothing, made, facts)


def make_model(config: Config, num_classes: int, *, routed: bool) -> nn.Module:
    """The net.

    Args:
      config: the checked config.
      num_classes: K.
      routed: whether rows other than natural ones will come. Where none will, every norm is
        `shared`, so that a deferred method is plain ERM, to the last bit, until it starts.
    """
    model, over = config["model"], config["oversampling"]
    generated = routed and over["mode"] == "generated"
    noise = routed and has_noise(config)
    net = NETS[model["name"]]
    return net.load()(
        num_classes=num_classes,
        generated_norm=over["generated_norm"] if generated else "shared",
        noise_norm=over["noise_norm"] if noise else "shared",
        dtype=jnp.dtype(model["dtype"]),
        **{name: model[name] for name in net.settings},
    )


def has_noise(config: Config) -> bool:
    """Whether plans after start_epoch hold noise rows."""
    over = config["oversampling"]
    return over["mode"] == "noise" or (over["mode"] == "generated" and over["noise_share"] > 0)


def make_augmentation(config: Config, facts: dict[str, Any], *, noise: bool) -> Augmentation:
    """Augmentation and normalisation; with or without the drawing of noise."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config["augment"].items()
    }
    noise_space = config["oversampling"]["noise_space"] if noise else ""
    return Augmentation(
        mean=tuple(facts["mean"]), std=tuple(facts["std"]), noise_space=noise_space, **settings
    )


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with the configured schedule."""
    settings = config["optimizer"]
    return optimizer.sgd(
        optimizer.learning_rate_fn(learning_rates(config), steps_per_epoch),
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )


def make_loss(config: Config, facts: dict[str, Any]) -> LossFn:
    """The configured loss."""
    known = LossFacts(
        class_counts=np.asarray(facts["class_counts"]),
        num_epochs=config["train"]["num_epochs"],
        start_epoch=config["oversampling"]["start_epoch"],
    )
    return LOSSES[config["loss"]["name"]](config["loss"], known)


def make_training(
    config: Config,
    facts: dict[str, Any],
    *,
    steps_per_epoch: int,
    routed: bool,
    head_only: bool = False,
) -> tuple[Callable[[jax.Array], TrainState], Callable]:
    """What trains the net, neither part jitted: seed -> state, and `step.make_train_step`'s step.

    Args:
      config: the checked config.
      facts: of the data, see `Data`: class_counts, mean, std and image_size are used.
      steps_per_epoch: updates of an epoch.
      routed: as `make_model` has it; noise is drawn only then.
      head_only: whether the last layer alone is trained.
    """
    model = make_model(config, len(facts["class_counts"]), routed=routed)
    tx = make_optimizer(config, steps_per_epoch)
    train_step = make_train_step(
        model=model,
        tx=tx,
        loss_fn=make_loss(config, facts),
        augmentation=make_augmentation(config, facts, noise=routed and has_noise(config)),
        num_classes=len(facts["class_counts"]),
        steps_per_epoch=steps_per_epoch,
        generated_weight=config["loss"]["generated_weight"],
        head_only=head_only,
    )

    def init(seed: jax.Array) -> TrainState:
        return create_state(model, tx, seed=seed, image_size=facts["image_size"])

    return init, train_step


def learning_rates(config: Config) -> np.ndarray:
    """The learning rate of each epoch, those of the head's stage included."""
    train, settings = config["train"], config["optimizer"]
    schedule = ("learning_rate", "warmup_epochs", "decay_at", "decay_factor")
    main = optimizer.learning_rate_by_epoch(
        num_epochs=train["num_epochs"], **{name: settings[name] for name in schedule}
    )
    head = optimizer.cosine_by_epoch(
        num_epochs=train["head_epochs"], learning_rate=settings["head_learning_rate"]
    )
    return np.concatenate([main, head])


def make_plan(config: Config, data: Data, epoch: int) -> Plan:
    """What every slot of an epoch shows."""
    over = config["oversampling"]
    common = {
        "seed": config["seed"],
        "epoch": epoch,
        "label": data.train.label,
        "batch_size": config["train"]["batch_size"],
    }
    stage = stage_of(stages(config), epoch)
    if not stage.balanced:
        return epoch_plan.natural_plan(**common)
    replace_prob = epoch_plan.replace_probability(
        data.train.class_counts,
        replaced_share(stage, epoch),
        in_all_classes=over["replace_in"] == "all",
    )
    if data.generated:
        shown = data.facts["generated_classes"]
        replace_prob = np.where(np.isin(data.train.class_names, shown), replace_prob, 0)
    return epoch_plan.balanced_plan(
        **common,
        generated_label=data.generated.label if data.generated else np.zeros(0, np.int64),
        replace_prob=replace_prob,
        noise_share=1.0 if over["mode"] == "noise" else over["noise_share"],
    )


def make_feeder(config: Config, data: Data, mesh: Mesh) -> ResidentFeeder | TfDataFeeder:
    """The configured feeder; `auto` keeps the images on the devices where they fit."""
    parts = [data.train.images] + ([data.generated.images] if data.generated else [])
    bank, feeder = Bank(*parts), config["train"]["feeder"]
    resident = fits(bank, jax.local_devices()[0])
    if feeder == "resident" and not resident:
        raise UserError(
            f"config.train.feeder is resident, but the {bank.nbytes / 2**30:.1f} GiB of images "
            f"do not fit in device memory or are streamed from files; use tfdata or auto"
        )
    if feeder == "tfdata" or not resident:
        return TfDataFeeder(bank, split(mesh))
    return ResidentFeeder(bank, split(mesh))
