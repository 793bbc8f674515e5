"""Noise, augmentation and normalisation, on the device, inside the jitted step.

The order is that of the recipe (MLRC): flip, crop of one kind or the other, Cutout, colour jitter,
greyscale, blur, normalise. Each operation is a pure function of images float32 [N, H, W, 3] in
[0, 1] and one random number per image. `augment` draws the numbers of each operation with a key
made from its name, so that a new operation does not change the numbers of the others.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from osed_jax.batches.crops import centre, random_boxes, resized
from osed_jax.batches.policies import autoaugment, randaugment
from osed_jax.config.fields_of_data import Augment
from osed_jax.kinds import Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(Augment):
    """The section `augment`, and what else it takes to make the input of a net.

    Attributes:
      mean: of each channel, in [0, 1].
      std: of each channel.
      noise_space: `pixel`, `normalised`, or `` if a plan has no noise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    noise_space: str = ""


def augment(image: jax.Array, kind: jax.Array, key: jax.Array, settings: Augmentation) -> jax.Array:
    """What the net sees in training.

    Natural and generated rows are augmented and normalised. Noise rows become new noise in every
    batch and are not augmented (Zada, section 3).

    Args:
      image: uint8 [N, H, W, 3].
      kind: `Kind` of each row, [N].
      key: all randomness comes from it.
      settings: which operations, how strong.

    Returns:
      float32 [N, H, W, 3]; with crop_size, H and W are that size.
    """
    x = image.astype(jnp.float32) / 255
    n = x.shape[0]

    def some(key: jax.Array, prob: float, changed: jax.Array, unchanged: jax.Array) -> jax.Array:
        chosen = jax.random.bernoulli(key, prob, (n, 1, 1, 1))
        return jnp.where(chosen, changed, unchanged)

    if settings.flip:
        x = some(named(key, "flip"), 0.5, x[:, :, ::-1], x)
    if settings.crop_padding:
        pad = settings.crop_padding
        corner = jax.random.randint(named(key, "crop"), (n, 2), 0, 2 * pad + 1)
        x = crop(x, corner, pad)
    if settings.crop_size:
        draw = named(key, "random_resized_crop")
        boxes = random_boxes(draw, n, x.shape[1], settings.crop_scale, settings.crop_ratio)
        x = resized(x, boxes, settings.crop_size)
    if settings.policy != "none":
        x = _by_policy(x, named(key, "policy"), settings)
    if settings.cutout:
        centre = jax.random.randint(named(key, "cutout"), (n, 2), 0, x.shape[1])
        x = cutout(x, centre, settings.cutout)
    if settings.color_jitter_prob:
        draw, choose = jax.random.split(named(key, "color_jitter"))
        jittered = _random_color_jitter(x, draw, settings.color_jitter)
        x = some(choose, settings.color_jitter_prob, jittered, x)
    if settings.grayscale_prob:
        grey = jnp.broadcast_to(grayscale(x), x.shape)
        x = some(named(key, "grayscale"), settings.grayscale_prob, grey, x)
    if settings.blur_prob:
        draw, choose = jax.random.split(named(key, "blur"))
        low, high = settings.blur_sigma
        blurred = gaussian_blur(x, jax.random.uniform(draw, (n,), minval=low, maxval=high))
        x = some(choose, settings.blur_prob, blurred, x)
    x = normalise(x, settings)
    if settings.noise_space:
        noisy = (kind == Kind.NOISE)[:, None, None, None]
        x = jnp.where(noisy, noise(named(key, "noise"), x.shape, settings), x)
    return x


def at_test_time(image: jax.Array, settings: Augmentation) -> jax.Array:
    """The input at test time from uint8 [N, H, W, 3]: the image, or with crop_size its middle."""
    x = image.astype(jnp.float32) / 255
    return normalise(centre(x, settings.crop_size) if settings.crop_size else x, settings)


def _by_policy(x: jax.Array, key: jax.Array, settings: Augmentation) -> jax.Array:
    """AutoAugment or RandAugment; they compute with 8-bit levels."""
    levels = jnp.round(x * 255).astype(jnp.int32)
    if settings.policy == "autoaugment":
        levels = autoaugment(levels, key)
    else:
        count, level = settings.randaugment_count, settings.randaugment_level
        levels = randaugment(levels, key, count, level)
    return levels.astype(jnp.float32) / 255


def named(key: jax.Array, operation: str) -> jax.Array:
    """The key of an operation: it depends on its name, not on the other operations."""
    return jax.random.fold_in(key, zlib.crc32(operation.encode()))


def normalise(x: jax.Array, settings: Augmentation) -> jax.Array:
    """(x - mean) / std of each channel."""
    return (x - _channels(settings.mean)) / _channels(settings.std)


