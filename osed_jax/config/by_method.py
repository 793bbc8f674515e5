"""The configs of several methods, from one config file and one command line."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from osed_jax.config.build import from_plain, run_as_plain, without_unused
from osed_jax.config.conflicts import unused
from osed_jax.config.methods import METHODS, Value
from osed_jax.config.schema import FIELDS, Config, get, with_values
from osed_jax.errors import UserError


class MethodConfigs(NamedTuple):
    """What a config file and the command line say for any method.

    Attributes:
      get_config: method -> config; `get_config` of the file.
      given: the fields that the command line sets, by their full names.
    """

    get_config: Callable[[str], ConfigDict]
    given: Mapping[str, Any] = {}

    def of(self, method: str) -> Config:
        """The config that --config=FILE:METHOD would give, not checked."""
        config = self.get_config(method)
        config.update_from_flattened_dict(self.given)
        return from_plain(config.to_dict())


def value_at(value: Value, num_epochs: int) -> Any:
    """The value of a field that a method sets, in a run of so many epochs."""
    return value(num_epochs) if callable(value) else value


def without_surplus(
    configs: Mapping[str, Config], given: Mapping[str, Any]
) -> tuple[dict[str, Config], list[str]]:
    """The configs of several methods without what has no effect in them, and what to say.

    A field that one of them uses is left out of the others. Of equal configs the first one stays.

    Args:
      configs: by the name of the method or candidate.
      given: the fields that the command line sets.

    Raises:
      UserError: for a field that none of them uses.
    """
    left_out = {name: unused(config) for name, config in configs.items()}
    notes = []
    for field in dict.fromkeys(f for fields in left_out.values() for f in fields):
        users = [name for name, fields in left_out.items() if field not in fields]
        value = next(get(configs[n], field) for n, fields in left_out.items() if field in fields)
        if not users:
            used = FIELDS[field].used_with
            words = used.words if used else ""
            raise UserError(
                f"config.{field} is {value!r}, but none of {', '.join(configs)} uses it: it is "
                f"used with {words} only; leave it out, or add a method that uses it"
            )
        notes.append(f"config.{field}={value!r} is used by {', '.join(users)} alone")
    notes += _overridden(configs, given)
    different: dict[str, str] = {}
    for name, config in configs.items():
        same = different.setdefault(_identity(config), name)
        if same != name:
            notes.append(f"{name} is left out: with what is given it is the same as {same}")
    return {name: without_unused(configs[name]) for name in different.values()}, notes


def overridden(config: Config, given: Iterable[str], method: str) -> list[str]:
    """Fields that a person gives and a method would set otherwise, in words."""
    usual = METHODS[method].sets
    epochs = config.train.num_epochs
    return [
        f"config.{name} is {get(config, name)!r}, as given; the method {method} would set "
        f"{value_at(usual[name], epochs)!r}"
        for name in given
        if name in usual and get(config, name) != value_at(usual[name], epochs)
    ]


def _overridden(configs: Mapping[str, Config], given: Iterable[str]) -> list[str]:
    lines = (
        line
        for name, config in configs.items()
        if name in METHODS
        for line in overridden(config, given, name)
    )
    return list(dict.fromkeys(lines))


def _identity(config: Config) -> str:
    plain = run_as_plain(without_unused(with_values(config, {"init.fork_from": ""})))
    return json.dumps(plain, sort_keys=True)
