"""Makes the net, its training step, the plan of each epoch and the feeder from a config."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from osed_jax.batches import plan as plans
from osed_jax.batches.augment import Augmentation
from osed_jax.batches.plan import Plan
from osed_jax.batches.resident_feeder import ResidentFeeder, fits
from osed_jax.batches.tfdata_feeder import TfDataFeeder
from osed_jax.config.stages import replaced_share, stage_of, stages
from osed_jax.data.images import Bank
from osed_jax.errors import UserError
from osed_jax.experiment.loading import Config, Data
from osed_jax.models.nets import NETS
from osed_jax.runtime.sharding import split
from osed_jax.training import optimizer
from osed_jax.training.losses import LOSSES, ClassWeights, LossFacts, LossFn, class_weights
from osed_jax.training.state import TrainState, create_state
from osed_jax.training.step import make_train_step

# Sections of a config that change the numbers of a run; the others are for other modes.
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

# What a training step is made from: these sections, and these fields of others.
_OF_A_STEP = ("model", "optimizer", "loss", "augment")
_EPOCHS = ("num_epochs", "head_epochs")
_OF_ROUTED_ROWS = ("mode", "generated_norm", "noise_norm", "noise_share", "noise_space")
_FACTS_OF_A_STEP = ("class_counts", "mean", "std", "image_size")


def of_a_step(config: Config, facts: dict[str, Any], *, routed: bool) -> dict[str, Any]:
    """Arguments of `make_training` with nothing that it does not use: runs that are alike agree."""
    of_rows = ("start_epoch", *(_OF_ROUTED_ROWS if routed else ()))
    parts = {name: config[name] for name in _OF_A_STEP}
    parts["train"] = {name: config["train"][name] for name in _EPOCHS}
    parts["oversampling"] = {name: config["oversampling"][name] for name in of_rows}
    known = {name: facts[name] for name in _FACTS_OF_A_STEP}
    return {"config": parts, "facts": known, "routed": routed}


def of_a_run(config: Config) -> Config:
    """The part of a config that fixes a run's numbers; it is saved in `config.json`.

    A norm that no row goes through is set to `shared`, as in the net, whatever the default is.
    """
    kept = {name: config[name] for name in _OF_A_RUN}
    if config["oversampling"]["mode"] != "generated":
        kept["oversampling"] = {**config["oversampling"], "generated_norm": "shared"}
    return kept


def make_model(config: Config, num_classes: int, *, routed: bool) -> nn.Module:
    """The net.

    Args:
      config: the checked config.
      num_classes: K.
      routed: whether the batches have rows of other kinds than natural. If not, every norm is
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
    """Whether the plans after start_epoch contain noise rows."""
    over = config["oversampling"]
    return over["mode"] == "noise" or (over["mode"] == "generated" and over["noise_share"] > 0)


def make_augmentation(config: Config, facts: dict[str, Any], *, noise: bool) -> Augmentation:
    """Augmentation and normalisation, with or without noise rows."""
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
        pretrained_factor=settings["pretrained_factor"],
    )


def make_loss(config: Config, facts: dict[str, Any]) -> tuple[LossFn, ClassWeights | None]:
    """The configured loss, and the weights of the classes in it."""
    known = LossFacts(
        class_counts=np.asarray(facts["class_counts"]),
        num_epochs=config["train"]["num_epochs"],
        start_epoch=config["oversampling"]["start_epoch"],
        cosine_scale=config["model"]["cosine_scale"],
    )
    settings = config["loss"]
    return LOSSES[settings["name"]](settings, known), class_weights(settings, known)


def make_training(
    config: Config,
    facts: dict[str, Any],
    *,
    steps_per_epoch: int,
    routed: bool,
    head_only: bool = False,
) -> tuple[Callable[[jax.Array | int], TrainState], Callable]:
    """Two functions, not jitted: seed -> initial state, and the step of `step.make_train_step`.

    Args:
      config: the checked config.
      facts: facts of the data, see `Data`; class_counts, mean, std and image_size are used.
      steps_per_epoch: updates of an epoch.
      routed: as in `make_model`; noise is drawn only if it is True.
      head_only: whether the last layer alone is trained.
    """
    model = make_model(config, len(facts["class_counts"]), routed=routed)
    tx = make_optimizer(config, steps_per_epoch)
    loss_fn, weights = make_loss(config, facts)
    train_step = make_train_step(
        model=model,
        tx=tx,
        loss_fn=loss_fn,
        class_weights=weights,
        augmentation=make_augmentation(config, facts, noise=routed and has_noise(config)),
        num_classes=len(facts["class_counts"]),
        steps_per_epoch=steps_per_epoch,
        generated_weight=config["loss"]["generated_weight"],
        head_only=head_only,
    )

    def init(seed: jax.Array | int) -> TrainState:
        return create_state(model, tx, seed=seed, image_size=facts["image_size"])

    return init, train_step


def learning_rates(config: Config) -> np.ndarray:
    """The learning rate of each epoch, including train.head_epochs."""
    train, settings = config["train"], config["optimizer"]
    schedule = ("learning_rate", "warmup_epochs", "schedule", "decay_at", "decay_factor")
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
        return plans.natural_plan(**common)
    replace_prob = plans.replace_probability(
        data.train.class_counts,
        replaced_share(stage, epoch),
        in_all_classes=over["replace_in"] == "all",
    )
    if data.generated:
        shown = data.facts["generated_classes"]
        replace_prob = np.where(np.isin(data.train.class_names, shown), replace_prob, 0)
    plan = plans.balanced_plan(
        **common,
        generated_label=data.generated.label if data.generated else np.zeros(0, np.int64),
        replace_prob=replace_prob,
        noise_share=1.0 if over["mode"] == "noise" else over["noise_share"],
    )
    return with_soft_labels(config, data, plan)


def with_soft_labels(config: Config, data: Data, plan: Plan) -> Plan:
    """The plan, with two classes for images that started from one of another class, if any did."""
    if not (started := data.started_from):
        return plan
    return plans.with_soft_labels(
        plan,
        first=len(data.train.label),
        other=started.label,
        share=started.own_share(config["oversampling"]["soft_label_exponent"]),
    )


def make_feeder(config: Config, data: Data, mesh: Mesh) -> ResidentFeeder | TfDataFeeder:
    """The configured feeder; `auto` keeps the images on the devices if they fit."""
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
