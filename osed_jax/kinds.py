"""The kinds of rows in a batch, and the batch norms that they can use."""

import enum


class Kind(enum.IntEnum):
    """The kind of a row of a batch; batch norm, augmentation and loss depend on it alone.

    So no method has code of its own in the training step: a method is a plan with other kinds.
    """

    NATURAL = 0  # a training image
    GENERATED = 1  # a stored image that a generator made (OSeD)
    NOISE = 2  # pure noise, drawn on the device (OPeN); the image of its row is not shown
    PADDING = 3  # fills up the last batch; not used in loss, statistics or metrics


# Names of the kinds in tables and figures.
KIND_NAMES = {Kind.NATURAL: "natural", Kind.GENERATED: "generated", Kind.NOISE: "noise"}

# Batch norm of rows that are not natural (`noise_norm`, `generated_norm`); models/batch_norm.py.
NORMS = ("shared", "dar", "dar_grad", "aux")
