"""AutoAugment's CIFAR-10 policy and RandAugment, as torchvision applies them, on whole batches.

Images are int32 [N, H, W, 3] with the levels 0 ... 255, and every operation computes with levels,
as Pillow does. Operations of one kind are one computation, with other parameters for each image.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
_TABLES = ("Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")
OPERATIONS = (*_GEOMETRIC, *_BLENDS, *_TABLES, "Identity")
# The operations of RandAugment (Cubuk et al. 2020), drawn with equal probability.
RANDAUGMENT = tuple(name for name in OPERATIONS if name != "Invert")
RANDAUGMENT_LEVELS, AUTOAUGMENT_LEVELS = 31, 10

# Cubuk et al. 2019, table 7: pairs of operations, each with probability and level.
AUTOAUGMENT_CIFAR10 = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


def autoaugment(x: jax.Array, key: jax.Array) -> jax.Array:
    """One pair of operations for each image; all pairs of the policy have equal probability."""
    pairs = np.asarray(
        [[(OPERATIONS.index(o), p, level) for o, p, level in pair] for pair in AUTOAUGMENT_CIFAR10]
    )
    drawn = jnp.asarray(pairs)[jax.random.randint(key, (len(x),), 0, len(pairs))]
    for slot in range(2):
        operation, prob, level = jnp.moveaxis(drawn[:, slot], 1, 0)
        chosen, sign = _draw(jax.random.fold_in(key, slot), prob)
        operation = jnp.where(chosen, operation.astype(jnp.int32), OPERATIONS.index("Identity"))
        x = operate(x, operation, level.astype(jnp.int32), sign, AUTOAUGMENT_LEVELS)
    return x


def randaugment(x: jax.Array, key: jax.Array, count: int, level: int) -> jax.Array:
    """A number of operations on each image, one after the other, all of one level (0 ... 30)."""
    among = jnp.asarray([OPERATIONS.index(name) for name in RANDAUGMENT])
    n = len(x)
    for slot in range(count):
        draw = jax.random.fold_in(key, slot)
        operation = among[jax.random.randint(draw, (n,), 0, len(among))]
        _, sign = _draw(draw, jnp.ones(n))
        x = operate(x, operation, jnp.full(n, level), sign, RANDAUGMENT_LEVELS)
    return x


def operate(
    x: jax.Array, operation: jax.Array, level: jax.Array, sign: jax.Array, num_levels: int
) -> jax.Array:
    """One operation on each image.

    Args:
      x: int32 [N, H, W, 3], 0 ... 255.
      operation: of each image, an index of `OPERATIONS`, [N].
      level: strength, int32 [N] in 0 ... num_levels - 1.
      sign: 0 reverses the direction of operations that have one, [N].
      num_levels: number of strengths, from none to the strongest.

    Returns:
      The same shape and dtype; pixels from outside the image are black.
    """
    height, width = x.shape[1:3]
    strength = _strengths(num_levels, height, width)
    value = jnp.asarray(strength, jnp.float32)[operation, level]
    moves = jnp.asarray(_moves(strength, height, width))
    is_move, is_blend, is_table = (
        _is_any(operation, names) for names in (_GEOMETRIC, _BLENDS, _TABLES)
    )
    move = moves[jnp.minimum(operation, len(_GEOMETRIC) - 1), level, sign]
    factor = 1 + jnp.where(sign == 0, -value, value)
    return jnp.select(
        [is_move, is_blend, is_table],
        [
            _moved(x, move),
            _blended(x, operation, factor),
            _looked_up(x, operation, value),
        ],
        x,
    )


def _draw(key: jax.Array, prob: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether each image is chosen, and its sign, 0 or 1; [N] both."""
    choose, direct = jax.random.split(key)
    chosen = jax.random.uniform(choose, prob.shape) < prob
    return chosen, jax.random.randint(direct, prob.shape, 0, 2)


def _is_any(operation: jax.Array, names: Sequence[str]) -> jax.Array:
    """Bool [N, 1, 1, 1]: whether the operation is one of these."""
    indices = jnp.asarray([OPERATIONS.index(name) for name in names])
    return (operation[:, None] == indices[None]).any(axis=1)[:, None, None, None]


def _strengths(num_levels: int, height: int, width: int) -> np.ndarray:
    """torchvision's magnitude of each operation at each level, float64 [operations, levels]."""
    part = np.linspace(0, 1, num_levels)
    of = dict.fromkeys(OPERATIONS, 0 * part)
    of |= {"ShearX": 0.3 * part, "ShearY": 0.3 * part, "Rotate": 30 * part}
    of |= {"TranslateX": np.trunc(150 / 331 * width * part)}
    of |= {"TranslateY": np.trunc(150 / 331 * height * part)}
    of |= dict.fromkeys(_BLENDS, 0.9 * part)
    of |= {"Posterize": 8 - np.round(4 * part), "Solarize": 255 * (1 - part)}
    return np.stack([of[name] for name in OPERATIONS])