def noise(key: jax.Array, shape: tuple[int, ...], settings: Augmentation) -> jax.Array:
    """Pure noise images as the net sees them (Zada, equation 2).

    N(mean, std) of each channel, independent in every pixel, clipped to [0, 1]. In noise space
    `pixel` they are then normalised like any image; in `normalised` they are not normalised
    (MLRC), so the net sees about N(mean, std).
    """
    x = jax.random.normal(key, shape) * _channels(settings.std) + _channels(settings.mean)
    x = jnp.clip(x, 0, 1)
    return normalise(x, settings) if settings.noise_space == "pixel" else x


def crop(x: jax.Array, corner: jax.Array, padding: int) -> jax.Array:
    """Pads with zeros and crops to the old size at `corner` [N, 2] (y, x), 0 <= corner <= 2p."""
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), x.shape[1:])

    return jax.vmap(cut)(padded, corner)


def cutout(x: jax.Array, centre: jax.Array, length: int) -> jax.Array:
    """Blackens a square around `centre` [N, 2] (y, x), cut off at the border.

    DeVries & Taylor 2017; the square covers centre - length // 2 up to centre + length // 2,
    the last one excluded.
    """
    position = jnp.arange(x.shape[1])[None, None]
    offset = position - centre[..., None]  # [N, 2, H]
    inside = (offset >= -(length // 2)) & (offset < length // 2)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return jnp.where(hole[..., None], 0.0, x)


def grayscale(x: jax.Array) -> jax.Array:
    """Luma of ITU-R 601-2, [N, H, W, 1]."""
    return (x * _channels((0.2989, 0.587, 0.114))).sum(axis=-1, keepdims=True)


def blend(x: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """factor * x + (1 - factor) * other, clipped to [0, 1]; factor [N]."""
    factor = factor[:, None, None, None]
    return jnp.clip(factor * x + (1 - factor) * other, 0, 1)


def adjust_hue(x: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotates the hue by `turn` [N], 1 being the full circle of the HSV model."""
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value, low = x.max(axis=-1), x.min(axis=-1)
    chroma = value - low
    per = jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / per,
        jnp.where(value == green, 2 + (blue - red) / per, 4 + (red - green) / per),
    )
    sector = sector + 6 * turn[:, None, None]
    # Each channel is a trapezoid over the six sectors of the circle, shifted by two sectors.
    phase = (_channels((5.0, 3.0, 1.0)) + sector[..., None]) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)


def color_jitter(
    x: jax.Array, factors: jax.Array, turn: jax.Array, order: jax.Array, hue_slot: jax.Array
) -> jax.Array:
    """Brightness, contrast, saturation and hue, in another order for each image.

    Args:
      x: images.
      factors: [N, 3] of brightness, contrast and saturation.
      turn: [N] of the hue.
      order: [N, 3], a permutation of (0, 1, 2): which of the three comes first, second, third.
      hue_slot: [N] in 0 ... 3: how many of the three come before the hue.
    """

    def three(x: jax.Array, before_hue: bool) -> jax.Array:
        for slot in range(3):
            which = order[:, slot]
            here = (slot < hue_slot) if before_hue else (slot >= hue_slot)
            factor = jnp.take_along_axis(factors, which[:, None], axis=1)[:, 0]
            luma = grayscale(x)
            other = jnp.select(
                [(which == 0)[:, None, None, None], (which == 1)[:, None, None, None]],
                [jnp.zeros_like(luma), luma.mean(axis=(1, 2), keepdims=True)],
                luma,
            )
            x = jnp.where(here[:, None, None, None], blend(x, other, factor), x)
        return x

    # The hue costs the most, so it is computed once, between the two runs over the others.
    return three(adjust_hue(three(x, True), turn), False)


def gaussian_blur(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """3x3 Gaussian blur with sigma [N] in pixels, reflected at the border."""
    side = jnp.exp(-0.5 / jnp.square(sigma))[:, None, None, None]
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        padded = jnp.pad(x, pad, mode="reflect")
        before = jax.lax.slice_in_dim(padded, 0, x.shape[axis], axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, None, axis=axis)
        x = (x + side * (before + after)) / (1 + 2 * side)
    return x


def _channels(values: Sequence[float]) -> jax.Array:
    """One number for each channel, as [1, 1, 1, 3]."""
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3)


def _random_color_jitter(
    x: jax.Array, key: jax.Array, strength: tuple[float, float, float, float]
) -> jax.Array:
    """Draws what `color_jitter` needs: factors in 1 +- strength, any order equally likely."""
    factor_key, turn_key, order_key, slot_key = jax.random.split(key, 4)
    n, (*spread, hue) = x.shape[0], strength
    uniform = jax.random.uniform(factor_key, (n, 3), minval=-1, maxval=1)
    factors = jnp.maximum(1 + uniform * jnp.asarray([spread]), 0)
    turn = jax.random.uniform(turn_key, (n,), minval=-hue, maxval=hue)
    order = jnp.argsort(jax.random.uniform(order_key, (n, 3)), axis=1)
    hue_slot = jax.random.randint(slot_key, (n,), 0, 4)
    return color_jitter(x, factors, turn, order, hue_slot)
