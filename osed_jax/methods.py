"""The methods: what each is called, what it shows, and the fields of `oversampling` it sets."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A method, as the part after the colon of `--config` names it.

    Attributes:
      title: what tables and figures call it.
      about: what its epochs show.
      sets: fields of `oversampling` that make it what it is.
      prefers: fields of `oversampling` that it sets too, unless a person gives them.
      deferred: whether its first epochs are those of ERM, until `start_epoch`; None where
        `start_epoch` may say either.
    """

    title: str
    about: str
    sets: Mapping[str, Any]
    prefers: Mapping[str, Any] = {}
    deferred: bool | None = True


# Fields that serve replacing alone, where nothing is replaced.
_SHOWS_NO_GENERATED: dict[str, Any] = {"noise_share": 0.0, "generated_classes": (), "max_gap": 0.0}
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
    # What people who train on generated images do (Fill-Up, SYNAuG, DiffuLT).
    "fill": Method(
        "filled up",
        "class-balanced draws from the start, some draws of rare classes replaced by generated "
        "images, in the batch norm of the real ones",
        {"mode": "generated", "start_epoch": 0},
        {"generated_norm": "shared"},
        deferred=False,
    ),
}


def method_of(oversampling: Mapping[str, Any]) -> str:
    """The method that a section `oversampling` describes: the first whose mode and start fit."""
    mode, deferred = oversampling["mode"], oversampling["start_epoch"] > 0
    fits = [name for name, method in METHODS.items() if method.sets["mode"] == mode]
    return next((n for n in fits if METHODS[n].deferred in (deferred, None)), fits[-1])
