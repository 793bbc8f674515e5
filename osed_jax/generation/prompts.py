"""From class names to prompts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from osed_jax.config.choices import PLACEHOLDER
from osed_jax.errors import UserError

Own = Mapping[str, str | Sequence[str]]


def display_name(class_name: str) -> str:
    """A class name as it is read aloud: `sea_lion` -> `sea lion`."""
    return " ".join(class_name.replace("_", " ").split())


def class_prompts(
    class_name: str, *, templates: Sequence[str], modifiers: Sequence[str] = (), own: Own | None
) -> tuple[str, ...]:
    """The prompts of one class; the image with index i is made from number i, counted in a circle.

    Templates take turns first; once all of them had theirs, it is the next modifier's.

    Args:
      class_name: as the data set has it.
      templates: each with `{class}` where the name goes.
      modifiers: appended after a comma; an empty one leaves a prompt as it is.
      own: for some classes either the name to show instead (a string) or prompts that replace the
        templates (a list; `{class}` in them is filled in, too).
    """
    given = (own or {}).get(class_name, ())
    name = given if isinstance(given, str) else display_name(class_name)
    chosen = templates if isinstance(given, str) or not given else given
    return tuple(
        template.replace(PLACEHOLDER, name) + (f", {modifier}" if modifier else "")
        for modifier in modifiers or ("",)
        for template in chosen
    )


def read_own(file: str, class_names: Sequence[str]) -> Own:
    """Reads own names and prompts: JSON, class -> a name or a list of prompts. No file: none.

    Raises:
      UserError: where the file is missing, no such JSON, or speaks of an unknown class.
    """
    if not file:
        return {}
    try:
        own = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"config.generation.prompts_file is {file}, which cannot be read ({error}); give a "
            f"JSON file, or leave it empty"
        ) from error
    if not isinstance(own, dict) or not all(map(_is_own, own.values())):
        raise UserError(
            f'{file} must be a JSON object: {{"CLASS": "its name"}} or '
            f'{{"CLASS": ["a prompt", "another"]}}'
        )
    unknown = sorted(set(own) - set(class_names))
    if unknown:
        raise UserError(
            f"{file} names class {', '.join(map(repr, unknown))}, which the data set does not "
            f"have; its classes are {', '.join(class_names)}"
        )
    return own


def _is_own(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(v, str) and v.strip() for v in value)
    return isinstance(value, str) and bool(value.strip())
