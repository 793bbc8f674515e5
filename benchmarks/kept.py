"""The finished runs of a setting in one file: summaries, predicted classes and curves.

`runs.npz` has these arrays, for R runs in the order of their names, N test images and E epochs of
all runs together:

- `summaries`: uint8, the text of a JSON list: each run's `name` and its `summary.json`, without the
  confusion matrix of the test set, which follows from the predictions, and without the folders of
  the machine. Of a run on filtered images `filter` is the `filter.json`.
- `prediction`: uint8 [R, N]; `label`: uint8 [N].
- `curve_run`, `curve_epoch`: int16 [E]; `curve_NAME`: float32 [E], a figure of `metrics.jsonl`; NaN
  where an epoch has none. Some runs have no curves.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.rows import ROWS, VARIED
from osed_jax.comparison.finished_runs import FinishedRun, Variant, by_seed
from osed_jax.config.compare import changed_fields
from osed_jax.errors import UserError
from osed_jax.evaluation.summary import read_predictions
from osed_jax.files import atomic, records

FILE = "runs.npz"
FILTER = "filter.json"
CURVES = (
    "loss",
    "train_accuracy",
    "validation_accuracy",
    "natural",
    "generated",
    "noise",
    "images_per_second",
    "seconds",
)
_PLACES = (("dataset", "data_dir"), ("oversampling", "generated_dir"), ("init", "fork_from"))
# What seeds of one row may differ in, beside the seed: a fork trains like a run in full.
_OF_SEEDS = ("seed", "init.fork_from", "evaluate.")


class Kept(NamedTuple):
    """A run.

    Attributes:
      run: its name instead of a directory; see the module.
      curves: name -> float32 [epochs], with `epoch` among them.
    """

    run: FinishedRun
    curves: dict[str, np.ndarray]


def read(folder: Path) -> dict[str, Kept]:
    """The runs of a setting by name; none if there is no file."""
    if not (folder / FILE).exists():
        return {}
    with np.load(folder / FILE) as file:
        arrays = dict(file)
    kept = {}
    for i, summary in enumerate(json.loads(arrays["summaries"].tobytes())):
        name, of_run = summary.pop("name"), arrays["curve_run"] == i
        curves = {c: arrays[f"curve_{c}"][of_run] for c in ("epoch", *CURVES)}
        run = FinishedRun(Path(name), summary, arrays["prediction"][i], arrays["label"])
        kept[name] = Kept(run, curves)
    return kept


def write(folder: Path, kept: Iterable[Kept]) -> None:
    """Writes the runs of a setting, all of the same test images."""
    in_order = sorted(kept, key=lambda each: str(each.run.directory))
    summaries = [{"name": str(run.directory), **run.summary} for run, _ in in_order]
    text = json.dumps(summaries, ensure_ascii=False, separators=(",", ":"))
    lengths = [len(curves["epoch"]) for _, curves in in_order]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.whole_file(folder / FILE) as file:
        np.savez_compressed(
            file,
            summaries=np.frombuffer(text.encode(), np.uint8),
            prediction=np.stack([run.prediction for run, _ in in_order]).astype(np.uint8),
            label=in_order[0].run.label.astype(np.uint8),
            curve_run=np.repeat(np.arange(len(in_order), dtype=np.int16), lengths),
            curve_epoch=np.concatenate([c["epoch"] for _, c in in_order]).astype(np.int16),
            **{
                f"curve_{name}": np.concatenate([c[name] for _, c in in_order]).astype(np.float32)
                for name in CURVES
            },
        )


def of_directory(directory: Path, name: str) -> Kept:
    """What is kept of a finished run."""
    summary = records.read_json(directory / "summary.json")
    logits, label = read_predictions(directory / "predictions.npz", summary)
    del summary["confusion_matrix"]
    generated = Path(summary["config"]["oversampling"]["generated_dir"])
    for section, field in _PLACES:
        summary["config"][section][field] = Path(summary["config"][section][field]).name
    summary["forked_from"] = summary["config"]["init"]["fork_from"] or None
    if (generated / FILTER).is_file():
        summary["filter"] = records.read_json(generated / FILTER)
        for place in ("generated_dir", "classifier_workdir"):
            settings = summary["filter"]["settings"]
            settings[place] = Path(settings[place]).name
    lines = records.read_lines(directory / "metrics.jsonl")[0]
    epochs = {line["epoch"]: line for line in lines}  # a line of a resumed epoch is there twice
    in_order = [epochs[epoch] for epoch in sorted(epochs)]
    curves = {
        column: np.array([line.get(column, np.nan) for line in in_order], np.float32)
        for column in ("epoch", *CURVES)
    }
    return Kept(FinishedRun(Path(name), summary, logits.argmax(axis=1), label), curves)


def variants(kept: Iterable[Kept]) -> dict[str, Variant]:
    """The runs by row, in the order of the rows.

    Raises:
      UserError: for a run that is not named after a row and its seed, rows of different settings,
        and runs of a row that differ in more than the seed.
    """
    runs: dict[str, list[FinishedRun]] = {name: [] for name in ROWS}
    first = None
    for run, _ in kept:
        row, _, seed = run.directory.name.partition(".seed_")
        if row not in runs or seed != str(run.seed):
            raise UserError(
                f"{run.directory}, of seed {run.seed}, is not a run of a row; its name must be "
                f"ROW.seed_{run.seed}"
            )
        first = first or run
        runs[row].append(run)
        _check_same(first, run, VARIED)
        _check_same(runs[row][0], run)
    return {row: Variant(ROWS[row].title, by_seed(of)) for row, of in runs.items() if of}


def _check_same(first: FinishedRun, other: FinishedRun, without: Sequence[str] = ()) -> None:
    """Raises UserError if two configs differ in more than they may.

    A field that only one of them has is of a later version, whose default changes nothing.
    """
    changed = {
        name: values
        for name, values in changed_fields(first.summary["config"], other.summary["config"]).items()
        if not name.startswith((*_OF_SEEDS, *without)) and "absent" not in values
    }
    if changed:
        told = "; ".join(f"{name}: {a!r} -> {b!r}" for name, (a, b) in changed.items())
        raise UserError(
            f"{first.directory} and {other.directory} are of different settings ({told}); keep "
            "each setting in a folder of its own"
        )
