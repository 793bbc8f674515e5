"""Makes a config from the schema and checks it; one error names all problems."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from osed_jax.config.conflicts import conflicts
from osed_jax.config.field import PATH
from osed_jax.config.methods import METHODS, method_of, set_others
from osed_jax.config.schema import Field, fields
from osed_jax.errors import UserError


def get_config(method: str = "erm") -> ConfigDict:
    """A config with every field at its default, changed by what `method` sets.

    Raises:
      UserError: if there is no such method.
    """
    flat = dict(fields())
    config = ConfigDict({"train": {"num_epochs": flat["train.num_epochs"].default}})
    epochs = config.train.get_ref("num_epochs")

    def value(field: Field) -> Any:
        """The default; one that depends on the number of epochs changes with it."""
        return field.default(epochs) if callable(field.default) else field.default

    for name, field in flat.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        if name != "train.num_epochs":
            (config[section] if section else config)[key] = value(field)
    return apply_method(config, method)


def apply_method(config: ConfigDict, method: str) -> ConfigDict:
    """Sets the fields that make up `method`, the part after the colon."""
    if method not in METHODS:
        raise UserError(
            f"unknown method {method!r} after the colon of --config; "
            f"use one of {', '.join(METHODS)}"
        )
    config.oversampling.update({**METHODS[method].prefers, **METHODS[method].sets})
    set_others(config, method)
    return config


def defaults() -> dict[str, Any]:
    """A plain nested dict of all defaults."""
    return plain(get_config().to_dict())


def check(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as a plain nested dict, as `config.json` has it.

    A ~ at the beginning of a path is replaced by the home folder: no shell expands it after `=`.

    Raises:
      UserError: naming every field that is unknown, missing or out of range.
    """
    resolved = _with_paths(plain(config.to_dict()), os.path.expanduser)
    check_fields(resolved)
    return resolved


def _with_paths(config: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The config with every path changed."""
    paths = {name for name, field in fields() if field.rule is PATH}

    def changed(name: str, value: Any) -> Any:
        return change(value) if name in paths and isinstance(value, str) else value

    return {
        section: {key: changed(f"{section}.{key}", v) for key, v in value.items()}
        if isinstance(value, Mapping)
        else value
        for section, value in config.items()
    }


def check_fields(resolved: Mapping[str, Any]) -> None:
    """As `check`, for a config that is a plain nested dict already."""
    given, known = flattened(resolved), dict(fields())
    problems = [
        f"there is no field config.{f}; docs/configuration.md lists all fields"
        for f in given
        if f not in known
    ]
    problems += [
        f"config.{f} is missing; see docs/configuration.md" for f in known if f not in given
    ]
    if not problems:
        problems = [
            f"config.{name} is {given[name]!r}; it must be {field.rule.allowed}"
            for name, field in known.items()
            if not field.rule.valid(given[name])
        ]
    if not problems:
        usual = {name: plain(field.default) for name, field in known.items()}
        problems = list(conflicts(given, usual))
    if problems:
        raise UserError("; ".join(problems))


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields in which two plain configs differ: name -> (old value, new value)."""
    before, after = flattened(old), flattened(new)
    pairs = {
        field: (before.get(field, "absent"), after.get(field, "absent"))
        for field in sorted(before.keys() | after.keys())
    }
    return {f: (a, b) for f, (a, b) in pairs.items() if a != b and not _same_path(f, a, b)}


def _same_path(field: str, a: Any, b: Any) -> bool:
    """Whether both values of a path field name the same folder: DIR, DIR/ or absolute."""
    known = dict(fields()).get(field)
    if known is None or known.rule is not PATH or not (a and b):
        return False
    return isinstance(a, str) and isinstance(b, str) and _place(a) == _place(b)


def _place(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def with_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with absolute paths, to compare it with another one."""
    return _with_paths(config, lambda path: _place(path) if path else path)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """As `changed_fields`, in words: `field: old -> new` for each."""
    changed = changed_fields(old, new).items()
    return [f"{field}: {before!r} -> {after!r}" for field, (before, after) in changed]


def as_config_file(config: Mapping[str, Any], about: str) -> str:
    """The text of a config file for --config that sets all fields that are not at their default.

    Args:
      config: as `check` returns it.
      about: the file's first line.
    """
    given = flattened(config)
    epochs = given["train.num_epochs"]
    lines = []
    for name, field in fields():
        usual = field.default(epochs) if callable(field.default) else field.default
        if given[name] != plain(usual):
            value = tuple(given[name]) if isinstance(given[name], list) else given[name]
            lines.append(f"    config.{name} = {value!r}")
    return "\n".join(
        [
            f'"""{about}"""',
            "",
            "from ml_collections import ConfigDict",
            "",
            "from osed_jax import config as schema",
            "",
            "",
            "def get_config() -> ConfigDict:",
            '    """Returns the configuration."""',
            "    config = schema.get_config()",
            *lines,
            "    return config",
            "",
        ]
    )


def method_name(config: Mapping[str, Any]) -> str:
    """The method that a plain config describes, one of `METHODS`."""
    return method_of(config)


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A plain config without sections: `SECTION.FIELD` -> value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
