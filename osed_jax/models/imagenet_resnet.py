"""ResNets in ImageNet's form (He et al. 2016), as torchvision and timm build them."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.layers import LINEAR_INIT, Conv, make_head


class ImageNetResNet(nn.Module):
    """A 7x7 stem with stride 2, a max-pool, four groups of blocks with 64 to 512 channels.

    The names of the layers are torchvision's and timm's, with `_` for a dot: `layer1_0/conv1` is
    their `layer1.0.conv1`; the last layer is their `fc`.

    Attributes:
      num_classes: K.
      generated_norm: batch norm of generated rows, one of `kinds.NORMS`.
      noise_norm: that of noise rows.
      dtype: of the computation; parameters, statistics and logits are float32.
      cosine_scale: of the last layer, see `make_head`.
      blocks: number of blocks of each group.
      expansion: 1 for blocks of two 3x3 convolutions; else these are 1x1, 3x3 (which has the
        stride, as in torchvision), 1x1, and the last one has so many times the channels.
    """

    num_classes: int
    generated_norm: str = "shared"
    noise_norm: str = "dar"
    dtype: DTypeLike = jnp.float32
    cosine_scale: float = 0.0
    blocks: ClassVar[tuple[int, ...]]
    expansion: ClassVar[int]

    @nn.compact
    def __call__(self, image: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        """Logits of images: see `WideResNet.__call__`."""
        norms = (self.generated_norm, self.noise_norm, self.dtype)
        x = Conv(64, size=7, stride=2, dtype=self.dtype, name="conv1")(image.astype(self.dtype))
        x = nn.relu(RoutedBatchNorm(*norms, name="bn1")(x, kind, train=train))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for group, count in enumerate(self.blocks):
            for block in range(count):
                x = _Block(
                    channels=64 * 2**group,
                    expansion=self.expansion,
                    stride=2 if group and not block else 1,
                    generated_norm=self.generated_norm,
                    noise_norm=self.noise_norm,
                    dtype=self.dtype,
                    name=f"layer{group + 1}_{block}",
                )(x, kind, train)
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return make_head(self.num_classes, self.cosine_scale, LINEAR_INIT)(x)


class ResNet18(ImageNetResNet):
    """ResNet-18: 11,689,512 parameters for 1,000 classes."""

    blocks = (2, 2, 2, 2)
    expansion = 1


class ResNet50(ImageNetResNet):
    """ResNet-50: 25,557,032 parameters for 1,000 classes."""

    blocks = (3, 4, 6, 3)
    expansion = 4


class _Block(nn.Module):
    channels: int
    expansion: int
    stride: int
    generated_norm: str
    noise_norm: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        def norm(y: jax.Array, name: str) -> jax.Array:
            module = RoutedBatchNorm(self.generated_norm, self.noise_norm, self.dtype, name=name)
            return module(y, kind, train=train)

        features, layers = self.channels * self.expansion, self._layers()
        y = x
        for i, (channels, size, stride) in enumerate(layers, start=1):
            y = Conv(channels, size=size, stride=stride, dtype=self.dtype, name=f"conv{i}")(y)
            y = norm(y, f"bn{i}")
            y = nn.relu(y) if i < len(layers) else y
        if self.stride > 1 or x.shape[-1] != features:
            shortcut = Conv(
                features, size=1, stride=self.stride, dtype=self.dtype, name="downsample_0"
            )
            x = norm(shortcut(x), "downsample_1")
        return nn.relu(x + y)

    def _layers(self) -> list[tuple[int, int, int]]:
        """Channels, size and stride of each convolution."""
        n = self.channels
        if self.expansion == 1:
            return [(n, 3, self.stride), (n, 3, 1)]
        return [(n, 1, 1), (n, 3, self.stride), (n * self.expansion, 1, 1)]
