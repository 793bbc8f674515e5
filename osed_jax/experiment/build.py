"""Makes the net, its training step, the plan of each epoch and the feeder from a config."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from osed_jax.config.fields_of_data import Oversampling
from osed_jax.config.schema import FIELDS, Config, get, with_values
from osed_jax.config.stages import Stage, replaced_share, stage_of, stages
from osed_jax.data.images import Bank
from osed_jax.errors import UserError
from osed_jax.experiment.loading import Data
from osed_jax.models.nets import NETS
from osed_jax.runtime.sharding import abstract, jit_train_step, split
from osed_jax.training import optimizer
from osed_jax.training.losses import LOSSES, ClassWeights, LossFacts, LossFn, class_weights
from osed_jax.training.state import TrainState, create_state
from osed_jax.training.step import make_train_step


class StepFacts(NamedTuple):
    """The facts of the data that a training step is made from; see `Data.facts`."""

    class_counts: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "StepFacts":
        """Those among all facts of the data."""
        counts, mean, std = (tuple(facts[n]) for n in ("class_counts", "mean", "std"))
        return cls(counts, mean, std, facts["image_size"])


@dataclasses.dataclass(frozen=True)
class Program:
    """A net and its compiled step, which stages of one kind share, and runs that are alike."""

    init: Callable[[jax.Array | int], TrainState]
    like: TrainState  # shapes, dtypes and shardings of its state
    train_step: Callable


def program_of(
    config: Config,
    facts: dict[str, Any],
    mesh: Mesh,
    *,
    steps_per_epoch: int,
    routed: bool,
    head_only: bool,
) -> Program:
    """The program of a stage; see `make_training`. Runs whose steps are alike share it."""
    known = StepFacts.of(facts)
    return _program(
        of_a_step(config, routed=routed), known, mesh, steps_per_epoch, routed, head_only
    )


@functools.lru_cache(maxsize=8)
def _program(
    config: Config,
    facts: StepFacts,
    mesh: Mesh,
    steps_per_epoch: int,
    routed: bool,
    head_only: bool,
) -> Program:
    init, train_step = make_training(
        config, facts, steps_per_epoch=steps_per_epoch, routed=routed, head_only=head_only
    )
    seed = jax.ShapeDtypeStruct((), np.uint32)
    like = abstract(jax.eval_shape(init, seed), mesh)
    return Program(init, like, jit_train_step(train_step, mesh, config.model.dtype))


def of_a_step(config: Config, *, routed: bool) -> Config:
    """The config with the defaults of all fields that its training step is not made from.

    Steps that are alike have equal configs, so that they are compiled once. A field that a step
    reads must say so in the schema (`matters_for="step"`), else it has no effect.
    """
    changed = {
        name: get(Config(), name) for name, field in FIELDS.items() if field.matters_for != "step"
    }
    if not routed:
        start = config.oversampling.start_epoch
        config = dataclasses.replace(config, oversampling=Oversampling(start_epoch=start))
    return with_values(config, changed)


def make_model(config: Config, num_classes: int, *, routed: bool) -> nn.Module:
    """The net.

    Args:
      config: the checked config.
      num_classes: K.
      routed: whether the batches have rows of other kinds than natural. If not, every norm is
        `shared`, so that a deferred method is plain ERM, to the last bit, until it starts.
    """
    model, over = config.model, config.oversampling
    generated = routed and over.mode == "generated"
    noise = routed and has_noise(over)
    net = NETS[model.name]
    return net.load()(
        num_classes=num_classes,
        generated_norm=over.generated_norm if generated else "shared",
        noise_norm=over.noise_norm if noise else "shared",
        dtype=jnp.dtype(model.dtype),
        **{name: getattr(model, name) for name in net.settings},
    )


def has_noise(over: Oversampling) -> bool:
    """Whether the plans after start_epoch contain noise rows."""
    return over.mode == "noise" or (over.mode == "generated" and over.noise_share > 0)


def make_augmentation(
    config: Config, facts: StepFacts | dict[str, Any], *, noise: bool
) -> Augmentation:
    """Augmentation and normalisation, with or without noise rows."""
    known = facts if isinstance(facts, StepFacts) else StepFacts.of(facts)
    return Augmentation(
        mean=known.mean,
        std=known.std,
        noise_space=config.oversampling.noise_space if noise else "",
        **vars(config.augment),
    )


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with the configured schedule."""
    settings = config.optimizer
    return optimizer.sgd(
        optimizer.learning_rate_fn(learning_rates(config), steps_per_epoch),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        pretrained_factor=settings.pretrained_factor,
    )


