"""Depthwise convolution as sums of shifted products, which XLA fuses into one loop.

Each channel has a kernel of its own. On CPUs XLA's convolution in groups takes up to 50 times as
long forward as these sums, and its filter gradient even more.
"""

import functools

import jax
import jax.numpy as jnp

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and behind, of height and width


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """x [N, H, W, C] with kernel [size, size, 1, C]: [N, H', W', C]."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return _sum_of_taps(padded, kernel, stride)


def _sum_of_taps(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = len(kernel)
    height, width = ((side - size) // stride + 1 for side in padded.shape[1:3])
    taps = [
        _met(padded, y, x, stride, height, width) * kernel[y, x][None, None]
        for y in range(size)
        for x in range(size)
    ]
    return functools.reduce(jnp.add, taps)


def _met(padded: jax.Array, y: int, x: int, stride: int, height: int, width: int) -> jax.Array:
    """The inputs, one for each output, that one position of the kernel meets."""
    rows, columns = (
        slice(k, k + stride * (n - 1) + 1, stride) for k, n in ((y, height), (x, width))
    )
    return padded[..., rows, columns, :]


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: Padding, saved: tuple[jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _input_gradient(x, kernel, stride, padding, grad), _filter_gradient(
        jnp.pad(x, ((0, 0), *padding, (0, 0))), len(kernel), stride, grad
    )


def _input_gradient(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, grad: jax.Array
) -> jax.Array:
    """The output's gradient, with zeros between its pixels, convolved with the turned kernel."""
    size = len(kernel)
    edges = []
    for axis, (before, _) in enumerate(padding, start=1):
        low = size - 1 - before
        reach = stride * (grad.shape[axis] - 1) + 1
        edges.append((low, x.shape[axis] + size - 1 - low - reach, stride - 1))
    zero = jnp.zeros((), grad.dtype)
    spread = jax.lax.pad(grad, zero, ((0, 0, 0), *edges, (0, 0, 0)))
    return _sum_of_taps(spread, kernel[::-1, ::-1], 1)


def _filter_gradient(padded: jax.Array, size: int, stride: int, grad: jax.Array) -> jax.Array:
    """Image after image, so that the products stay in the processor's cache."""
    height, width = grad.shape[1:3]

    def of(padded: jax.Array, grad: jax.Array) -> jax.Array:
        taps = [
            (_met(padded, y, x, stride, height, width) * grad).sum(axis=range(grad.ndim - 1))
            for y in range(size)
            for x in range(size)
        ]
        return jnp.stack(taps).reshape(size, size, 1, -1)

    # Several devices split the batch: a loop over its images would gather it on each of them.
    if jax.device_count() > 1:
        return of(padded, grad)
    start = jnp.zeros((size, size, 1, grad.shape[-1]), grad.dtype)
    return jax.lax.scan(lambda total, one: (total + of(*one), None), start, (padded, grad))[0]


convolve.defvjp(_forward, _backward)
