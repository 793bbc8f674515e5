"""The candidates of --mode=tune: settings of the methods, the simplest first."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Candidate(NamedTuple):
    """A setting.

    Attributes:
      method: one of `methods.METHODS`.
      about: what it does, for the page.
      sets: further fields, `section.name` -> value, besides those of the method; a value may be a
        function of the number of epochs.
    """

    method: str
    about: str
    sets: Mapping[str, Any | Callable[[int], Any]] = {}


_THIRD = {"oversampling.replace_ratio": 1 / 3}
_WHOLE = {"oversampling.replace_ratio": 1.0}
_SHOWN_NEAR = {**_THIRD, "oversampling.max_gap": 1.0}

# The simplest first: tune takes the first one of those that are equally good.
CANDIDATES = {
    "erm": Candidate("erm", "every training image once"),
    "ros": Candidate("ros", "resampling: class-balanced draws from the start"),
    "drs": Candidate("drs", "deferred resampling: class-balanced draws at the end"),
    "noise": Candidate(
        "open", "resampling with noise from the start", {"oversampling.start_epoch": 0}
    ),
    "open": Candidate("open", "OPeN: deferred resampling with noise"),
    "la": Candidate("la", "logit adjustment: the log of the class counts joins the logits"),
    "ldam_drw": Candidate("ldam_drw", "margins and, at the end, weights of the classes"),
    "mixup_drw": Candidate("mixup_drw", "mixed images and, at the end, weights of the classes"),
    "fill_third": Candidate("fill", "generated images from the start, replace_ratio 1/3", _THIRD),
    "fill_two_thirds": Candidate(
        "fill", "the same, replace_ratio 2/3", {"oversampling.replace_ratio": 2 / 3}
    ),
    "fill": Candidate("fill", "the same, replace_ratio 1: every class filled up", _WHOLE),
    "osed": Candidate("osed", "OSeD: deferred resampling with generated images", _THIRD),
    "fill_dar_grad": Candidate(
        "fill",
        "replace_ratio 1/3, generated images with batch statistics of their own",
        {**_THIRD, "oversampling.generated_norm": "dar_grad"},
    ),
    "fill_aux": Candidate(
        "fill",
        "replace_ratio 1/3, generated images with a batch norm of their own",
        {**_THIRD, "oversampling.generated_norm": "aux"},
    ),
    "fill_half_weight": Candidate(
        "fill",
        "every class filled up, generated images with weight 1/2 in the loss",
        {**_WHOLE, "loss.generated_weight": 0.5},
    ),
    "fill_falling": Candidate(
        "fill",
        "every class filled up at first, no generated images at the end",
        {**_WHOLE, "oversampling.replace_schedule": "linear"},
    ),
    "fill_head": Candidate(
        "fill",
        "replace_ratio 1/3, then the last layer trained anew on real images",
        {**_THIRD, "train.head_epochs": lambda epochs: max(epochs // 10, 1)},
    ),
    "fill_near": Candidate(
        "fill",
        "replace_ratio 1/3, in the half of the classes whose generated images are the nearest",
        _SHOWN_NEAR,
    ),
}
