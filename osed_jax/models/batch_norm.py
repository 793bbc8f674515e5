"""Batch norm that depends on the kind of each row.

Natural rows are normalised as usual. For rows of another kind there are four settings:

- `shared`: they join the natural rows in one batch norm.
- `dar`: distribution-aware routing batch norm (DAR-BN; Zada et al. 2022, appendix E): their own
  batch mean and variance, the shared scale and bias, and no gradient through the branch.
- `dar_grad`: as `dar`, but gradients flow.
- `aux`: their own statistics and their own scale and bias (auxiliary batch norm; Xie et al. 2020,
  "Adversarial Examples Improve Image Recognition", section 4).

Only rows in the shared norm enter the running statistics, and only these are used at test time. An
auxiliary norm keeps no running statistics, since nothing would read them.
"""

from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from osed_jax.kinds import Kind

EPSILON = 1e-5
MOMENTUM = 0.9  # weight of the old running average; PyTorch writes the same as 0.1

_Moments = tuple[jax.Array, jax.Array]


class RoutedBatchNorm(nn.Module):
    """Batch norm over [N, H, W, C] that depends on the kind of each row.

    Statistics are float32, whatever the dtype of the computation. They are computed from sums and
    counts, so that under `jit` with a sharded batch they are those of the global batch, whichever
    device a row is on. The running variance is the biased one (as in Flax; PyTorch keeps the
    unbiased one). If a group of rows is empty it changes nothing. In training padding rows come
    out as 0.

    Attributes:
      generated_norm: of generated rows, one of `kinds.NORMS`.
      noise_norm: of noise rows, one of the same.
      dtype: of the output.
      epsilon: added to the variance.
    """

    generated_norm: str
    noise_norm: str
    dtype: DTypeLike = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, *, train: bool) -> jax.Array:
        """Normalises x [N, H, W, C] by the kind [N] of its rows; at test by the running average."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        norms = {Kind.GENERATED: self.generated_norm, Kind.NOISE: self.noise_norm}
        own_norm = {k: norm for k, norm in norms.items() if norm != "shared"}
        aux = [k for k, norm in own_norm.items() if norm == "aux"]
        own_affine = {k: self._own_affine(k, channels) for k in aux}

        if not train:
            return self._apply(x, *self._affine(running_mean.value, running_var.value, scale, bias))

        moments = _image_moments(x)
        sharing = (kind != Kind.PADDING) & ~_is_any(kind, own_norm)
        mean, var, count = _group_moments(moments, sharing)
        if not self.is_initializing():  # `init` makes the variables; its input is no training batch
            share = jnp.where(count > 0, 1 - MOMENTUM, 0)
            running_mean.value += share * (mean - running_mean.value)
            running_var.value += share * (var - running_var.value)

        # Each row gets a factor and an offset; so the large tensor is gone over once, however many
        # groups there are.
        factor, offset = self._affine(mean, var, scale, bias)
        for own in own_norm:
            own_mean, own_var, _ = _group_moments(moments, kind == own)
            own_factor, own_offset = self._affine(
                own_mean, own_var, *own_affine.get(own, (scale, bias))
            )
            of_kind = (kind == own)[:, None]
            factor = jnp.where(of_kind, own_factor, factor)
            offset = jnp.where(of_kind, own_offset, offset)
        # Padding is 0 after every norm. With the statistics of few, similar rows it would grow from
        # norm to norm without bound, until 0 times it is not a number any more.
        filled = (kind != Kind.PADDING)[:, None]
        factor, offset = jnp.where(filled, factor, 0), jnp.where(filled, offset, 0)
        y = self._apply(x, factor, offset)
        # Neither the layers below nor scale and bias learn from rows in `dar` (appendix E).
        stopped = _is_any(kind, [k for k, norm in own_norm.items() if norm == "dar"])
        return jnp.where(stopped[:, None, None, None], jax.lax.stop_gradient(y), y)

    def _own_affine(self, kind: Kind, channels: int) -> _Moments:
        name = kind.name.lower()
        return (
            self.param(f"{name}_scale", nn.initializers.ones, (channels,)),
            self.param(f"{name}_bias", nn.initializers.zeros, (channels,)),
        )

    def _affine(
        self, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> _Moments:
        """Normalisation and affine map as one factor and one offset, both [1, C]."""
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor[None], (bias - mean * factor)[None]

    def _apply(self, x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
        """x * factor + offset in float32; both [N, C], or [1, C] where all rows share them."""
        y = x.astype(jnp.float32) * factor[:, None, None] + offset[:, None, None]
        return y.astype(self.dtype)


def _is_any(kind: jax.Array, kinds: Iterable[Kind]) -> jax.Array:
    """Bool [N]: whether each row is of one of these kinds."""
    member = jnp.zeros(kind.shape, bool)
    for each in kinds:
        member |= kind == each
    return member


def _image_moments(x: jax.Array) -> _Moments:
    """First and second moment of each image and channel, float32 [N, C].

    The mean over the height comes first, with width and channels as one long axis: on CPUs XLA
    takes up to eleven times as long for both axes at once (docs/reference/performance.md).
    """
    n, height, width, channels = x.shape
    rows = x.astype(jnp.float32).reshape(n, height, width * channels)

    def mean(y: jax.Array) -> jax.Array:
        return y.mean(axis=1).reshape(n, width, channels).mean(axis=1)

    return mean(rows), mean(jnp.square(rows))


def _group_moments(moments: _Moments, member: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean [C], biased variance [C] and number of the images that `member` [N] marks."""
    weight = member.astype(jnp.float32)
    count = weight.sum()
    # A sum of products, because accelerators compute matrix products in lower precision. An empty
    # group has moments 0, not NaN; nothing uses them.
    first, second = ((weight[:, None] * m).sum(axis=0) / jnp.maximum(count, 1) for m in moments)
    # Rounding can take E[x^2] - E[x]^2 below 0.
    return first, jnp.maximum(second - jnp.square(first), 0), count
