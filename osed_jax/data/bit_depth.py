"""Images with more than 8 bits per value: finds the white value and scales to 0 ... 255."""

import math

import numpy as np
from PIL import Image

from osed_jax.errors import UserError

_OVERSHOOT = 1.05  # for floating-point images: resizing may leave their range by a little
_FIX = "save it with 8 bits per value, scaled like all the others"


def is_deep(image: Image.Image) -> bool:
    """Whether an image holds grey values of 16 or 32 bits, or floating-point numbers."""
    return image.mode[0] in "IF"


def to_8_bit(image: Image.Image, white: float) -> tuple[Image.Image, float]:
    """A deep image as 8-bit grey, and the value that was taken as white.

    Args:
      image: see `is_deep`.
      white: that value; 0: `white_of` its values.

    Raises:
      UserError: for negative values or such that are no numbers.
    """
    values = np.asarray(image)
    white = white or white_of(values)
    return Image.fromarray(scale(values, white)), white


def white_of(values: np.ndarray) -> float:
    """The upper end of the smallest full range, 0 ... 2^k - 1 (below 1: 2^-k), with all values.

    Raises:
      UserError: for negative values or such that are no numbers.
    """
    low, high = float(values.min()), float(values.max())
    fraction = np.issubdtype(values.dtype, np.floating)
    slack = _OVERSHOOT - 1 if fraction else 0.0
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"some of its values are not finite numbers; {_FIX}")
    if low < -slack * high:
        raise UserError(
            f"its values go from {low:,.6g} to {high:,.6g}, so it is not clear which value is "
            f"black; {_FIX}"
        )
    high /= 1 + slack
    if high <= 0:
        return 1.0
    if high <= 1:
        return 2.0 ** math.ceil(math.log2(high))
    return 2.0 ** math.ceil(high).bit_length() - 1


def scale(values: np.ndarray, white: float) -> np.ndarray:
    """Values 0 ... white as uint8 0 ... 255; values outside are clipped."""
    return np.rint(np.clip(values * (255 / white), 0, 255)).astype(np.uint8)


def check_colour_depth(image: Image.Image) -> None:
    """Refuses 16-bit colours whose upper 8 bits, which Pillow keeps, hold little.

    Raises:
      UserError: if the values leave the upper two bits unused, so that most is lost.
    """
    if not any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return
    ranges = np.atleast_2d(image.getextrema())
    high = max(most for (_, most), band in zip(ranges, image.getbands()) if band != "A")
    if 0 < high < 64:
        raise UserError(
            f"only the lower {8 + int(high).bit_length()} of the 16 bits of its colours are "
            f"used, but only the upper 8 are read; {_FIX}"
        )
