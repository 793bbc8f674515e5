"""Reads configs of earlier versions: renamed fields, and fields that they do not have."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from osed_jax.config.build import defaults

# Old name of a field or section -> new name; below, old value -> new value by new field name.
_RENAMED = {
    "oversampling.noise_ratio": "oversampling.replace_ratio",
    "oversampling.noise_road": "oversampling.noise_norm",
    "oversampling.synthetic_road": "oversampling.generated_norm",
    "generation.selected_dir": "generation.filtered_dir",
    "loss.balanced_softmax": "loss.name",
    "adapt": "finetune",
}
_RENAMED_VALUES: dict[str, dict[Any, Any]] = {
    "oversampling.mode": {"diffusion": "generated"},
    "oversampling.noise_norm": {"natural": "shared"},
    "oversampling.generated_norm": {"natural": "shared"},
    "generation.count": {"noise_ratio": "replace_ratio"},
    "loss.name": {True: "balanced_softmax", False: "cross_entropy"},
}


def completed(kept: Mapping[str, Any]) -> dict[str, Any]:
    """A config that an earlier version saved, in the form of this version.

    Renamed fields get their new names. Fields that are new in its sections get their defaults,
    which do not change a run. Sections that it does not have stay absent.
    """
    known: dict[str, Any] = defaults()
    found: dict[str, Any] = {}
    for section, value in kept.items():
        name = _RENAMED.get(section, section)
        found[name] = value
        if isinstance(value, Mapping):
            found[name] = {**known.get(name, {}), **dict(_renamed(section, name, value))}
    return found


def _renamed(old_section: str, section: str, fields: Mapping[str, Any]) -> Iterator[Any]:
    for old, value in fields.items():
        field = _RENAMED.get(f"{old_section}.{old}", f"{section}.{old}")
        values = _RENAMED_VALUES.get(field, {})
        yield field.partition(".")[2], values.get(value, value) if values else value


def renamed_flags(arguments: Iterable[str]) -> str:
    """The message for command-line flags that use the old name of a field; "" if none does."""
    found = []
    for argument in arguments:
        flag = argument.lstrip("-").partition("=")[0]
        field = flag.removeprefix("config.")
        section = field.partition(".")[0]
        new = _RENAMED.get(field) or (
            field.replace(section, _RENAMED[section], 1) if section in _RENAMED else None
        )
        if flag.startswith("config.") and new:
            found.append(f"config.{field} is called config.{new} now")
    return "; ".join(found)
