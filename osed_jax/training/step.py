"""One training step and one evaluation step: pure functions, not jitted, without a config."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import NotRequired, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from osed_jax.batches.augment import Augmentation, at_test_time, augment
from osed_jax.batches.mixing import mix
from osed_jax.kinds import Kind
from osed_jax.models.layers import HEAD
from osed_jax.training.losses import ClassWeights, LossFn
from osed_jax.training.state import TrainState

_STREAM = 1  # streams of random keys in training; initialisation uses the key of the seed itself


class Labels(TypedDict):
    """The classes of the rows of a batch.

    Attributes:
      label: int32 [B], or float32 [B, K] if rows have shares of several classes.
      other: second class of each row, int32 [B], where some generated rows have two; a row of one
        class has that one again.
      share: of `label`, in [0, 1], float32 [B], where there is `other`, which has the rest.
    """

    label: jax.Array
    other: NotRequired[jax.Array]
    share: NotRequired[jax.Array]


class Batch(Labels):
    """A batch.

    Attributes:
      image: uint8 [B, H, W, 3].
      kind: `kinds.Kind`, int32 [B].
    """

    image: jax.Array
    kind: jax.Array


Metrics = dict[str, jax.Array]


def make_train_step(
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss_fn: LossFn,
    augmentation: Augmentation,
    num_classes: int,
    steps_per_epoch: int,
    generated_weight: float = 1.0,
    class_weights: ClassWeights | None = None,
    head_only: bool = False,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """The function (state, batch, seed) -> (state, metrics) of one update.

    Args:
      model: a net of `models/`.
      tx: the optimizer.
      loss_fn: see `losses.LossFn`.
      augmentation: of training images.
      num_classes: K.
      steps_per_epoch: updates of an epoch; a loss may depend on the epoch.
      generated_weight: of generated rows in the mean of the loss, sum(w l) / sum(w); the others
        have 1 (Shao et al., "DiffuLT", 2024, equation 4).
      class_weights: of the rows of each class in that mean, times the weight above; None: all 1.
      head_only: whether only the last layer is trained, on features as at test time: frozen
        weights, running statistics, no dropout (cRT; Kang et al. 2020, section 4.1).

    All randomness comes from fold_in(key(seed), stream) folded with the step; the seed, uint32 [],
    is an argument, so that runs of several seeds share one compiled program. Padding rows are not
    used in loss, statistics or metrics. The loss of a mixed row is the sum of the losses of its two
    images times their shares, each with the weight and the margin of its own class; so is the loss
    of a row that has two classes. Metrics are float32 []: `loss` (mean over rows), `natural`
    (number of natural rows), and `correct` (number of those that are predicted right; of a mixed
    row, the class with the larger share).
    """

    def train_step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        root = jax.random.fold_in(jax.random.key(seed), _STREAM)
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(root, state.step))
        kind = batch["kind"]
        image = augment(batch["image"], kind, augment_key, augmentation)
        weight = jnp.where(kind == Kind.GENERATED, generated_weight, 1.0)
        weight *= kind != Kind.PADDING
        epoch = state.step // steps_per_epoch
        of_class = class_weights(epoch) if class_weights else None
        parts = loss_parts(batch, weight, num_classes, of_class)
        target = parts[0][0]  # rows of two classes are generated, and metrics are of natural rows
        if augmentation.mix != "none":
            image, kind, partner, share = mix(image, kind, augment_key, augmentation)
            own = [(t, w * share) for t, w in parts]
            mixed_in = [(t[partner], w[partner] * (1 - share)) for t, w in parts]
            parts = own + mixed_in
            target = share[:, None] * target + (1 - share[:, None]) * target[partner]

        def mean_loss(params: dict) -> tuple[jax.Array, tuple]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                image,
                kind,
                train=not head_only,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            loss = reduce(add, [(loss_fn(logits, t, epoch) * w).sum() for t, w in parts])
            loss /= reduce(add, [w for _, w in parts]).sum()
            return loss, (logits, updated.get("batch_stats", state.batch_stats))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        if head_only:  # XLA does not compute what is not used
            updates = {**jax.tree.map(jnp.zeros_like, updates), HEAD: updates[HEAD]}
        natural = kind == Kind.NATURAL
        metrics = {
            "loss": loss,
            "natural": natural.sum(dtype=jnp.float32),
            "correct": (natural & (logits.argmax(-1) == target.argmax(-1))).sum(dtype=jnp.float32),
        }
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        ), metrics

    return train_step


def as_target(label: jax.Array, num_classes: int) -> jax.Array:
    """Labels as shares of the classes, float32 [B, K]; shares stay as they are."""
    return jax.nn.one_hot(label, num_classes) if label.ndim == 1 else label


def loss_parts(
    labels: Labels,
    weight: jax.Array,
    num_classes: int,
    class_weight: jax.Array | None,
) -> list[tuple[jax.Array, jax.Array]]:
    """Targets [B, K] and weights [B]; the loss of a batch is the weighted mean over all of them.

    There is one pair; if rows have a second class, there are two, one for each class.

    Args:
      labels: of the rows.
      weight: of each row, [B].
      num_classes: K.
      class_weight: of the rows of each class, [K]; None: all 1.
    """
    parts = [(as_target(labels["label"], num_classes), weight)]
    if "other" in labels:
        (target, _), share = parts[0], labels["share"]
        other = as_target(labels["other"], num_classes)
        parts = [(target, weight * share), (other, weight * (1 - share))]
    if class_weight is not None:
        parts = [(target, w * of_rows(class_weight, target)) for target, w in parts]
    return parts


def of_rows(class_weight: jax.Array, target: jax.Array) -> jax.Array:
    """The weight of each row [B], from the weights of the classes [K] and the target [B, K]."""
    return (class_weight[None] * target).sum(axis=1)


def make_eval_step(
    *, model: nn.Module, augmentation: Augmentation
) -> Callable[[TrainState, jax.Array], tuple[jax.Array, jax.Array]]:
    """The net at test time: (state, uint8 images [B, H, W, 3]) -> (logits, features).

    Logits are float32 [B, K]; features, float32 [B, D], are the input of the last layer.
    """

    def eval_step(state: TrainState, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = at_test_time(image, augmentation)
        kind = jnp.full(image.shape[:1], Kind.NATURAL)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits, seen = model.apply(variables, x, kind, train=False, mutable=["intermediates"])
        return logits, seen["intermediates"]["features"][0]

    return eval_step
