"""WideResNet-d-k (Zagoruyko & Komodakis 2016), as the published OPeN results use it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.layers import LINEAR_INIT, Conv, make_head


class WideResNet(nn.Module):
    """Pre-activation wide residual net on images of any size.

    No batch norm after the stem; three groups of (depth - 4) / 6 blocks; stride on the first
    convolution of a group; where the width changes, the shortcut is a 1x1 convolution of the
    block's raw input (before its batch norm).

    Attributes:
      num_classes: K.
      depth: 6n + 4.
      widen_factor: k; the groups have 16k, 32k and 64k channels.
      dropout_rate: behind the first convolution of a block, before its second batch norm, as in
        MLRC's code (Zagoruyko's has it behind that norm's ReLU), so it enters the statistics.
      generated_norm: batch norm of generated rows, one of `kinds.NORMS`.
      noise_norm: that of noise rows.
      dtype: of the computation; parameters, statistics and logits are float32.
      cosine_scale: of the last layer, see `make_head`.
    """

    num_classes: int
    depth: int = 28
    widen_factor: int = 10
    dropout_rate: float = 0.3
    generated_norm: str = "shared"
    noise_norm: str = "dar"
    dtype: DTypeLike = jnp.float32
    cosine_scale: float = 0.0

    @nn.compact
    def __call__(self, image: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        """Logits of images.

        Args:
          image: normalised, [N, H, W, 3].
          kind: `kinds.Kind` of each row, [N].
          train: whether batch statistics are used and updated, and dropout is on (needs the
            `dropout` key).

        Returns:
          float32 [N, num_classes]. What the last layer sees, float32 [N, D], is sown as `features`
          into the collection `intermediates`, for callers that make that one mutable.
        """
        x = Conv(16, dtype=self.dtype)(image.astype(self.dtype))
        for group in range(3):
            for block in range((self.depth - 4) // 6):
                x = _Block(
                    features=16 * self.widen_factor * 2**group,
                    stride=2 if group and not block else 1,
                    dropout_rate=self.dropout_rate,
                    generated_norm=self.generated_norm,
                    noise_norm=self.noise_norm,
                    dtype=self.dtype,
                )(x, kind, train)
        norm = RoutedBatchNorm(self.generated_norm, self.noise_norm, self.dtype)
        x = nn.relu(norm(x, kind, train=train)).astype(jnp.float32).mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return make_head(self.num_classes, self.cosine_scale, LINEAR_INIT)(x)


class _Block(nn.Module):
    features: int
    stride: int
    dropout_rate: float
    generated_norm: str
    noise_norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        def norm_relu(x: jax.Array) -> jax.Array:
            norm = RoutedBatchNorm(self.generated_norm, self.noise_norm, self.dtype)
            return nn.relu(norm(x, kind, train=train))

        y = Conv(self.features, stride=self.stride, dtype=self.dtype)(norm_relu(x))
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = norm_relu(y)
        y = Conv(self.features, dtype=self.dtype)(y)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, stride=self.stride, dtype=self.dtype)(x)
        return x + y
