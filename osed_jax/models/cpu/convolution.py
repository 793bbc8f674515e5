"""Convolution in the way that is fast on the platform."""

import jax
import jax.numpy as jnp

from osed_jax.models.cpu import depthwise, winograd
from osed_jax.models.cpu.depthwise import Padding

# Up to so many channels transforming inputs for minimal filtering costs more than it saves.
_NARROW = 128
# Up to so many channels an output pixel alone does not fill the processor's matrix product.
_PAIRED = 16
# Rows of a block of inputs: 0.6 MB with 16 channels, of the 1 MB or so of a second-level cache.
_BLOCK_ROWS = 1024


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, *, as_tensorflow: bool = False
) -> jax.Array:
    """Convolution whose output has a side of ceil(side / stride).

    On CPUs XLA's filter gradient takes up to 30 times as long as its forward pass, the forward
    pass has more multiplications than necessary, and that of depthwise convolutions is slow. So
    there they are computed in other ways (see docs/reference/performance.md). The numbers agree up
    to rounding.

    Args:
      x: [N, H, W, C].
      kernel: [size, size, C, D], size odd; or [size, size, 1, C], a kernel for each channel.
      stride: of both axes.
      as_tensorflow: padding, where a stride leaves a choice: as little as there can be, and the
        odd pixel behind the image; else size // 2 on every side, as in PyTorch.

    Returns:
      [N, H / stride, W / stride, D], rounded up.
    """
    size = len(kernel)
    padding = ((size // 2,) * 2,) * 2
    if as_tensorflow:
        height, width = x.shape[1:3]
        padding = _least_padding(height, size, stride), _least_padding(width, size, stride)
    if jax.default_backend() != "cpu" or x.dtype != jnp.float32:
        return _convolve(x, kernel, stride, padding)
    if kernel.shape[2] < x.shape[3]:
        return depthwise.convolve(x, kernel, stride, padding)
    # Padded by size // 2 all the same: a pixel of zeros before the image moves it to its place,
    # and the output that this one adds is left out.
    moved = [(before - size // 2) % stride for before, _ in padding]
    first = [min(pixels, 1) for pixels in moved]
    x = jnp.pad(x, ((0, 0), *((pixels, 0) for pixels in moved), (0, 0))) if any(moved) else x
    return _convolve_on_cpu(x, kernel, stride)[:, first[0] :, first[1] :]


def _least_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    pixels = max((-(-side // stride) - 1) * stride + size - side, 0)
    return pixels // 2, pixels - pixels // 2


def _convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding | None = None
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding or ((kernel.shape[0] // 2,) * 2,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3] // kernel.shape[2],
    )


def _tiles(x: jax.Array, size: int, stride: int) -> int:
    """Number of 2x2 tiles of x in minimal filtering; 0 if it does not apply."""
    n, height, width, _ = x.shape
    applies = size == 3 and stride == 1 and height % 2 == width % 2 == 0
    return n * height * width // 4 if applies else 0


def _on_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Few channels do not pay for the transformed input, few tiles not for the kernel."""
    size, channels = kernel.shape[0], kernel.shape[2:]
    wide = max(channels) > _NARROW and min(channels) >= 32
    if wide and _tiles(x, size, stride) >= max(channels) / 4:
        return winograd.convolve(x, kernel)
    if max(channels) <= _PAIRED and size == 3 and stride == 1 and x.shape[2] % 2 == 0:
        return _convolve_in_pairs(x, kernel)
    return _convolve(x, kernel, stride)


def _convolve_in_pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Two neighbouring pixels of the output at once, as one pixel with twice the channels.

    Their inputs are 3x4 pixels, so a quarter of the products are with zeros. But XLA's convolution
    reaches less than half of its speed with 16 channels of the output, and all of it with 32.
    """
    left, right = (jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1))
    y = jax.lax.conv_general_dilated(
        x,
        jnp.concatenate([left, right], axis=-1),
        window_strides=(1, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(*x.shape[:3], kernel.shape[-1])


_convolve_on_cpu = jax.custom_vjp(_on_cpu, nondiff_argnums=(2,))


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple]:
    return _on_cpu(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if stride == 1:
        flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        input_grad = _on_cpu(grad, flipped, 1)
    else:
        _, input_vjp = jax.vjp(lambda x: _convolve(x, kernel, stride), x)
        (input_grad,) = input_vjp(grad)
    size, channels = kernel.shape[0], kernel.shape[2:]
    # Several devices split the batch: a loop over its images would gather it on each of them.
    if size > 1 and max(channels) <= _NARROW and jax.device_count() == 1:
        return input_grad, _filter_gradient_by_blocks(x, size, stride, grad)
    if min(channels) >= 16 and _tiles(x, size, stride):
        return input_grad, winograd.filter_gradient(x, grad)
    return input_grad, _filter_gradient_by_taps(x, size, stride, grad)


def _filter_gradient_by_blocks(x: jax.Array, size: int, stride: int, grad: jax.Array) -> jax.Array:
    """A few images after the other: the output's gradient times the inputs that all taps met.

    The inputs of all taps side by side (im2col) stay in the processor's cache, as they are those
    of a few images only.
    """
    n, height, width, features = grad.shape
    most = max(1, _BLOCK_ROWS // (height * width))
    images = next(number for number in range(min(most, n), 0, -1) if n % number == 0)
    pad = size // 2
    reach_y, reach_x = (stride * (side - 1) + 1 for side in (height, width))

    def add(total: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        x, grad = block
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        met = [
            padded[:, y : y + reach_y : stride, x : x + reach_x : stride]
            for y in range(size)
            for x in range(size)
        ]
        columns = jnp.concatenate(met, axis=-1).reshape(images * height * width, -1)
        transposed = grad.reshape(-1, features).T
        return total + jnp.dot(transposed, columns, precision=jax.lax.Precision.HIGHEST), None

    blocks = tuple(a.reshape(n // images, images, *a.shape[1:]) for a in (x, grad))
    start = jnp.zeros((features, size * size * x.shape[-1]))
    total, _ = jax.lax.scan(add, start, blocks)
    return total.T.reshape(size, size, x.shape[-1], features)


def _filter_gradient_by_taps(x: jax.Array, size: int, stride: int, grad: jax.Array) -> jax.Array:
    """For each position of the kernel: the output's gradient, transposed once, times its input."""
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    reach_y, reach_x = (stride * (n - 1) + 1 for n in grad.shape[1:3])
    transposed = grad.reshape(-1, grad.shape[-1]).T

    def tap(y: int, x: int) -> jax.Array:
        met = padded[:, y : y + reach_y : stride, x : x + reach_x : stride]
        met = met.reshape(-1, met.shape[-1])
        return jnp.dot(transposed, met, precision=jax.lax.Precision.HIGHEST).T

    return jnp.stack([jnp.stack([tap(y, x) for x in range(size)]) for y in range(size)])


_convolve_on_cpu.defvjp(_forward, _backward)