def _moves(strength: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where pixels come from: int32 [geometric operations, levels, sign, 6], in 1/65536 pixels."""
    return np.asarray(
        [
            [
                [_fixed(affine(name, s * v, height, width)) for s in (-1, 1)]
                for v in strength[OPERATIONS.index(name)]
            ]
            for name in _GEOMETRIC
        ],
        np.int32,
    )


def affine(name: str, value: float, height: int, width: int) -> tuple[float, ...]:
    """(a, b, c, d, e, f): the pixel (x, y) comes from (ax + by + c, dx + ey + f), as in Pillow."""
    if name == "Rotate":  # about the middle, by degrees against the clock
        cos, sin = math.cos(math.radians(-value)), math.sin(math.radians(-value))
        x, y = width / 2, height / 2
        return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y
    return {
        "ShearX": (1.0, value, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, value, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, -value, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, -value),
    }[name]


def _fixed(affine: Sequence[float]) -> list[int]:
    """In Pillow's fixed point, from the middle of the first pixel on."""
    a, b, c, d, e, f = affine
    start = (a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2)
    return [math.floor(v * 65536 + 0.5) for v in start]


def _moved(x: jax.Array, move: jax.Array) -> jax.Array:
    """The nearest pixel of where each comes from; move int32 [N, 6]."""
    n, height, width, _ = x.shape
    column, row = jnp.arange(width)[None, None], jnp.arange(height)[None, :, None]
    a, b, c, d, e, f = (move[:, i, None, None] for i in range(6))
    from_x = (a * column + b * row + c) >> 16
    from_y = (d * column + e * row + f) >> 16
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    source = jnp.where(inside, from_y * width + from_x, 0).reshape(n, -1, 1)
    taken = jnp.take_along_axis(x.reshape(n, -1, 3), source, axis=1).reshape(x.shape)
    return jnp.where(inside[..., None], taken, 0)


def _blended(x: jax.Array, operation: jax.Array, factor: jax.Array) -> jax.Array:
    """Pillow's ImageEnhance: factor times the image, the rest black, grey, its mean or smooth."""
    luma = (x * jnp.asarray([[[[19595, 38470, 7471]]]])).sum(axis=-1, keepdims=True)
    luma = (luma + 0x8000) >> 16
    mean = jnp.floor(luma.mean(axis=(1, 2), keepdims=True) + 0.5).astype(jnp.int32)
    which = [_is_any(operation, [name]) for name in _BLENDS]
    other = jnp.select(which[:3], [jnp.zeros_like(luma), luma, mean], 0)
    other = jnp.where(which[3], _smooth(x), other)
    blend = other + factor[:, None, None, None] * (x - other)
    return jnp.clip(jnp.floor(blend), 0, 255).astype(jnp.int32)


def _smooth(x: jax.Array) -> jax.Array:
    """Pillow's filter SMOOTH: 3x3, the middle five times as heavy; borders stay."""
    height, width = x.shape[1:3]
    rows = (x[:, i : height - 2 + i] for i in range(3))
    total = sum(row[:, :, i : width - 2 + i] for row in rows for i in range(3))
    inner = (total + 4 * x[:, 1:-1, 1:-1] + 6) // 13
    return x.at[:, 1:-1, 1:-1].set(inner)


def _looked_up(x: jax.Array, operation: jax.Array, value: jax.Array) -> jax.Array:
    """Operations that give each level of a channel a new one, by tables int32 [N, 3, 256]."""
    n, height, width, _ = x.shape
    pixels = jnp.moveaxis(x, -1, 1).reshape(n, 3, -1)
    level = jnp.arange(256)[None, None]
    mask = 256 - jnp.left_shift(1, 8 - value.astype(jnp.int32))
    low, high = pixels.min(axis=2, keepdims=True), pixels.max(axis=2, keepdims=True)
    stretched = (level - low) * 255 // jnp.maximum(high - low, 1)
    table = jnp.select(
        [_is_any(operation, [name])[..., 0] for name in _TABLES],
        [
            jnp.broadcast_to(level & mask[:, None, None], (n, 3, 256)),
            jnp.broadcast_to(
                jnp.where(level < value[:, None, None], level, 255 - level), (n, 3, 256)
            ),
            jnp.where(high > low, jnp.clip(stretched, 0, 255), level),
            _equalizing(pixels),
            jnp.broadcast_to(255 - level, (n, 3, 256)),
        ],
        level,
    )
    new = jnp.take_along_axis(table, pixels, axis=2)
    return jnp.moveaxis(new.reshape(n, 3, height, width), 1, -1)


def _equalizing(pixels: jax.Array) -> jax.Array:
    """Pillow's table for pixels [N, 3, H W] that makes all levels about as frequent."""
    n, _, size = pixels.shape
    image, channel = jnp.arange(n)[:, None, None], jnp.arange(3)[None, :, None]
    count = jnp.zeros((n, 3, 256), jnp.int32).at[image, channel, pixels].add(1)
    highest = pixels.max(axis=2, keepdims=True)
    step = (size - jnp.take_along_axis(count, highest, axis=2)) // 255
    before = jnp.cumsum(count, axis=2) - count
    table = (step // 2 + before) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256)[None, None])
