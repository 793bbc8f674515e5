"""Prints docs/configuration.md, the page of all fields, from the schema."""

from collections.abc import Mapping
from typing import Any

from osed_jax.config.schema import SCHEMA, Field

# What each section is for, in the words of the page.
SECTIONS = {
    "train": "How long and in what batches.",
    "dataset": "The images, and how a long tail is cut out of them.",
    "oversampling": "Resampling, and what replaces some draws. A method sets these fields.",
    "generation": "`--mode=generate` and `--mode=filter`: the generator, prompts and filters.",
    "augment": "Augmentation of training images (MLRC's recipe). Noise is never augmented.",
    "model": "The classifier.",
    "optimizer": "SGD and its learning rate.",
    "loss": "The loss that is minimised.",
    "init": "Weights from which a run starts.",
    "evaluate": "Prediction of test and validation images.",
    "report": "The report of a run.",
    "sweep": "`--mode=sweep` trains several methods with several seeds.",
    "tune": "`--mode=tune` chooses a setting on held-out training images.",
    "diagnose": "`--mode=diagnose` measures the gradients of real, generated and noise rows.",
    "gap": "`--mode=gap` compares generated with real images, in the features of a trained net.",
    "finetune": "`--mode=finetune` trains the generator on the training images.",
}


def as_markdown() -> str:
    """The page that lists all fields, docs/configuration.md."""
    lines = [
        "# All fields of a config",
        "",
        "`make docs` writes this page from `osed_jax/config/schema.py`. Set a field in a file of",
        "[configs/](../configs), or on the command line: `--config.SECTION.FIELD=VALUE`. A default",
        "such as `10 of 200 epochs` is a share of `train.num_epochs`, and changes with it.",
        "",
        "Sources: *Zada* is Zada, Benou and Irani, ICML 2022 (OPeN). *MLRC* is its reproduction by",
        "Lee and Lee, ReScience C 9(2), 2023. *Cao* is Cao et al. 2019 (LDAM).",
        "",
        "A *row* is one image of a batch: real, generated or noise. A *draw* is the choice of an",
        "image for a row. n_c is the number of training images of class c, n_max the largest n_c.",
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
