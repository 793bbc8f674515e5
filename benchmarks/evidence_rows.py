"""The rows of the pages on results: name, question and config of each."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from osed_jax.commands.sweep import is_deferred
from osed_jax.config.build import check_fields, plain
from osed_jax.config.methods import METHODS, set_others
from osed_jax.experiment import loading
from osed_jax.experiment.loading import Config
from osed_jax.kinds import NORMS


class Row(NamedTuple):
    """A method, its name for readers, and the fields that differ from the config.

    Attributes:
      fields: of `oversampling`.
      others: of other sections, such as `loss`.
      real_last: in the last 15 % of the epochs only real images are shown.
      filtered: only generated images that the ERM net of the seed accepts are shown.
      images: only the first so many generated images of each class are shown; 0: all.
    """

    method: str
    title: str
    fields: Mapping[str, Any] = {}
    others: Mapping[str, Mapping[str, Any]] = {}
    real_last: bool = False
    filtered: bool = False
    images: int = 0


# Of filtered rows, beside those that are on by default: constant images, duplicates.
_FILTERS = {"classifier_top_k": 5, "max_feature_distance": 1.4}


def _osed(norm: str, delta: float, **more: Any) -> dict[str, Any]:
    return {"generated_norm": norm, "replace_ratio": delta, **more}


# All classes but airplane, which shows no generated image, and frog and ship, whose images are the
# farthest from real ones (results/tenth/gap.json: 8.5 and 6.4; the others 2.0 to 5.2).
_NEAR = ("automobile", "bird", "cat", "deer", "dog", "horse", "truck")
DELTAS = {"third": 1 / 3, "two_thirds": 2 / 3, "one": 1.0}
WRITTEN = {"third": "1/3", "two_thirds": "2/3", "one": "1"}
# Deferral, and what lifts generated images, are asked of the norm and delta that were best on the
# validation images of seeds 0 and 1.
_LIFTED_NORM, _LIFTED_DELTA = "dar", "third"
LIFTED_ROW = f"osed_{_LIFTED_NORM}_{_LIFTED_DELTA}"
_LIFTED = {"norm": _LIFTED_NORM, "delta": DELTAS[_LIFTED_DELTA]}
# Noise-like dar is left out: it lets no gradient of a generated image below the last layer.
_FILL_NORMS = tuple(norm for norm in NORMS if norm != "dar")
# Losses and mixing were asked of fill at its default of the day; its levers are asked of the norm
# and delta that were best on the validation images of three seeds.
_FILL_THIRD = _osed("shared", 1 / 3)
_FILL = _osed("shared", 2 / 3)

ROWS = {
    "erm": Row("erm", "ERM"),
    "ros": Row("ros", "resampling from epoch 0"),
    "drs": Row("drs", "deferred resampling (DRS)"),
    "open": Row("open", "OPeN, DAR-BN"),
    "open_aux": Row("open", "OPeN, auxiliary BN", {"noise_norm": "aux"}),
    "open_shared": Row("open", "OPeN, standard BN", {"noise_norm": "shared"}),
    **{
        f"osed_{norm}_{name}": Row("osed", f"OSeD, {norm}, δ = {WRITTEN[name]}", _osed(norm, delta))
        for name, delta in DELTAS.items()
        for norm in NORMS
    },
    "osed_from_0": Row("osed", "OSeD from epoch 0", _osed(**_LIFTED, start_epoch=0)),
    "osed_real_last": Row(
        "osed",
        "OSeD, real images alone in the last 15 % of the epochs",
        _osed(**_LIFTED),
        real_last=True,
    ),
    # At imbalance ratio 100 the tail's formula replaces 0.752 * delta of a balanced batch.
    "osed_all_classes": Row(
        "osed",
        "OSeD, as many images but in all classes",
        _osed(_LIFTED_NORM, 0.75 * DELTAS[_LIFTED_DELTA], replace_in="all"),
    ),
    "osed_filtered": Row(
        "osed", "OSeD, images filtered by the ERM net", _osed(**_LIFTED), filtered=True
    ),
    "osed_half_noise": Row(
        "osed", "OSeD, half of it noise (DAR-BN)", _osed(**_LIFTED, noise_share=0.5)
    ),
    "osed_balanced_softmax": Row(
        "osed",
        "OSeD, balanced softmax in all epochs",
        _osed(**_LIFTED),
        {"loss": {"name": "balanced_softmax"}},
    ),
    # The same two where generated images teach all layers and cost most of what they can cost.
    "osed_shared_one_real_last": Row(
        "osed",
        "OSeD, shared, δ = 1, real images alone in the last 15 % of the epochs",
        _osed("shared", 1.0),
        real_last=True,
    ),
    "osed_shared_one_filtered": Row(
        "osed",
        "OSeD, shared, δ = 1, images filtered by the ERM net",
        _osed("shared", 1.0),
        filtered=True,
    ),
    # From epoch 0.
    "open_from_0": Row("open", "noise from epoch 0, DAR-BN", {"start_epoch": 0}),
    **{
        f"fill_{norm}_{name}": Row("fill", f"fill, {norm}, δ = {WRITTEN[name]}", _osed(norm, delta))
        for name, delta in DELTAS.items()
        for norm in _FILL_NORMS
    },
    "fill_weight": Row(
        "fill",
        "fill, shared, δ = 2/3, generated rows weigh half",
        _FILL,
        {"loss": {"generated_weight": 0.5}},
    ),
    "fill_falling": Row(
        "fill",
        "fill, shared, δ from 1 to 0",
        _osed("shared", 1.0) | {"replace_schedule": "linear"},
    ),
    "fill_real_last": Row(
        "fill",
        "fill, shared, δ = 2/3, real images alone in the last 15 % of the epochs",
        _FILL,
        real_last=True,
    ),
    "fill_head": Row(
        "fill", "fill, shared, δ = 2/3, then the head anew", _FILL, {"train": {"head_epochs": 10}}
    ),
    "fill_near": Row(
        "fill",
        "fill, shared, δ = 2/3, in the classes whose images are near real ones",
        _FILL | {"generated_classes": [*_NEAR]},
    ),
    "fill_filtered": Row(
        "fill", "fill, shared, δ = 2/3, images filtered by the ERM net", _FILL, filtered=True
    ),
    **{
        f"fill_{number}_images": Row(
            "fill", f"fill, shared, δ = 2/3, {number} images of a class", _FILL, images=number
        )
        for number in (500, 100, 20)
    },
    # Baselines of long-tailed papers, alone and with generated images.
    "la": Row("la", "logit adjustment"),
    "ldam_drw": Row("ldam_drw", "LDAM-DRW"),
    "mixup_drw": Row("mixup_drw", "mixup-DRW"),
    "fill_la": Row(
        "fill",
        "fill, shared, δ = 1/3, logit adjustment",
        _FILL_THIRD,
        {"loss": {"name": "logit_adjustment"}},
    ),
    # The draws are class-balanced, so the classes have no weights.
    "fill_ldam": Row(
        "fill",
        "fill, shared, δ = 1/3, LDAM",
        _FILL_THIRD,
        {"loss": {"name": "ldam"}, "model": {"cosine_scale": 30.0}},
    ),
    "fill_mixup": Row(
        "fill", "fill, shared, δ = 1/3, mixup", _FILL_THIRD, {"augment": {"mix": "mixup"}}
    ),
}
# What rows vary: it is the same for all others, whatever the config or the defaults of the day say.
_OF_ALL_ROWS = {
    "replace_ratio": 1 / 3,
    "noise_norm": "dar",
    "noise_share": 0.0,
    "generated_norm": "shared",
    "replace_in": "tail",
    "replace_schedule": "constant",
    "real_only_epochs": 0,
}

# Fields in which rows may differ: sections, or fields of them.
VARIED = ("oversampling.", "loss.", "augment.mix:", "model.cosine_scale:", "train.head_epochs:")

FIGURE = (
    "erm",
    "ros",
    "drs",
    "la",
    "open",
    LIFTED_ROW,
    "fill_shared_third",
    "fill_shared_two_thirds",
)

BY_CLASS = "2 OSeD against the others"
FROM_THE_START = "7 Images from the start"
# Of nets for which resampling from epoch 0 did not run, and so question 7 has no answer.
WITH_NOISE = "11 Images from the start and OPeN"
WITH_LOSS = "9 Logit adjustment"
# The first row of a question is what the others are compared with.
QUESTIONS = {
    "1 Reproduction": ("erm", "ros", "drs", "open", "open_aux", "open_shared"),
    BY_CLASS: (
        "drs",
        "erm",
        "open",
        LIFTED_ROW,
        *(f"osed_shared_{name}" for name in DELTAS),
    ),
    "3 The norm": ("drs", *(f"osed_{norm}_{name}" for name in DELTAS for norm in NORMS)),
    "4 Deferral": ("osed_from_0", LIFTED_ROW, "ros", "drs"),
    "5 Lifts": (
        LIFTED_ROW,
        "osed_real_last",
        "osed_all_classes",
        "osed_filtered",
        "osed_half_noise",
        "osed_balanced_softmax",
    ),
    "5 Lifts of shared": (
        "osed_shared_one",
        "osed_shared_one_real_last",
        "osed_shared_one_filtered",
    ),
    FROM_THE_START: (
        "ros",
        "erm",
        "drs",
        "open",
        "open_from_0",
        *(f"fill_shared_{name}" for name in DELTAS),
    ),
    WITH_NOISE: ("open", "erm", "drs", LIFTED_ROW, *(f"fill_shared_{name}" for name in DELTAS)),
    "8 Levers of fill": (
        "fill_shared_two_thirds",
        "fill_weight",
        "fill_falling",
        "fill_real_last",
        "fill_head",
        "fill_near",
        "fill_filtered",
    ),
    WITH_LOSS: (
        "la",
        "erm",
        "ros",
        "drs",
        "open",
        "osed_dar_third",
        *(f"fill_shared_{name}" for name in DELTAS),
    ),
    "9 Losses and mixing": ("erm", "la", "ldam_drw", "mixup_drw", "fill_shared_third"),
    "9 Losses and mixing with fill": ("fill_shared_third", "fill_la", "fill_ldam", "fill_mixup"),
    "10 Norm of fill": (
        "fill_shared_two_thirds",
        "fill_shared_third",
        "fill_shared_one",
        *(f"fill_{norm}_{name}" for name in DELTAS for norm in _FILL_NORMS[1:]),
    ),
    "12 Number of generated images": (
        "fill_shared_two_thirds",
        *(f"fill_{number}_images" for number in (500, 100, 20)),
    ),
}


def config_of(config: Config, name: str, seed: int, folder: Path) -> Config:
    """The setting's config with what makes the row."""
    row, run = ROWS[name], copy.deepcopy(config)
    run["seed"] = seed
    run["oversampling"] |= {**_OF_ALL_ROWS, **plain(METHODS[row.method].sets), **row.fields}
    if row.real_last:
        run["oversampling"]["real_only_epochs"] = run["train"]["num_epochs"] * 3 // 20
    if row.images:
        run["oversampling"]["generated_dir"] = str(first_images_of(run, row.images, folder))
    if row.filtered:
        selected = folder / f"{loading.generated_dir(run).name}.filtered"
        judge = {"classifier_workdir": str(run_directory(folder, "erm", seed))}
        run["generation"] |= {**_FILTERS, **judge, "filtered_dir": str(selected)}
    else:
        run["generation"]["filtered_dir"] = ""
    if run["oversampling"]["mode"] != "generated":
        run["oversampling"]["generated_dir"] = ""  # given for the rows that show them
    set_others(run, row.method)
    for section, fields in row.others.items():
        run[section] |= fields
    # Another loss makes other epochs before the deferral than ERM has.
    forked = is_deferred(run, row.method) and run["loss"] == config["loss"]
    run["init"]["fork_from"] = str(run_directory(folder, "erm", seed)) if forked else ""
    check_fields(run)
    return run


def first_images_of(config: Config, number: int, folder: Path) -> Path:
    """The store with the first generated images of each class, in the folder of all runs."""
    return folder / f"{loading.generated_dir(config).name}.first_{number}"


def on_selected(run: Config) -> Config:
    """The same run, on what its filters keep."""
    selected = {"generated_dir": run["generation"]["filtered_dir"]}
    return {**run, "oversampling": {**run["oversampling"], **selected}}


def run_directory(folder: Path, name: str, seed: int) -> Path:
    """The work directory of a row's run, of which `folder` holds all."""
    return folder / f"{name}.seed_{seed}"
