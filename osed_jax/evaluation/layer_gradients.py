"""Gradients by layer, kind of row and batch norm."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from osed_jax.batches.augment import Augmentation, augment
from osed_jax.errors import UserError
from osed_jax.kinds import KIND_NAMES, NORMS
from osed_jax.runtime.console import progress
from osed_jax.runtime.sharding import compiler_options, replicated, split
from osed_jax.training.losses import ClassWeights, LossFn
from osed_jax.training.state import TrainState, adopt_auxiliary, create_state
from osed_jax.training.step import Batch, Labels, loss_parts

_STREAM = 2  # stream of the keys used here; training uses another one
_Path = tuple[str, ...]


class LayerGradient(NamedTuple):
    """The gradient of the rows of one kind in one layer, over all batches with such rows.

    Means and standard deviations (n - 1; None for a single batch) are over batches. A cosine is
    None if no batch has one, because a norm is 0; so is a ratio to a norm of 0.

    Attributes:
      batch_norm: of batch norm, for generated and noise rows alike; one of `kinds.NORMS`.
      kind: natural, generated or noise.
      layer: the module's path; its parameters (kernel and bias, scale and bias) count as one
        vector. The own scales and biases of auxiliary norms belong to the norm's layer.
      num_batches: number of batches with rows of this kind.
      norm_mean: of the gradient of these rows' mean loss.
      norm_std: its standard deviation.
      ratio_mean: of that norm to the natural rows' in the same batch, with the same batch norm.
      ratio_std: its standard deviation.
      cosine_mean: of the angle between that gradient and the natural rows'.
      cosine_std: its standard deviation.
    """

    batch_norm: str
    kind: str
    layer: str
    num_batches: int
    norm_mean: float
    norm_std: float | None
    ratio_mean: float | None
    ratio_std: float | None
    cosine_mean: float | None
    cosine_std: float | None


class _Measured(NamedTuple):
    """num_rows: of each kind, [K]; norm, cosine: [L, K], cosine NaN where a norm is 0."""

    num_rows: np.ndarray
    norm: np.ndarray
    cosine: np.ndarray


class _Shown(NamedTuple):
    """One batch as the net sees it; weight [K, B]: the rows of each kind, summing to 1."""

    image: jax.Array
    labels: Labels
    kind: jax.Array
    dropout_key: jax.Array
    weight: jax.Array
    num_rows: jax.Array


def measure(
    model: nn.Module,
    state: TrainState,
    batches: Iterable[dict[str, jax.Array]],
    *,
    num_batches: int,
    image_size: int,
    loss_fn: LossFn,
    class_weights: ClassWeights | None,
    epoch: int,
    augmentation: Augmentation,
    seed: int,
    mesh: Mesh,
) -> list[LayerGradient]:
    """Measures gradients at a state, with every batch norm; the state is not changed.

    Each batch is shown whole, as in training, with batch statistics and dropout; the losses of
    which gradients are taken are the means over the rows of each kind. With all norms and for all
    kinds a batch has the same augmentation, noise and dropout. With `aux`, norms that the
    state lacks begin as copies of the natural ones, as they do in training.

    Args:
      model: the net, with any norms.
      state: parameters and running statistics, whole on every device.
      batches: see `training.step.Batch`; split over the devices.
      num_batches: how many they are.
      image_size: in pixels.
      loss_fn: of training.
      class_weights: of training.
      epoch: of training, which a loss may depend on.
      augmentation: of training, with noise.
      seed: of augmentation, noise and dropout.
      mesh: the devices.

    Returns:
      A row for each batch norm, kind that the batches hold, and layer in forward order.

    Raises:
      UserError: if a gradient is not finite.
    """
    layers = layers_of(model, image_size)
    whole, parts = replicated(mesh), split(mesh)
    in_parts = _Shown._make([parts, parts, parts, whole, whole, whole])
    show = jax.jit(
        _make_show(augmentation, seed), in_shardings=(parts, whole), out_shardings=in_parts
    )
    compare = jax.jit(lambda grads: _compare(grads, layers))
    steps, states = {}, {}
    for batch_norm in NORMS:
        routed = model.clone(generated_norm=batch_norm, noise_norm=batch_norm)
        step = _make_step(routed, loss_fn, class_weights, jnp.int32(epoch))
        steps[batch_norm] = jax.jit(
            step,
            in_shardings=(whole, in_parts, whole),
            out_shardings=whole,
            compiler_options=compiler_options(model.dtype),
        )
        states[batch_norm] = jax.device_put(_adapted(state, routed, image_size), whole)
    measured: dict[str, list[_Measured]] = {batch_norm: [] for batch_norm in NORMS}
    with progress(total=num_batches, unit="batch", label="gradients") as bar:
        for index, batch in enumerate(batches):
            shown = show(batch, index)
            for batch_norm, step in steps.items():
                grads = [step(states[batch_norm], shown, k) for k in range(len(KIND_NAMES))]
                found = (shown.num_rows, *compare(grads))
                measured[batch_norm].append(_Measured(*jax.device_get(found)))
            bar.update()
    names = [layer_name(path) for path in layers]
    return [
        row for batch_norm in NORMS for row in _summary(batch_norm, names, measured[batch_norm])
    ]


def layers_of(model: nn.Module, image_size: int) -> list[_Path]:
    """Paths of the modules with own parameters, in the order of the forward pass."""
    called: list[_Path] = []

    def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):  # type: ignore[no-untyped-def]
        called.append(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        params = _shapes(model, image_size).params
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    owners = {tuple(p.key for p in path[:-1]) for path, _ in flat}
    return [path for path in dict.fromkeys(called) if path in owners]


def layer_name(path: _Path) -> str:
    """A module's path as tables show it; private classes' names lose their underscore."""
    return "/".join(part.lstrip("_") for part in path)


def _shapes(model: nn.Module, image_size: int) -> TrainState:
    """The structure of a model's state; without an optimizer."""
    tx = optax.identity()
    like = jax.eval_shape(lambda: create_state(model, tx, seed=0, image_size=image_size))
    return like.replace(opt_state=())


