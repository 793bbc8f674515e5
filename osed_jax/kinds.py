"""What a row of a batch is, and which batch norm its kind may go through."""

import enum


class Kind(enum.IntEnum):
    """What a row of a batch is. Batch norm, augmentation and loss look at nothing else."""

    NATURAL = 0
    GENERATED = 1
    NOISE = 2
    PADDING = 3  # fills up the last batch; has no part in loss, statistics or metrics


# What tables and figures call the kinds that a person sees.
KIND_NAMES = {Kind.NATURAL: "natural", Kind.GENERATED: "generated", Kind.NOISE: "noise"}

# Batch norm of rows that are not natural (`noise_norm`, `generated_norm`); models/batch_norm.py.
NORMS = ("shared", "dar", "dar_grad", "aux")
