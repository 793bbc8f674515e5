"""One training step and one evaluation step: pure functions, not jitted, without a config."""

from collections.abc import Callable
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from osed_jax.data.augment import Augmentation, augment, normalise
from osed_jax.data.sampling import Kind
from osed_jax.training.state import TrainState

_STREAM = 1  # of the keys that training uses; initialisation uses the seed's key itself


class Batch(TypedDict):
    """image: uint8 [B, H, W, 3]; label: int32 [B]; kind: `sampling.Kind`, int32 [B]."""

    image: jax.Array
    label: jax.Array
    kind: jax.Array


Metrics = dict[str, jax.Array]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(*, label_smoothing: float = 0.0, log_prior: jax.Array | None = None) -> LossFn:
    """The loss of logits [B, K] for labels [B], one number a row, float32 [B].

    Args:
      label_smoothing: share of the target that is spread over all classes.
      log_prior: [K], added to the logits in training: balanced softmax (Ren et al. 2020,
        equation 4) where it is the log of the natural class counts.
    """

    def loss(logits: jax.Array, label: jax.Array) -> jax.Array:
        if log_prior is not None:
            logits = logits + log_prior[None]
        target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, target)

    return loss


def make_train_step(
    *,
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss_fn: LossFn,
    augmentation: Augmentation,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """The function (state, batch, seed) -> (state, metrics) of one update.

    All randomness comes from fold_in(key(seed), stream) folded with the step; the seed, uint32 [],
    is an argument, so that runs of several seeds share one compiled program. Padding rows have
    no part in loss, statistics or metrics. Metrics are `loss` (mean over rows), `natural` (number
    of natural rows), and `correct` (of those, predicted right), float32 [].
    """

    def train_step(state: TrainState, batch: Batch, seed: jax.Array) -> tuple[TrainState, Metrics]:
        root = jax.random.fold_in(jax.random.key(seed), _STREAM)
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(root, state.step))
        label, kind = batch["label"], batch["kind"]
        image = augment(batch["image"], kind, augment_key, augmentation)
        mask = (kind != Kind.PADDING).astype(jnp.float32)

        def mean_loss(params: dict) -> tuple[jax.Array, tuple]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                image,
                kind,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            loss = (loss_fn(logits, label) * mask).sum() / mask.sum()
            return loss, (logits, updated["batch_stats"])

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        natural = kind == Kind.NATURAL
        metrics = {
            "loss": loss,
            "natural": natural.sum(dtype=jnp.float32),
            "correct": (natural & (logits.argmax(-1) == label)).sum(dtype=jnp.float32),
        }
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        ), metrics

    return train_step


def make_eval_step(
    *, model: nn.Module, augmentation: Augmentation
) -> Callable[[TrainState, jax.Array], jax.Array]:
    """The function (state, uint8 images [B, H, W, 3]) -> float32 logits [B, K] at test time."""

    def eval_step(state: TrainState, image: jax.Array) -> jax.Array:
        x = normalise(image.astype(jnp.float32) / 255, augmentation)
        kind = jnp.full(image.shape[:1], Kind.NATURAL)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits = model.apply(variables, x, kind, train=False)
        assert isinstance(logits, jax.Array)
        return logits

    return eval_step
