"""The methods: the title of each, what its epochs show, and the fields that it sets."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A method, as the part after the colon of `--config` names it.

    Attributes:
      title: its name in tables and figures.
      about: what its epochs show.
      sets: fields of `oversampling` that define it.
      prefers: further fields of `oversampling` that it sets, unless they are given.
      deferred: whether its epochs before `start_epoch` are those of ERM; None if `start_epoch`
        may be 0 or not.
      others: fields that it sets in other sections, `SECTION.FIELD` -> value.
    """

    title: str
    about: str
    sets: Mapping[str, Any]
    prefers: Mapping[str, Any] = {}
    deferred: bool | None = True
    others: Mapping[str, Any] = {}


# Values, if nothing is replaced, of fields that are about replacing.
_SHOWS_NO_GENERATED: dict[str, Any] = {
    "noise_share": 0.0,
    "generated_classes": (),
    "max_gap": 0.0,
    "soft_label_exponent": 0.5,
}
_REPLACES_NOTHING = {
    **_SHOWS_NO_GENERATED,
    "replace_in": "tail",
    "replace_schedule": "constant",
    "real_only_epochs": 0,
}

# In the order of tables and figures.
METHODS = {
    "erm": Method(
        "ERM",
        "every training image once",
        {"mode": "none", **_REPLACES_NOTHING},
        deferred=False,
    ),
    "ros": Method(
        "resampling from epoch 0",
        "class-balanced draws, from the start",
        {"mode": "resample", "start_epoch": 0, **_REPLACES_NOTHING},
        deferred=False,
    ),
    "drs": Method(
        "deferred resampling",
        "ERM at first, class-balanced draws from `start_epoch` on",
        {"mode": "resample", **_REPLACES_NOTHING},
    ),
    "open": Method(
        "OPeN",
        "the same, some draws of rare classes replaced by noise",
        {"mode": "noise", **_SHOWS_NO_GENERATED},
        deferred=None,
    ),
    "osed": Method(
        "OSeD",
        "the same, some draws of rare classes replaced by generated images",
        {"mode": "generated"},
    ),
    # As in papers that train on generated images (Fill-Up, SYNAuG, DiffuLT).
    "fill": Method(
        "filled up",
        "class-balanced draws from the start, some draws of rare classes replaced by generated "
        "images, in the batch norm of the real ones",
        {"mode": "generated", "start_epoch": 0},
        # The share that validation images chose (docs/results_few_images.md, question 7).
        {"generated_norm": "shared", "replace_ratio": 2 / 3},
        deferred=False,
    ),
    # Baselines of long-tailed papers, without resampling.
    "la": Method(
        "logit adjustment",
        "every training image once; the log of the class counts joins the logits",
        {"mode": "none", **_REPLACES_NOTHING},
        deferred=False,
        others={"loss.name": "logit_adjustment"},
    ),
    "ldam_drw": Method(
        "LDAM-DRW",
        "every training image once; a margin for each class, weights of the classes at the end",
        {"mode": "none", **_REPLACES_NOTHING},
        deferred=False,
        others={
            "loss.name": "ldam",
            "loss.class_weights": "deferred",
            "model.cosine_scale": 30.0,
        },
    ),
    "mixup_drw": Method(
        "mixup-DRW",
        "every training image once, mixed with another; weights of the classes at the end",
        {"mode": "none", **_REPLACES_NOTHING},
        deferred=False,
        others={"augment.mix": "mixup", "loss.class_weights": "deferred"},
    ),
}


def set_others(config: Any, method: str) -> None:
    """Changes the config: the fields that a method sets outside of `oversampling`."""
    for name, value in METHODS[method].others.items():
        section, field = name.split(".")
        config[section][field] = value


def method_of(config: Mapping[str, Any]) -> str:
    """The method that a plain config describes.

    A method with `others` matches if its mode and these fields match. Else it is the first method
    without `others` whose mode and `deferred` match.
    """
    over = config["oversampling"]
    fits = [name for name, method in METHODS.items() if method.sets["mode"] == over["mode"]]
    for name in fits:
        others = {tuple(field.split(".")): v for field, v in METHODS[name].others.items()}
        if others and all(config[s][field] == v for (s, field), v in others.items()):
            return name
    plain = [name for name in fits if not METHODS[name].others]
    deferred = (over["start_epoch"] > 0, None)
    return next((n for n in plain if METHODS[n].deferred in deferred), plain[-1])
