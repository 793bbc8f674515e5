"""Compares configs: which fields differ, of those that matter."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from osed_jax.config.field import Field
from osed_jax.config.schema import FIELDS

_ABSENT = "absent"


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict, such as that of `config.json`, without sections: `SECTION.FIELD` -> value."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def changed_fields(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    concerns: Callable[[Field], bool] = lambda field: True,
) -> dict[str, tuple[Any, Any]]:
    """Fields in which two plain configs differ: name -> (old value, new value).

    Args:
      old: as `config.json` has it.
      new: likewise.
      concerns: the fields to compare; what is no field of a config, such as a fact of a data set,
        is always compared.
    """
    before, after = flattened(old), flattened(new)
    pairs = {
        name: (before.get(name, _ABSENT), after.get(name, _ABSENT))
        for name in sorted(before.keys() | after.keys())
        if name not in FIELDS or concerns(FIELDS[name])
    }
    return {n: (a, b) for n, (a, b) in pairs.items() if a != b and not _same_path(n, a, b)}


def differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    concerns: Callable[[Field], bool] = lambda field: True,
) -> list[str]:
    """As `changed_fields`, in words: `field: old -> new` for each."""
    changed = changed_fields(old, new, concerns).items()
    return [f"{field}: {before!r} -> {after!r}" for field, (before, after) in changed]


def names_of(fields: Sequence[str]) -> str:
    """Full names of fields as a person gives them, in one text."""
    return ", ".join(f"config.{name}" for name in fields)


def _same_path(name: str, a: Any, b: Any) -> bool:
    """Whether both values of a place name the same folder: DIR, DIR/ or absolute."""
    if name not in FIELDS or FIELDS[name].matters_for != "place":
        return False
    return bool(a and b) and place(a) == place(b)


def place(path: str) -> str:
    """The absolute path."""
    return os.path.abspath(os.path.expanduser(path))
