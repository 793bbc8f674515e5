"""The noise of each image. It follows from seed, class and index alone, whatever the batch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Keep the keys of other noise apart from that which an image starts from.
_FRESH, _POSTERIOR = 0x46524553, 0x504F5354


class ImageNoise:
    """Unit noise of the shape of an image's latents, float32.

    All take the store's seed, 0 to 2³² - 1, N class numbers and N numbers within their classes.
    """

    def __init__(self, shape: tuple[int, int, int], steps: int) -> None:
        """Latents are `[h, w, c]`; `steps` is the number of denoising steps, S."""
        self._start = _drawn(shape, None)
        self._posterior = _drawn(shape, _POSTERIOR)
        self._fresh = _drawn((steps, *shape), _FRESH)

    def start(self, seed: int, labels: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        """What images start from, `[N, h, w, c]`."""
        return _of(self._start, seed, labels, indices)

    def posterior(self, seed: int, labels: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        """That of real images' latents, `[N, h, w, c]`."""
        return _of(self._posterior, seed, labels, indices)

    def fresh(self, seed: int, labels: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        """What LCM and TCD mix in after every step, `[N, S, h, w, c]`."""
        return _of(self._fresh, seed, labels, indices)


def _of(draw: Callable, seed: int, labels: Sequence[int], indices: Sequence[int]) -> np.ndarray:
    names = np.uint32(seed), np.asarray(labels, np.uint32), np.asarray(indices, np.uint32)
    return np.asarray(draw(*names))


def _drawn(shape: tuple[int, ...], stream: int | None) -> Callable:
    """Draws (seed, labels, indices) -> `[N, *shape]`, of a stream of its own."""

    def of_image(seed: jax.Array, label: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), label), index)
        key = key if stream is None else jax.random.fold_in(key, stream)
        return jax.random.normal(key, shape, jnp.float32)

    return jax.jit(jax.vmap(of_image, in_axes=(None, 0, 0)))
