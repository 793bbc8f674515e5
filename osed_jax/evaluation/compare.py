"""The driver that puts all finished runs below a folder into one table."""

from pathlib import Path
from typing import Any

from osed_jax import workdir
from osed_jax.console import say
from osed_jax.errors import UserError

_ORDER = ("erm", "ros", "drs", "open", "osed")


def compare(directory: Path) -> list[dict[str, Any]]:
    """Prints a table of the runs below `directory`, a row each; returns their summaries.

    Raises:
      UserError: where there is no finished run.
    """
    if not directory.is_dir():
        raise UserError(f"there is no folder {directory}; give one with work directories below it")
    found = {p.parent: workdir.read_json(p) for p in sorted(directory.rglob("summary.json"))}
    if not found:
        raise UserError(f"there is no finished run (summary.json) below {directory}; train one")
    runs = sorted(
        found.items(), key=lambda item: (_ORDER.index(item[1]["method"]), item[1]["seed"])
    )
    say(table([(str(path.relative_to(directory)), summary) for path, summary in runs]))
    return [summary for _, summary in runs]


def table(runs: list[tuple[str, dict[str, Any]]]) -> str:
    """A Markdown table: accuracies in %, a column for each group of classes that any run has."""
    groups = list(dict.fromkeys(name for _, run in runs for name in run["groups"]))
    head = ["run", "method", "seed", "top-1", "balanced", *groups]
    rows = [
        [
            path,
            run["method"],
            str(run["seed"]),
            _percent(run["top1"]),
            _percent(run["balanced_accuracy"]),
            *(_percent(run["groups"].get(name, {}).get("accuracy")) for name in groups),
        ]
        for path, run in runs
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [head, rule, *rows]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths))
        )
        + " |"
        for line in lines
    )


def _percent(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:.2f}"
