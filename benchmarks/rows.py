"""The rows of the tables of results/: name, title and config of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from osed_jax.config.build import checked, without_unused
from osed_jax.config.by_method import value_at
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import Config, with_values
from osed_jax.config.stages import common_start
from osed_jax.experiment import loading
from osed_jax.kinds import NORMS


class Row(NamedTuple):
    """A method, its name for readers, and the fields that differ from the config.

    Attributes:
      fields: by their full names.
      real_last: in the last 15 % of the epochs only real images are shown.
      filtered: only generated images that the ERM net of the seed accepts are shown.
      images: only the first so many generated images of each class are shown; 0: all.
    """

    method: str
    title: str
    fields: Mapping[str, Any] = {}
    real_last: bool = False
    filtered: bool = False
    images: int = 0


# Of filtered rows, beside those that are on by default: constant images, duplicates.
FILTERS = {"generation.classifier_top_k": 5, "generation.max_feature_distance": 1.4}


def _shows(norm: str, delta: float) -> dict[str, Any]:
    return {"oversampling.generated_norm": norm, "oversampling.replace_ratio": delta}


# All classes but airplane, which shows no generated image, and frog and ship, whose images are the
# farthest from real ones (results/few_images: 8.5 and 6.4; the others 2.0 to 5.2).
_NEAR = ("automobile", "bird", "cat", "deer", "dog", "horse", "truck")
DELTAS = {"third": 1 / 3, "two_thirds": 2 / 3, "one": 1.0}
_WRITTEN = {"third": "1/3", "two_thirds": "2/3", "one": "1"}
# Deferral, and what lifts generated images, are asked of the norm and delta that were best on the
# validation images of seeds 0 and 1.
LIFTED_ROW = "osed_dar_third"
_LIFTED = _shows("dar", 1 / 3)
# Noise-like dar is left out: it lets no gradient of a generated image below the last layer.
FILL_NORMS = tuple(norm for norm in NORMS if norm != "dar")
# Losses and mixing were asked of fill at its default of the day; its levers are asked of the norm
# and delta that were best on the validation images of three seeds.
_THIRD, _TWO_THIRDS, _ONE = (_shows("shared", delta) for delta in DELTAS.values())
_LA, _LDAM, _MIXUP = (
    {"loss.name": "logit_adjustment"},
    {"loss.name": "ldam", "model.cosine_scale": 30.0},
    {"augment.mix": "mixup"},
)

ROWS = {
    "erm": Row("erm", "ERM"),
    "ros": Row("ros", "resampling from epoch 0"),
    "drs": Row("drs", "deferred resampling (DRS)"),
    "open": Row("open", "OPeN, DAR-BN"),
    "open_aux": Row("open", "OPeN, auxiliary BN", {"oversampling.noise_norm": "aux"}),
    "open_shared": Row("open", "OPeN, standard BN", {"oversampling.noise_norm": "shared"}),
    **{
        f"osed_{norm}_{name}": Row(
            "osed", f"OSeD, {norm}, δ = {_WRITTEN[name]}", _shows(norm, delta)
        )
        for name, delta in DELTAS.items()
        for norm in NORMS
    },
    "osed_from_0": Row("osed", "OSeD from epoch 0", _LIFTED | {"oversampling.start_epoch": 0}),
    "osed_real_last": Row(
        "osed",
        "OSeD, real images alone in the last 15 % of the epochs",
        _LIFTED,
        real_last=True,
    ),
    # At imbalance ratio 100 the tail's formula replaces 0.752 * delta of a balanced batch.
    "osed_all_classes": Row(
        "osed",
        "OSeD, as many images but in all classes",
        _shows("dar", 0.75 / 3) | {"oversampling.replace_in": "all"},
    ),
    "osed_filtered": Row("osed", "OSeD, images filtered by the ERM net", _LIFTED, filtered=True),
    "osed_half_noise": Row(
        "osed", "OSeD, half of it noise (DAR-BN)", _LIFTED | {"oversampling.noise_share": 0.5}
    ),
    "osed_balanced_softmax": Row(
        "osed",
        "OSeD, balanced softmax in all epochs",
        _LIFTED | {"loss.name": "balanced_softmax"},
    ),
    # The same two where generated images teach all layers and cost most of what they can cost.
    "osed_shared_one_real_last": Row(
        "osed",
        "OSeD, shared, δ = 1, real images alone in the last 15 % of the epochs",
        _ONE,
        real_last=True,
    ),
    "osed_shared_one_filtered": Row(
        "osed",
        "OSeD, shared, δ = 1, images filtered by the ERM net",
        _ONE,
        filtered=True,
    ),
    # From epoch 0.
    "open_from_0": Row("open", "noise from epoch 0, DAR-BN", {"oversampling.start_epoch": 0}),
    **{
        f"fill_{norm}_{name}": Row(
            "fill", f"fill, {norm}, δ = {_WRITTEN[name]}", _shows(norm, delta)
        )
        for name, delta in DELTAS.items()
        for norm in FILL_NORMS
    },
    "fill_weight": Row(
        "fill",
        "fill, shared, δ = 2/3, generated rows weigh half",
        _TWO_THIRDS | {"loss.generated_weight": 0.5},
    ),
    "fill_falling": Row(
        "fill",
        "fill, shared, δ from 1 to 0",
        _ONE | {"oversampling.replace_schedule": "linear"},
    ),
    "fill_real_last": Row(
        "fill",
        "fill, shared, δ = 2/3, real images alone in the last 15 % of the epochs",
        _TWO_THIRDS,
        real_last=True,
    ),
    "fill_head": Row(
        "fill", "fill, shared, δ = 2/3, then the head anew", _TWO_THIRDS | {"train.head_epochs": 10}
    ),
    "fill_near": Row(
        "fill",
        "fill, shared, δ = 2/3, in the classes whose images are near real ones",
        _TWO_THIRDS | {"oversampling.generated_classes": _NEAR},
    ),
    "fill_filtered": Row(
        "fill", "fill, shared, δ = 2/3, images filtered by the ERM net", _TWO_THIRDS, filtered=True
    ),
    **{
        f"fill_{number}_images": Row(
            "fill", f"fill, shared, δ = 2/3, {number} images of a class", _TWO_THIRDS, images=number
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
        _THIRD | _LA,
    ),
    # The draws are class-balanced, so the classes have no weights.
    "fill_ldam": Row(
        "fill",
        "fill, shared, δ = 1/3, LDAM",
        _THIRD | _LDAM,
    ),
    "fill_mixup": Row("fill", "fill, shared, δ = 1/3, mixup", _THIRD | _MIXUP),
    # Of the digits.
    "fill_one_la": Row("fill", "fill, shared, δ = 1, logit adjustment", _ONE | _LA),
    "fill_one_mixup": Row("fill", "fill, shared, δ = 1, mixup", _ONE | _MIXUP),
}
# What rows vary: it is the same for all others, whatever the config or the defaults of the day say.
_OF_ALL_ROWS = {
    "oversampling.replace_ratio": 1 / 3,
    "oversampling.noise_norm": "dar",
    "oversampling.noise_share": 0.0,
    "oversampling.generated_norm": "shared",
    "oversampling.replace_in": "tail",
    "oversampling.replace_schedule": "constant",
    "oversampling.real_only_epochs": 0,
}

# Fields in which rows may differ: sections, or fields of them.
VARIED = ("oversampling.", "loss.", "augment.mix", "model.cosine_scale", "train.head_epochs")


def config_of(config: Config, name: str, seed: int, folder: Path) -> Config:
    """The setting's config with what makes the row, checked."""
    row = ROWS[name]
    epochs = config.train.num_epochs
    sets = {field: value_at(value, epochs) for field, value in METHODS[row.method].sets.items()}
    run = with_values(config, {"seed": seed, **_OF_ALL_ROWS, **sets, **row.fields})
    erm = without_unused(with_values(config, {"seed": seed, "oversampling.mode": "none"}))
    if row.real_last:
        run = with_values(run, {"oversampling.real_only_epochs": epochs * 3 // 20})
    if row.images:
        images = first_images_of(config, row.images, folder)
        run = with_values(run, {"oversampling.generated_dir": str(images)})
    if row.filtered:
        filtered = folder / f"{loading.generated_dir(config).name}.filtered"
        judge = str(run_directory(folder, "erm", seed))
        also = {"generation.classifier_workdir": judge, "generation.filtered_dir": str(filtered)}
        run = with_values(run, FILTERS | also)
    run = without_unused(run)
    if run.oversampling.mode != "generated":  # given for the rows that show them
        run = with_values(run, {"oversampling.generated_dir": ""})
    if name != "erm" and common_start(erm, run):
        run = with_values(run, {"init.fork_from": str(run_directory(folder, "erm", seed))})
    return checked(run)


def first_images_of(config: Config, number: int, folder: Path) -> Path:
    """The store with the first generated images of each class, in the folder of all runs."""
    return folder / f"{loading.generated_dir(config).name}.first_{number}"


def on_filtered(run: Config) -> Config:
    """The same run, on what its filters keep."""
    return with_values(run, {"oversampling.generated_dir": run.generation.filtered_dir})


def run_directory(folder: Path, name: str, seed: int) -> Path:
    """The work directory of a row's run, of which `folder` holds all."""
    return folder / f"{name}.seed_{seed}"
