"""The training state: what is passed from step to step."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from osed_jax.models.layers import HEAD


class TrainState(flax.struct.PyTreeNode):
    """The content of a checkpoint. It has no random key: keys are derived from the step.

    Attributes:
      step: number of updates made, int32 [].
      params: float32.
      batch_stats: running means and variances, float32.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def create_state(
    model: nn.Module, tx: optax.GradientTransformation, *, seed: jax.Array | int, image_size: int
) -> TrainState:
    """Initial state of a model for images of image_size pixels.

    It is faster not jitted: parameters of one shape are drawn by one compiled function, where a
    program of all of them takes longer to compile than the training step.
    """
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    kind = jax.ShapeDtypeStruct((1,), jnp.int32)
    variables = model.lazy_init(jax.random.key(seed), image, kind, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),  # a net may have no batch statistics
        opt_state=tx.init(variables["params"]),
    )


def adopt_auxiliary(state: TrainState, fresh: TrainState) -> TrainState:
    """Adds the parameters of auxiliary batch norms, which only the model of `fresh` has.

    An auxiliary norm (`generated_scale`, `noise_bias`, ...) starts as a copy of the natural norm
    beside it, without momentum, in the epoch in which its rows first appear. So a deferred run and
    a run forked from an ERM run at that epoch are the same.

    Args:
      state: of a model without auxiliary norms.
      fresh: a state of the same model with auxiliary norms; only its structure is used.
    """

    def copy(path: tuple, like: Any, tree: Any, *, zero: bool) -> Any:
        *parents, name = (p.key for p in path)
        for parent in parents:
            tree = tree[parent]
        if name in tree:
            return tree[name]
        beside = tree[name.removeprefix("generated_").removeprefix("noise_")]
        return jnp.zeros_like(beside) if zero else jnp.array(beside)

    params = jax.tree_util.tree_map_with_path(
        lambda path, like: copy(path, like, state.params, zero=False), fresh.params
    )

    def adopt_trace(like: Any, old: Any) -> Any:
        if not _is_trace(like):
            return old
        trace = jax.tree_util.tree_map_with_path(
            lambda path, leaf: copy(path, leaf, old.trace, zero=True), like.trace
        )
        return optax.TraceState(trace)

    opt_state = jax.tree.map(
        adopt_trace,
        fresh.opt_state,
        state.opt_state,
        is_leaf=_is_trace,
    )
    return state.replace(params=params, opt_state=opt_state)


def renew_head(state: TrainState, fresh: TrainState) -> TrainState:
    """Resets the last layer: its weights are those of `fresh`, its momentum is 0."""

    def without_momentum(node: Any) -> Any:
        if not _is_trace(node):
            return node
        zeros = jax.tree.map(jnp.zeros_like, node.trace[HEAD])
        return optax.TraceState({**node.trace, HEAD: zeros})

    return state.replace(
        params={**state.params, HEAD: fresh.params[HEAD]},
        opt_state=jax.tree.map(without_momentum, state.opt_state, is_leaf=_is_trace),
    )


def _is_trace(node: Any) -> bool:
    return isinstance(node, optax.TraceState)


def num_parameters(tree: Any) -> int:
    """Number of scalars in a tree of arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