def make_loss(config: Config, class_counts: Sequence[int]) -> tuple[LossFn, ClassWeights | None]:
    """The configured loss, and the weights of the classes in it."""
    known = LossFacts(
        class_counts=np.asarray(class_counts),
        num_epochs=config.train.num_epochs,
        start_epoch=config.oversampling.start_epoch,
        cosine_scale=config.model.cosine_scale,
    )
    return LOSSES[config.loss.name](config.loss, known), class_weights(config.loss, known)


def make_training(
    config: Config,
    facts: StepFacts,
    *,
    steps_per_epoch: int,
    routed: bool,
    head_only: bool = False,
) -> tuple[Callable[[jax.Array | int], TrainState], Callable]:
    """Two functions, not jitted: seed -> initial state, and the step of `step.make_train_step`.

    Args:
      config: the checked config.
      facts: of the data.
      steps_per_epoch: updates of an epoch.
      routed: as in `make_model`; noise is drawn only if it is True.
      head_only: whether the last layer alone is trained.
    """
    model = make_model(config, len(facts.class_counts), routed=routed)
    tx = make_optimizer(config, steps_per_epoch)
    loss_fn, weights = make_loss(config, facts.class_counts)
    noise = routed and has_noise(config.oversampling)
    train_step = make_train_step(
        model=model,
        tx=tx,
        loss_fn=loss_fn,
        class_weights=weights,
        augmentation=make_augmentation(config, facts, noise=noise),
        num_classes=len(facts.class_counts),
        steps_per_epoch=steps_per_epoch,
        generated_weight=config.loss.generated_weight,
        head_only=head_only,
    )

    def init(seed: jax.Array | int) -> TrainState:
        return create_state(model, tx, seed=seed, image_size=facts.image_size)

    return init, train_step


def learning_rates(config: Config) -> np.ndarray:
    """The learning rate of each epoch, including train.head_epochs."""
    train, settings = config.train, config.optimizer
    main = optimizer.learning_rate_by_epoch(
        num_epochs=train.num_epochs,
        learning_rate=settings.learning_rate,
        warmup_epochs=settings.warmup_epochs,
        schedule=settings.schedule,
        decay_at=settings.decay_at,
        decay_factor=settings.decay_factor,
    )
    head = optimizer.cosine_by_epoch(
        num_epochs=train.head_epochs, learning_rate=settings.head_learning_rate
    )
    return np.concatenate([main, head])


def make_plan(config: Config, data: Data, epoch: int) -> Plan:
    """What every slot of an epoch shows."""
    over, stage = config.oversampling, stage_of(stages(config), epoch)
    common: dict[str, Any] = {
        "seed": config.seed,
        "epoch": epoch,
        "label": data.train.label,
        "batch_size": config.train.batch_size,
    }
    if not stage.balanced:
        return plans.natural_plan(**common)
    plan = plans.balanced_plan(
        **common,
        generated_label=data.generated.label if data.generated else np.zeros(0, np.int64),
        replace_prob=_replace_prob(config, data, stage, epoch),
        noise_share=1.0 if over.mode == "noise" else over.noise_share,
    )
    return with_soft_labels(config, data, plan)


def _replace_prob(config: Config, data: Data, stage: Stage, epoch: int) -> np.ndarray:
    """P(replace) of a draw of each class, [K]."""
    prob = plans.replace_probability(
        data.train.class_counts,
        replaced_share(stage, epoch),
        in_all_classes=config.oversampling.replace_in == "all",
    )
    if data.generated is None:
        return prob
    return np.where(np.isin(data.train.class_names, data.facts["generated_classes"]), prob, 0)


def with_soft_labels(config: Config, data: Data, plan: Plan) -> Plan:
    """The plan, with two classes for images that started from one of another class, if any did."""
    if not (started := data.started_from):
        return plan
    return plans.with_soft_labels(
        plan,
        first=len(data.train.label),
        other=started.label,
        share=started.own_share(config.oversampling.soft_label_exponent),
    )


def make_feeder(config: Config, data: Data, mesh: Mesh) -> ResidentFeeder | TfDataFeeder:
    """The configured feeder; `auto` keeps the images on the devices if they fit."""
    parts = [data.train.images] + ([data.generated.images] if data.generated else [])
    bank, feeder = Bank(*parts), config.train.feeder
    resident = fits(bank, jax.local_devices()[0])
    if feeder == "resident" and not resident:
        raise UserError(
            f"config.train.feeder is resident, but the {bank.nbytes / 2**30:.1f} GiB of images "
            f"do not fit in device memory or are streamed from files; use tfdata or auto"
        )
    if feeder == "tfdata" or not resident:
        return TfDataFeeder(bank, split(mesh))
    return ResidentFeeder(bank, split(mesh))
