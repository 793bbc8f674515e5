"""Makes a config from the schema and checks it; one error names all problems."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from osed_jax.config.compare import flattened, plain
from osed_jax.config.conflicts import conflicts, without_effect
from osed_jax.config.field import PATH
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import FIELDS, OF_A_RUN, Config, default_of, get, with_values
from osed_jax.errors import UserError


def get_config(method: str = "erm") -> ConfigDict:
    """A config with every field at its default, changed by what `method` sets.

    Values that are a share of the number of epochs change with it.

    Raises:
      UserError: if there is no such method.
    """
    if method not in METHODS:
        raise UserError(
            f"unknown method {method!r} after the colon of --config; "
            f"use one of {', '.join(METHODS)}"
        )
    config = ConfigDict({"train": {"num_epochs": FIELDS["train.num_epochs"].default}})
    epochs = config.train.get_ref("num_epochs")
    for name, field in FIELDS.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        if name != "train.num_epochs":
            (config[section] if section else config)[key] = field.default_at(epochs)
    for name, value in METHODS[method].sets.items():
        section, _, key = name.rpartition(".")
        config[section][key] = value(epochs) if callable(value) else value
    return config


def check(config: ConfigDict) -> Config:
    """Returns the config as frozen dataclasses.

    A ~ at the beginning of a path is replaced by the home folder: no shell expands it after `=`.

    Raises:
      UserError: naming every field that is unknown, missing or out of range.
    """
    return checked(from_plain(config.to_dict()))


def checked(config: Config, sections: Sequence[str] = ()) -> Config:
    """The config itself.

    Args:
      config: to be checked.
      sections: check the values of these alone; (): all, also against each other.

    Raises:
      UserError: naming every field that is out of range or in conflict with another one.
    """
    problems = [
        f"config.{name} is {get(config, name)!r}; it must be {field.rule.allowed}"
        for name, field in FIELDS.items()
        if not (sections and name.partition(".")[0] not in sections)
        and not field.rule.valid(get(config, name))
    ]
    if not problems and not sections:
        problems = list(conflicts(config))
    if problems:
        raise UserError("; ".join(problems))
    return config


def from_plain(content: Mapping[str, Any], *, of_a_run: bool = False) -> Config:
    """The config that a nested dict describes, such as that of a ConfigDict or of `config.json`.

    Args:
      content: lists and tuples count as the same.
      of_a_run: whether it has the sections of a run alone; the others get their defaults.

    Raises:
      UserError: naming every field that is unknown or missing.
    """
    given = flattened(content)
    needed = [n for n in FIELDS if not of_a_run or n.partition(".")[0] in OF_A_RUN]
    problems = [
        f"there is no field config.{name}; docs/reference/configuration.md lists all fields"
        for name in given
        if name not in FIELDS
    ]
    problems += [
        f"config.{name} is missing; see docs/reference/configuration.md"
        for name in needed
        if name not in given
    ]
    if problems:
        raise UserError("; ".join(problems))
    return with_values(Config(), {name: _value(name, value) for name, value in given.items()})


def _value(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if FIELDS[name].rule is PATH and isinstance(value, str):
        return os.path.expanduser(value)
    return value


def as_plain(config: Config) -> dict[str, Any]:
    """A nested dict of all fields, with lists for tuples, as JSON gives it back."""
    return plain(dataclasses.asdict(config))


def run_as_plain(config: Config) -> dict[str, Any]:
    """The sections that make up a run, as `config.json` has them."""
    whole = as_plain(config)
    return {name: whole[name] for name in OF_A_RUN}


def without_unused(config: Config) -> Config:
    """The config with the defaults of fields that have no effect, as another field is."""
    return with_values(config, {name: default_of(name, config) for name in without_effect(config)})


def method_of(config: Config) -> str:
    """The method that a config describes, as `METHODS` names it; of a variant the plain one.

    It is the one with the most of the fields that tell a method, all of which must match.
    """

    def telling(name: str) -> dict[str, Any]:
        sets = METHODS[name].sets.items()
        return {field: value for field, value in sets if FIELDS[field].tells_method}

    fitting = [
        name
        for name, method in METHODS.items()
        if not method.variant and all(get(config, f) == v for f, v in telling(name).items())
    ]
    return max(fitting, key=lambda name: len(telling(name)))


def as_config_file(config: Config, about: str) -> str:
    """The text of a config file for --config that sets all fields that are not at their default.

    Args:
      config: any config.
      about: the file's first line.
    """
    lines = [
        f"    config.{name} = {get(config, name)!r}"
        for name in FIELDS
        if get(config, name) != default_of(name, config)
    ]
    return "\n".join(
        [
            repr(about),
            "",
            "from ml_collections import ConfigDict",
            "",
            "from osed_jax.config import build",
            "",
            "",
            "def get_config() -> ConfigDict:",
            '    """Returns the configuration."""',
            "    config = build.get_config()",
            *lines,
            "    return config",
            "",
        ]
    )
