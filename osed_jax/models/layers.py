"""What both nets are made of."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from osed_jax.models.convolution import convolve

# The last layer of every net; its parameters are params[HEAD].
HEAD = "Dense_0"

# torch.nn.Linear's default: uniform in +-1/sqrt(fan_in).
LINEAR_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Kaiming-normal, as the code of Cao and of MLRC initialises the last layer of ResNet-32.
KAIMING_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """Convolution without bias, padded by (size - 1) / 2 on every side.

    XLA's SAME pads a strided 3x3 convolution by (0, 1); PyTorch, and so the published nets, by
    (1, 1).

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      stride: of both axes.
      fan: which fan sets the scale of the He-normal initialisation.
      dtype: of the computation; the kernel is float32.
    """

    features: int
    size: int = 3
    stride: int = 1
    fan: Literal["fan_out", "fan_in"] = "fan_out"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, features]."""
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, self.fan, "normal"),
            (self.size, self.size, x.shape[-1], self.features),
        )
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
