"""ResNet for CIFAR (He et al. 2016, section 4.2), the small net of long-tailed papers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.layers import KAIMING_INIT, Conv, make_head


class ResNet(nn.Module):
    """ResNet-(6n + 2) with 16, 32 and 64 channels; ResNet-32 by default.

    Shortcuts have no parameters: where the size halves, every other pixel is taken and the new
    channels are zeros (option A), half of them before and half behind the old ones. Convolutions
    and the last layer's weights are He-normal by fan-in, as in the code of Cao et al. and of MLRC.

    Attributes:
      num_classes: K.
      depth: 6n + 2.
      generated_norm: batch norm of generated rows, one of `kinds.NORMS`.
      noise_norm: that of noise rows.
      dtype: of the computation; parameters, statistics and logits are float32.
      cosine_scale: of the last layer, see `make_head`.
    """

    num_classes: int
    depth: int = 32
    generated_norm: str = "shared"
    noise_norm: str = "dar"
    dtype: DTypeLike = jnp.float32
    cosine_scale: float = 0.0

    @nn.compact
    def __call__(self, image: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        """Logits of images: see `WideResNet.__call__`."""

        def conv_norm(x: jax.Array, features: int, stride: int = 1) -> jax.Array:
            x = Conv(features, stride=stride, fan="fan_in", dtype=self.dtype)(x)
            norm = RoutedBatchNorm(self.generated_norm, self.noise_norm, self.dtype)
            return norm(x, kind, train=train)

        x = nn.relu(conv_norm(image.astype(self.dtype), 16))
        for group in range(3):
            features = 16 * 2**group
            for block in range((self.depth - 2) // 6):
                stride = 2 if group and not block else 1
                y = nn.relu(conv_norm(x, features, stride))
                x = nn.relu(conv_norm(y, features) + _shortcut(x, features, stride))
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return make_head(self.num_classes, self.cosine_scale, KAIMING_INIT)(x)


def _shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    x = x[:, ::stride, ::stride]
    new = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
