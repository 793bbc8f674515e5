"""Layers that the nets share."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jax.typing import DTypeLike

from osed_jax.models.cpu.convolution import convolve

# The last layer of every net; its parameters are params[HEAD].
HEAD = "Dense_0"
# Layers that are added to a net whose weights others trained; no weight file has them.
ADAPTER = "adapter"

# torch.nn.Linear's default: uniform in +-1/sqrt(fan_in).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Kaiming-normal, as the code of Cao and of MLRC initialises the last layer of ResNet-32.
KAIMING_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """Convolution without bias, padded so that the output has a side of ceil(side / stride).

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      stride: of both axes.
      fan: which fan sets the scale of the He-normal initialisation.
      depthwise: whether each input channel has a kernel of its own; there are as many outputs.
      as_tensorflow: whether a strided one is padded as in TensorFlow, a 3x3 kernel by (0, 1); in
        PyTorch, and so in most published nets, it is by (1, 1).
      dtype: of the computation; the kernel is float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    fan: Literal["fan_out", "fan_in"] = "fan_out"
    depthwise: bool = False
    as_tensorflow: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, features]."""
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, self.fan, "normal"),
            (self.size, self.size, 1 if self.depthwise else x.shape[-1], self.features),
        )
        return convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.stride,
            as_tensorflow=self.as_tensorflow,
        )


class CosineHead(nn.Module):
    """The cosine between the features and a vector of each class, times a scale.

    The normalised classifier of LDAM (Cao et al. 2019, section 3.2): no bias, and the vectors
    start with length 1.

    Attributes:
      num_classes: K.
      scale: s; Cao's is 30.
    """

    num_classes: int
    scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Features [N, D] -> logits [N, num_classes] between -scale and scale."""
        kernel = self.param("kernel", _unit_vectors, (x.shape[-1], self.num_classes))
        return self.scale * _of_length_1(x, axis=1) @ _of_length_1(kernel, axis=0)


def make_head(num_classes: int, cosine_scale: float, kernel_init: Initializer) -> nn.Module:
    """The last layer of a net: linear, or a `CosineHead` if `cosine_scale` is not 0."""
    if cosine_scale:
        return CosineHead(num_classes, cosine_scale, name=HEAD)
    return nn.Dense(num_classes, kernel_init=kernel_init, name=HEAD)


def _of_length_1(x: jax.Array, axis: int) -> jax.Array:
    square = jnp.square(x).sum(axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))  # 0 stays 0, with a finite gradient


def _unit_vectors(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return _of_length_1(jax.random.uniform(key, shape, minval=-1, maxval=1), axis=0)
