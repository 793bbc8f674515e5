"""A run as a list of stages. All epochs of a stage draw images and train in the same way."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from osed_jax.config.field import NUMBERS
from osed_jax.config.fields_of_data import Oversampling
from osed_jax.config.schema import FIELDS, OF_A_RUN, Config, get


class Replacing(NamedTuple):
    """How draws are replaced.

    Attributes:
      settings: the section `oversampling`, without what the stages themselves say.
      generated_weight: of generated rows in the loss.
    """

    settings: Oversampling
    generated_weight: float


class Stage(NamedTuple):
    """Epochs from `first` to `end`, the latter not included.

    Attributes:
      first: its first epoch, counted from 0.
      end: the epoch after its last.
      balanced: whether images are drawn class-balanced; else each is shown once an epoch.
      routed: whether the net has the norms of noise and generated rows.
      replacing: how draws are replaced; None if none is.
      weighted: whether deferred weights of the classes hold.
      head_only: whether only the last layer is trained, again from random weights.
    """

    first: int
    end: int
    balanced: bool = False
    routed: bool = False
    replacing: Replacing | None = None
    weighted: bool = False
    head_only: bool = False


def stages(config: Config) -> list[Stage]:
    """The stages of a run, in their order: plain ERM, the method, real images only, the head.

    Stages without epochs are left out. Deferred weights of the classes begin where the method
    would, also if there is none.
    """
    over, end = config.oversampling, config.train.num_epochs
    head_end = end + config.train.head_epochs
    weighted, start = config.loss.class_weights == "deferred", min(over.start_epoch, end)
    if over.mode == "none":
        in_order = [
            Stage(0, start if weighted else end),
            Stage(start, end if weighted else start, weighted=True),
            Stage(end, head_end, True, weighted=weighted, head_only=True),
        ]
        return [stage for stage in in_order if stage.first < stage.end]
    routed = over.mode in ("noise", "generated")
    real_only_from = end - over.real_only_epochs if routed else end
    replacing = Replacing(
        dataclasses.replace(over, start_epoch=0, real_only_epochs=0), config.loss.generated_weight
    )
    in_order = [
        Stage(0, start),
        Stage(start, real_only_from, True, routed, replacing if routed else None, weighted),
        Stage(real_only_from, end, True, routed, None, weighted),
        Stage(end, head_end, True, routed, None, weighted, head_only=True),
    ]
    return [stage for stage in in_order if stage.first < stage.end]


def num_epochs(config: Config) -> int:
    """Epochs of all stages together."""
    return stages(config)[-1].end


def stage_of(in_order: Sequence[Stage], epoch: int) -> Stage:
    """The stage that an epoch belongs to."""
    return next(stage for stage in in_order if epoch < stage.end)


def replaced_share(stage: Stage, epoch: int) -> float:
    """The paper's delta in an epoch of a stage; 0 if nothing is replaced.

    With `replace_schedule` linear it falls from replace_ratio in the first epoch towards 0 at the
    end, from diverse to real images (Liang et al., "Diffusion Curriculum", 2024, whose images
    themselves become more real).
    """
    if stage.replacing is None:
        return 0.0
    settings = stage.replacing.settings
    if settings.replace_schedule == "linear":
        share = 1 - (epoch - stage.first) / (stage.end - stage.first)
        return settings.replace_ratio * share
    return settings.replace_ratio


def common_epochs(one: Sequence[Stage], other: Sequence[Stage]) -> int:
    """Number of first epochs that two runs train in the same way."""
    common = 0
    for a, b in zip(one, other):
        falls = a.replacing is not None and a.replacing.settings.replace_schedule == "linear"
        if a[2:] != b[2:] or (falls and a.end != b.end):
            break
        common = min(a.end, b.end)
        if a.end != b.end:
            break
    return common


def differing(one: Config, other: Config) -> list[str]:
    """Fields in which two runs differ from their first epoch on, in words.

    What acts in some stages only is compared by `common_epochs`.
    """
    return [
        f"{name}: {get(one, name)!r} -> {get(other, name)!r}"
        for name, field in FIELDS.items()
        if name.partition(".")[0] in OF_A_RUN
        and field.matters_for in NUMBERS
        and not field.by_stage
        and get(one, name) != get(other, name)
    ]


def common_start(one: Config, other: Config) -> int:
    """Number of first epochs that two runs train alike; 0 if `other` has none after them."""
    common = 0 if differing(one, other) else common_epochs(stages(one), stages(other))
    return common if common < num_epochs(other) else 0
