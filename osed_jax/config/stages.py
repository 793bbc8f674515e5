"""A run as a list of stages. All epochs of a stage draw images and train in the same way."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Fields of `oversampling` that say what is replaced and how such rows are treated.
_OF_REPLACING = (
    "mode",
    "replace_ratio",
    "replace_schedule",
    "replace_in",
    "generated_classes",
    "max_gap",
    "soft_label_exponent",
    "noise_share",
    "noise_space",
    "noise_norm",
    "generated_norm",
    "generated_dir",
)


class Stage(NamedTuple):
    """Epochs from `first` to `end`, the latter not included.

    Attributes:
      first: its first epoch, counted from 0.
      end: the epoch after its last.
      balanced: whether images are drawn class-balanced; else each is shown once an epoch.
      routed: whether the net has the norms of noise and generated rows.
      replaces: the settings of replacing draws; empty if none is replaced.
      head_only: whether only the last layer is trained, again from random weights.
    """

    first: int
    end: int
    balanced: bool = False
    routed: bool = False
    replaces: tuple[tuple[str, Any], ...] = ()
    head_only: bool = False


def stages(config: Mapping[str, Any]) -> list[Stage]:
    """The stages of a run, in their order: plain ERM, the method, real images only, the head.

    Stages without epochs are left out.
    """
    over, train = config["oversampling"], config["train"]
    end = train["num_epochs"]
    start = end if over["mode"] == "none" else over["start_epoch"]
    routed = over["mode"] in ("noise", "generated")
    real_only_from = end - over["real_only_epochs"] if routed else end
    found = [
        Stage(0, start),
        Stage(start, real_only_from, True, routed, _replaces(config) if routed else ()),
        Stage(real_only_from, end, True, routed),
        Stage(end, end + train["head_epochs"], True, routed, head_only=True),
    ]
    return [stage for stage in found if stage.first < stage.end]


def num_epochs(config: Mapping[str, Any]) -> int:
    """Epochs of all stages together."""
    return stages(config)[-1].end


def stage_of(found: Sequence[Stage], epoch: int) -> Stage:
    """The stage that an epoch belongs to."""
    return next(stage for stage in found if epoch < stage.end)


def replaced_share(stage: Stage, epoch: int) -> float:
    """The paper's delta in an epoch of a stage; 0 if nothing is replaced.

    With `replace_schedule` linear it falls from replace_ratio in the first epoch towards 0 at the
    end, from diverse to real images (Liang et al., "Diffusion Curriculum", 2024, whose images
    themselves become more real).
    """
    settings = dict(stage.replaces)
    ratio: float = settings.get("replace_ratio", 0.0)
    if settings.get("replace_schedule") == "linear":
        ratio *= 1 - (epoch - stage.first) / (stage.end - stage.first)
    return ratio


def common_epochs(one: Sequence[Stage], other: Sequence[Stage]) -> int:
    """Number of first epochs that two runs train in the same way."""
    common = 0
    for a, b in zip(one, other):
        falls = dict(a.replaces).get("replace_schedule") == "linear"
        if a[2:] != b[2:] or (falls and a.end != b.end):
            break
        common = min(a.end, b.end)
        if a.end != b.end:
            break
    return common


def _replaces(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    over = config["oversampling"]
    weight = ("generated_weight", config["loss"]["generated_weight"])
    return (*((name, over[name]) for name in _OF_REPLACING), weight)
