"""Augmentations for tests: nothing is done but what a test asks for."""

from osed_jax.batches.augment import Augmentation

_NOTHING = {
    "flip": False,
    "crop_padding": 0,
    "cutout": 0,
    "color_jitter": (0.0, 0.0, 0.0, 0.0),
    "color_jitter_prob": 0.0,
    "grayscale_prob": 0.0,
    "blur_prob": 0.0,
}


def only(**settings) -> Augmentation:
    """The given operations, and no other."""
    return Augmentation(**{**_NOTHING, **settings})
