"""Resizing images on the device, antialiased."""

import jax
import jax.numpy as jnp
import numpy as np

_KERNELS = {"bicubic": "cubic", "lanczos": "lanczos3"}


def resize(image: jax.Array, size: int, method: str) -> jax.Array:
    """Resize square images.

    Args:
        image: float `[B, H, H, C]`.
        size: New height and width in pixels.
        method: `area` (the average over each new pixel's footprint, fractions included),
            `bicubic` (Keys 1981, a = -0.5) or `lanczos` (three lobes), both stretched to the
            reduction against aliasing. The last two overshoot at edges: clip afterwards.

    Returns:
        float `[B, size, size, C]`.
    """
    if method != "area":
        shape = (image.shape[0], size, size, image.shape[3])
        return jax.image.resize(image, shape, _KERNELS[method], antialias=True)
    weights = jnp.asarray(_box_weights(image.shape[1], size), image.dtype)
    precision = jax.lax.Precision.HIGHEST  # an average of bytes must not be taken in bfloat16
    return jnp.einsum("yh,xw,bhwc->byxc", weights, weights, image, precision=precision)


def fitted(image: jax.Array, size: int) -> jax.Array:
    """Real images, uint8 `[B, H, H, 3]`, at the size that a model draws, float in [0, 1]."""
    scaled = image.astype(jnp.float32) / 255
    if image.shape[1] == size:
        return scaled
    return jnp.clip(resize(scaled, size, "bicubic"), 0, 1)


def _box_weights(old: int, new: int) -> np.ndarray:
    """Share of every old pixel in every new one, `[new, old]`, rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * (new / old)