def _adapted(state: TrainState, model: nn.Module, image_size: int) -> TrainState:
    """The state with exactly the parameters that `model` has."""
    return adopt_auxiliary(state.replace(opt_state=()), _shapes(model, image_size))


def _make_show(augmentation: Augmentation, seed: int) -> Callable[[Batch, jax.Array], _Shown]:
    root = jax.random.fold_in(jax.random.key(seed), _STREAM)

    def show(batch: Batch, index: jax.Array) -> _Shown:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(root, index))
        kind = batch["kind"]
        member = jnp.stack([kind == k for k in KIND_NAMES]).astype(jnp.float32)
        num_rows = member.sum(axis=1)
        return _Shown(
            image=augment(batch["image"], kind, augment_key, augmentation),
            labels=cast(Labels, {n: v for n, v in batch.items() if n in Labels.__annotations__}),
            kind=kind,
            dropout_key=dropout_key,
            weight=member / jnp.maximum(num_rows, 1)[:, None],
            num_rows=num_rows,
        )

    return show


def _make_step(
    model: nn.Module, loss_fn: LossFn, class_weights: ClassWeights | None, epoch: jax.Array
) -> Callable[[TrainState, _Shown, jax.Array], dict[str, Any]]:
    # One kind per call: a program with three backward passes takes far longer to compile.
    def step(state: TrainState, shown: _Shown, which: jax.Array) -> dict[str, Any]:
        def mean_loss(params: dict) -> jax.Array:
            logits, _ = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                shown.image,
                shown.kind,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": shown.dropout_key},
            )
            of_class = class_weights(epoch) if class_weights else None
            parts = loss_parts(shown.labels, shown.weight[which], logits.shape[-1], of_class)
            if of_class is not None:  # a batch may have no rows of the kind
                total = jnp.maximum(reduce(add, [w for _, w in parts]).sum(), 1e-12)
                parts = [(t, w / total) for t, w in parts]
            return reduce(add, [(loss_fn(logits, t, epoch) * w).sum() for t, w in parts])

        return jax.grad(mean_loss)(state.params)

    return step


def _compare(grads: list[Any], layers: Sequence[_Path]) -> tuple[jax.Array, jax.Array]:
    """Norms and cosines, [L, K] each, of K trees of gradients, natural rows' first."""
    vectors = [jnp.stack([_vector(tree, path) for tree in grads]) for path in layers]
    norm, cosine = zip(*map(_norm_and_cosine, vectors))
    return jnp.stack(norm), jnp.stack(cosine)


def _vector(grads: Any, path: _Path) -> jax.Array:
    """The gradient of one layer's own parameters, [P]."""
    for part in path:
        grads = grads[part]
    own = [leaf.ravel() for leaf in grads.values() if not isinstance(leaf, dict)]
    return jnp.concatenate(own)


def _norm_and_cosine(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Norm of each vector of [K, P], and cosine to the first, [K] each."""
    # In float32 squares of small gradients would underflow and look like no gradient.
    peak = jnp.abs(vectors).max(axis=1, keepdims=True)
    scaled = vectors / jnp.where(peak > 0, peak, 1)
    length = jnp.sqrt(jnp.square(scaled).sum(axis=1))
    cosine = (scaled * scaled[:1]).sum(axis=1) / (length * length[:1])
    return peak[:, 0] * length, jnp.clip(cosine, -1, 1)


def _summary(batch_norm: str, layers: list[str], measured: list[_Measured]) -> list[LayerGradient]:
    num_rows, norm, cosine = (np.stack(column) for column in zip(*measured))
    if not np.isfinite(norm).all():
        layer = layers[np.argwhere(~np.isfinite(norm))[0][1]]
        raise UserError(
            f"the gradient of {layer} is not finite with batch norm {batch_norm}, so there is "
            "nothing to compare; the net has diverged: train again with a lower "
            "config.optimizer.learning_rate"
        )
    rows = []
    for k, kind in enumerate(KIND_NAMES.values()):
        here = num_rows[:, k] > 0
        both = here & (num_rows[:, 0] > 0)
        for i, layer in enumerate(layers if here.any() else []):
            natural = norm[both, i, 0]
            positive = natural > 0
            ratio = norm[both, i, k][positive] / natural[positive]
            angle = cosine[both, i, k]
            spreads = (norm[here, i, k], ratio, angle[~np.isnan(angle)])
            flat = [number for values in spreads for number in _mean_and_deviation(values)]
            rows.append(LayerGradient(batch_norm, kind, layer, int(here.sum()), *flat))  # type: ignore[arg-type]
    return rows


def _mean_and_deviation(values: np.ndarray) -> tuple[float | None, float | None]:
    values = values.astype(np.float64)
    mean = float(values.mean()) if len(values) else None
    return mean, float(values.std(ddof=1)) if len(values) > 1 else None
