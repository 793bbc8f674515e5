"""Generated images of a batch, as a generator hands them to the store."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Samples(NamedTuple):
    """Generated images, as arrays of NumPy or JAX.

    Attributes:
      image: uint8 [N, H, W, 3], of the training images' size.
      full_size: uint8 [N, H', W', 3], as the model drew them, where asked for.
      safety_margin: float32 [N], above 0 where the safety checker flags an image; None without one.
    """

    image: Any
    full_size: Any = None
    safety_margin: Any = None


class Start(NamedTuple):
    """What a batch starts from.

    Attributes:
      image: real images, uint8 [N, H, H, 3].
      strength: N shares of the denoising steps, in (0, 1]; 1 keeps hardly anything of the image.
    """

    image: np.ndarray
    strength: Sequence[float]
