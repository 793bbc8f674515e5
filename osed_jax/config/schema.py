"""The schema: every field of an experiment once, as frozen dataclasses, one for each section."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from osed_jax.config.field import (
    FLAG,
    PATH,
    POSITIVE,
    SEED,
    TEXT,
    Field,
    OfARun,
    Rule,
    at_least,
    field,
    fields_of,
)
from osed_jax.config.fields_of_data import Augment, Dataset, Oversampling
from osed_jax.config.fields_of_generation import Finetune, Generation
from osed_jax.config.fields_of_training import Evaluate, Init, Loss, Model, Optimizer, Train
from osed_jax.config.methods import METHODS


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a run."""

    enabled: bool = field(
        True, "whether a run gets report/: figures and one page", FLAG, matters_for="display"
    )
    map_images: int = field(
        1500,
        "images in the feature map, over all kinds; 0: no map",
        at_least(0),
        matters_for="display",
    )
    images_per_class: int = field(
        8,
        "real and generated images of a class, shown side by side",
        at_least(1),
        matters_for="display",
    )


@dataclasses.dataclass(frozen=True)
class Sweep:
    """`--mode=sweep` trains several methods with several seeds."""

    seeds: tuple[int, ...] = field(
        (0, 1, 2),
        "--mode=sweep: every method is trained with every seed",
        Rule(
            lambda x: x and len(set(x)) == len(x) and all(isinstance(v, int) and v >= 0 for v in x),
            "different whole numbers from 0 on, at least one",
        ),
    )
    methods: str = field(
        "erm,ros,drs,open,osed,fill",
        "--mode=sweep: the methods, separated by commas",
        Rule(
            lambda x: (
                len(set(x.split(","))) == x.count(",") + 1
                and all(v in METHODS for v in x.split(","))
            ),
            f"different ones of {', '.join(METHODS)}, separated by commas",
        ),
    )


@dataclasses.dataclass(frozen=True)
class Tune:
    """`--mode=tune` chooses a setting on held-out training images."""

    candidates: str = field(
        "",
        f"candidates, separated by commas; '': all of {', '.join(METHODS)}, and those of "
        "candidates_file",
        TEXT,
    )
    candidates_file: str = field(
        "",
        'JSON file of further candidates: name -> {"method": "fill", "about": "...", '
        '"SECTION.FIELD": value, ...}',
        PATH,
    )
    folds: int = field(
        3, "number of parts of the training images; one at a time is held out", at_least(2)
    )
    budget: float = field(
        5.0,
        "cost of all training together, at most, in multiples of one training run; the number "
        "of epochs of each run follows from it",
        POSITIVE,
    )


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """`--mode=diagnose` measures the gradients of real, generated and noise rows."""

    num_batches: int = field(
        20,
        "number of batches of train.batch_size images; half of the images are natural, half of "
        "other kinds",
        at_least(1),
    )


@dataclasses.dataclass(frozen=True)
class Gap:
    """`--mode=gap` compares generated with real images, in the features of a trained net."""

    num_neighbours: int = field(
        3,
        "number of neighbours for precision and recall (Kynkaanniemi et al. 2019: 3)",
        at_least(1),
    )
    max_images: int = field(
        2000,
        "images of each class in each set (generated, training, test); larger sets are sampled",
        at_least(2),
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A checked config. `build.check` makes it once from the ConfigDict of a config file."""

    seed: int = field(
        0, "random seed of weights, draws and augmentation; not of the long-tailed subset", SEED
    )
    train: Train = dataclasses.field(default_factory=Train)
    dataset: Dataset = dataclasses.field(default_factory=Dataset)
    oversampling: Oversampling = dataclasses.field(default_factory=Oversampling)
    generation: Generation = dataclasses.field(default_factory=Generation)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    loss: Loss = dataclasses.field(default_factory=Loss)
    init: Init = dataclasses.field(default_factory=Init)
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    report: Report = dataclasses.field(default_factory=Report)
    sweep: Sweep = dataclasses.field(default_factory=Sweep)
    tune: Tune = dataclasses.field(default_factory=Tune)
    diagnose: Diagnose = dataclasses.field(default_factory=Diagnose)
    gap: Gap = dataclasses.field(default_factory=Gap)
    finetune: Finetune = dataclasses.field(default_factory=Finetune)


SECTIONS: dict[str, type] = {
    section.name: section.type
    for section in dataclasses.fields(Config)
    if isinstance(section.type, type) and dataclasses.is_dataclass(section.type)
}

# What makes up a run, as `config.json` has it.
OF_A_RUN = ("seed", *(name for name, cls in SECTIONS.items() if issubclass(cls, OfARun)))

# Every field with its full name, such as `train.batch_size`.
FIELDS: dict[str, Field] = {
    **fields_of(Config),
    **{
        f"{section}.{name}": said
        for section, cls in SECTIONS.items()
        for name, said in fields_of(cls).items()
    },
}


def get(config: Config, name: str) -> Any:
    """The value of a field by its full name."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some fields, by their full names."""
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        by_section.setdefault(section, {})[key] = value
    changed = by_section.pop("", {})
    for section, fields in by_section.items():
        changed[section] = dataclasses.replace(getattr(config, section), **fields)
    return dataclasses.replace(config, **changed)


def default_of(name: str, config: Config) -> Any:
    """The default of a field in a run of as many epochs as the config says."""
    return FIELDS[name].default_at(config.train.num_epochs)
