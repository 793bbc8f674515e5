"""One training step and one evaluation step: pure functions, not jitted, without a config."""

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from osed_jax.data.augment import Augmentation, at_test_time, augment
from osed_jax.data.mixing import mix
from osed_jax.kinds import Kind
from osed_jax.models.layers import HEAD
from osed_jax.training.losses import ClassWeights, LossFn
from osed_jax.training.state import TrainState

_STREAM = 1  # streams of random keys in training; initialisation uses the key of the seed itself


class Batch(TypedDict):
    """A batch.

    Attributes:
      image: uint8 [B, H, W, 3].
      label: int32 [B], or float32 [B, K] if rows have shares of several classes.
      kind: `kinds.Kind`, int32 [B].
    """

    image: jax.Array
    label: jax.Array
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
    images times their shares, each with the weight and the margin of its own class. Metrics are
    float32 []: `loss` (mean over rows), `natural` (number of natural rows), and `correct` (number
    of those that are predicted right; of a mixed row, the class with the larger share).
    """

    def train_step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        root = jax.random.fold_in(jax.random.key(seed), _STREAM)
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(root, state.step))
        kind = batch["kind"]
        target = as_target(batch["label"], num_classes)
        image = augment(batch["image"], kind, augment_key, augmentation)
        weight = jnp.where(kind == Kind.GENERATED, generated_weight, 1.0)
        weight *= kind != Kind.PADDING
        epoch = state.step // steps_per_epoch
        if class_weights:
            weight *= of_rows(class_weights(epoch), target)
        parts = [(target, weight)]  # the loss of a row is their mean
        if augmentation.mix != "none":
            image, kind, partner, share = mix(image, kind, augment_key, augmentation)
            parts = [
                (target, weight * share),
                (target[partner], weight[partner] * (1 - share)),
            ]
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
