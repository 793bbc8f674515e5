"""Prints docs/reference/configuration.md, the page of all fields, from the schema."""

from collections.abc import Mapping

from osed_jax.config.by_method import value_at
from osed_jax.config.field import Field, fields_of
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import SECTIONS, Config


def as_markdown() -> str:
    """The page that lists all fields."""
    lines = [
        "# All fields of a config",
        "",
        "`make docs` writes this page from `osed_jax/config/`. Set a field in a file of",
        "[configs/](../../configs), or as a flag, `--config.SECTION.FIELD=VALUE`. A default",
        "such as `10 of 200 epochs` is a share of `train.num_epochs`, and changes with it.",
        "",
        "Sources: *Zada* is Zada, Benou and Irani, ICML 2022 (OPeN). *MLRC* is its reproduction by",
        "Lee and Lee, ReScience C 9(2), 2023. *Cao* is Cao et al. 2019 (LDAM).",
        "",
        "A *row* is one image of a batch: real, generated or noise. A *draw* is the choice of an",
        "image for a row. n_c is the number of training images of class c, n_max the largest n_c.",
        "",
        "What a field *matters for*: `step` and `numbers`: with another value it is another run;",
        "`place`: where files are, their content is known by digests; `display`: what is shown;",
        "`speed`: how fast, and how much memory and disk.",
        "",
        "## Methods",
        "",
        "The part after the colon of `--config` sets some fields. A config file or the command",
        "line may set them otherwise. The simplest come first; `--mode=tune` tries all.",
        "",
        *_methods(),
        "## seed",
        "",
        *_table(fields_of(Config)),
    ]
    for name, section in SECTIONS.items():
        lines += [f"## {name}", "", str(section.__doc__), "", *_table(fields_of(section))]
    return "\n".join(lines).rstrip() + "\n"


def _methods() -> list[str]:
    rows = []
    for name, method in METHODS.items():
        values = {field: value_at(value, 200) for field, value in method.sets.items()}
        sets = ", ".join(f"`{field}={_short(value)}`" for field, value in values.items())
        rows.append(f"| `{name}` | {method.title} | {method.about} | {sets} |")
    return ["| method | title | what it does | sets |", "| --- | --- | --- | --- |", *rows, ""]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(fields: Mapping[str, Field]) -> list[str]:
    rows = [
        f"| `{name}` | `{_written(field)}` | {field.rule.allowed} | {_about(field)} "
        f"| {field.matters_for} |".replace("|jpg|...", ", jpg, ...")
        for name, field in fields.items()
    ]
    head = "| field | default | allowed | meaning | matters for |"
    return [head, "| --- | --- | --- | --- | --- |", *rows, ""]


def _about(field: Field) -> str:
    return field.about + (f" (used with {field.used_with.words})" if field.used_with else "")


def _written(field: Field) -> str:
    if not callable(field.default):
        return repr(field.default)
    return f"{field.default(200)} of 200 epochs"


if __name__ == "__main__":
    print(as_markdown(), end="")
