"""The methods: title and meaning of each, and the fields that it sets. One table for everything."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# A value, or a function of the number of epochs.
Value = Any | Callable[[Any], Any]


class Method(NamedTuple):
    """A method, as the part after the colon of `--config` names it.

    Attributes:
      title: its name in tables and figures.
      about: what its epochs show, and how they are trained.
      sets: the fields that it sets, `SECTION.FIELD` -> value. A config file or the command line may
        set them otherwise.
      variant: whether it is another one with other settings, so that its runs bear that one's name.
    """

    title: str
    about: str
    sets: Mapping[str, Value]
    variant: bool = False


_MODE, _START = "oversampling.mode", "oversampling.start_epoch"
_RATIO, _NORM = "oversampling.replace_ratio", "oversampling.generated_norm"
_FILL: dict[str, Value] = {_MODE: "generated", _START: 0, _NORM: "shared"}
_DRW: dict[str, Value] = {_MODE: "none", "loss.class_weights": "deferred"}

# From the simplest on: --mode=tune takes the first one of those that are equally good, and tables
# and figures have this order.
METHODS = {
    "erm": Method("ERM", "every training image once an epoch", {_MODE: "none"}),
    "ros": Method(
        "resampling from epoch 0",
        "class-balanced draws from the start",
        {_MODE: "resample", _START: 0},
    ),
    "drs": Method(
        "deferred resampling",
        "ERM at first, class-balanced draws from start_epoch on",
        {_MODE: "resample"},
    ),
    "noise": Method(
        "resampling with noise",
        "class-balanced draws from the start, some of rare classes replaced by noise",
        {_MODE: "noise", _START: 0},
        variant=True,
    ),
    "open": Method(
        "OPeN",
        "deferred resampling, some draws of rare classes replaced by noise",
        {_MODE: "noise"},
    ),
    # Baselines of long-tailed papers, without resampling.
    "la": Method(
        "logit adjustment",
        "every training image once; the log of the class counts joins the logits",
        {_MODE: "none", "loss.name": "logit_adjustment"},
    ),
    "ldam_drw": Method(
        "LDAM-DRW",
        "every training image once; a margin for each class, weights of the classes at the end",
        {**_DRW, "loss.name": "ldam", "model.cosine_scale": 30.0},
    ),
    "mixup_drw": Method(
        "mixup-DRW",
        "every training image once, mixed with another; weights of the classes at the end",
        {**_DRW, "augment.mix": "mixup"},
    ),
    "fill_third": Method(
        "filled up, a third",
        "as fill, with replace_ratio 1/3",
        {**_FILL, _RATIO: 1 / 3},
        variant=True,
    ),
    # As in papers that train on generated images (Fill-Up, SYNAuG, DiffuLT). The share is what
    # validation images chose (results/few_images).
    "fill": Method(
        "filled up",
        "class-balanced draws from the start, some of rare classes replaced by generated images, "
        "which share the batch norm of real ones",
        {**_FILL, _RATIO: 2 / 3},
    ),
    "fill_whole": Method(
        "filled up, whole",
        "as fill, with replace_ratio 1: every class filled up",
        {**_FILL, _RATIO: 1.0},
        variant=True,
    ),
    "osed": Method(
        "OSeD",
        "deferred resampling, some draws of rare classes replaced by generated images",
        {_MODE: "generated"},
    ),
    "fill_dar_grad": Method(
        "filled up, own statistics",
        "as fill_third, generated images with batch statistics of their own",
        {**_FILL, _RATIO: 1 / 3, _NORM: "dar_grad"},
        variant=True,
    ),
    "fill_aux": Method(
        "filled up, own batch norm",
        "as fill_third, generated images with a batch norm of their own",
        {**_FILL, _RATIO: 1 / 3, _NORM: "aux"},
        variant=True,
    ),
    "fill_half_weight": Method(
        "filled up, half weight",
        "as fill_whole, generated images with weight 1/2 in the loss",
        {**_FILL, _RATIO: 1.0, "loss.generated_weight": 0.5},
        variant=True,
    ),
    "fill_falling": Method(
        "filled up, falling share",
        "as fill_whole at first, no generated images at the end",
        {**_FILL, _RATIO: 1.0, "oversampling.replace_schedule": "linear"},
        variant=True,
    ),
    "fill_head": Method(
        "filled up, new head",
        "as fill_third, then the last layer trained anew on real images",
        {**_FILL, _RATIO: 1 / 3, "train.head_epochs": lambda epochs: (epochs + 9) // 10},
        variant=True,
    ),
    "fill_near": Method(
        "filled up, near classes",
        "as fill_third, in the half of the classes whose generated images are the nearest",
        {**_FILL, _RATIO: 1 / 3, "oversampling.max_gap": 1.0},
        variant=True,
    ),
}
