"""Prints docs/configuration.md, the page of all fields, from the schema."""

from collections.abc import Mapping
from typing import Any

from osed_jax.schema import SCHEMA, Field

# What the sections serve, for the page of all fields.
SECTIONS = {
    "train": "How long and in what batches.",
    "dataset": "Which images, and how a long tail is cut out of them.",
    "oversampling": "What fills up the rare classes; a method sets these fields.",
    "generation": "`--mode=generate` and `--mode=filter`: the generator, prompts and filters.",
    "augment": "What is done to training images (MLRC's recipe); noise is never augmented.",
    "model": "The classifier.",
    "optimizer": "SGD and its learning rate.",
    "loss": "What is minimised.",
    "init": "Where a run starts.",
    "evaluate": "How test and validation images are predicted.",
    "report": "What a run's report shows.",
    "sweep": "`--mode=sweep`.",
    "tune": "`--mode=tune`: chooses a setting on held-out images.",
    "diagnose": "`--mode=diagnose`: gradients by kind of row.",
    "gap": "`--mode=gap`: generated against real images, in features.",
    "finetune": "`--mode=finetune`: training the generator.",
}


def as_markdown() -> str:
    """The page that lists all fields, docs/configuration.md."""
    lines = [
        "# All fields of a config",
        "",
        "Made from `osed_jax/schema.py` by `make docs`; a test holds it to that. A field is set by",
        "a file of [configs/](../configs) or on the command line, `--config.SECTION.FIELD=VALUE`.",
        "Where a default follows the number of epochs, it does so for a number that you give, too.",
        "",
        *_table({"seed": SCHEMA["seed"]}),
    ]
    for name, entry in SCHEMA.items():
        if isinstance(entry, Mapping):
            lines += [f"## {name}", "", SECTIONS[name], "", *_table(entry)]
    return "\n".join(lines).rstrip() + "\n"


def _table(section: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| `{name}` | `{_written(field)}` | {field.rule.allowed} | {field.about} |".replace(
            "|jpg|...", ", jpg, ..."
        )
        for name, field in section.items()
    ]
    return ["| field | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows, ""]


def _written(field: Field) -> str:
    if not callable(field.default):
        return repr(field.default)
    return f"{field.default(200)} of 200 epochs"


if __name__ == "__main__":
    print(as_markdown(), end="")
