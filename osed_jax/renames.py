"""Configs of earlier versions: what was renamed since, and fields that they do not have yet."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from osed_jax.config import defaults

# Old name of a field or section -> today's; and of values, by the field's name of today.
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
    """A config that an earlier version kept, as this version has it.

    What was renamed since has its new name; fields that its sections have got since have their
    defaults, which change nothing; sections that it does not have stay absent.
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
    """What to say of command-line flags that name a field by an old name; empty for none."""
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
