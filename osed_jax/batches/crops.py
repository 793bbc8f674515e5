"""Crops at the input size of the net: random in training, the middle in evaluation."""

import jax
import jax.numpy as jnp

_TRIES = 10  # boxes drawn for each image; the first one that fits is used (torchvision)


def random_boxes(
    key: jax.Array, n: int, size: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Boxes as torchvision's RandomResizedCrop draws them (Szegedy et al. 2015, section 6).

    Args:
      key: all randomness comes from it.
      n: number of boxes.
      size: side of the images in pixels.
      scale: share of the image's area, uniform between the two.
      ratio: width / height, its logarithm uniform between those of the two.

    Returns:
      float32 [n, 4], whole numbers: y and x of the corner, height, width. The whole image where no
      box that was drawn fits.
    """
    area_key, ratio_key, y_key, x_key = jax.random.split(key, 4)
    tries = (n, _TRIES)
    area = size**2 * jax.random.uniform(area_key, tries, minval=scale[0], maxval=scale[1])
    low, high = jnp.log(jnp.asarray(ratio))
    aspect = jnp.exp(jax.random.uniform(ratio_key, tries, minval=low, maxval=high))
    sides = jnp.round(jnp.sqrt(jnp.stack([area / aspect, area * aspect])))  # height, width
    fits = ((sides > 0) & (sides <= size)).all(axis=0)
    chosen = jnp.take_along_axis(sides, fits.argmax(axis=1)[None, :, None], axis=2)[..., 0]
    height, width = jnp.where(fits.any(axis=1)[None], chosen, size)

    def corner(key: jax.Array, side: jax.Array) -> jax.Array:
        return jnp.floor(jax.random.uniform(key, (n,)) * (size - side + 1))

    return jnp.stack([corner(y_key, height), corner(x_key, width), height, width], axis=1)


def resized(x: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """The boxes [N, 4] (y, x, height, width) of images [N, H, W, C] as [N, size, size, C].

    Linear interpolation, antialiased, as Pillow's `resize` with a box.
    """

    def one(image: jax.Array, box: jax.Array) -> jax.Array:
        corner, scale = box[:2], size / box[2:]
        shape = (size, size, image.shape[-1])
        return jax.image.scale_and_translate(image, shape, (0, 1), scale, -corner * scale, "linear")

    return jax.vmap(one)(x, boxes)


def centre(x: jax.Array, size: int) -> jax.Array:
    """The middle of images [N, H, H, C] as [N, size, size, C]."""
    first = (x.shape[1] - size) // 2
    return x[:, first : first + size, first : first + size]
