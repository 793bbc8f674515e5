"""Finds finished runs below a folder and groups those that differ only in the seed."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.config.compare import changed_fields, differences, flattened
from osed_jax.config.field import NUMBERS
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import FIELDS
from osed_jax.errors import DamageError, UserError
from osed_jax.evaluation.summary import read_predictions
from osed_jax.files import records
from osed_jax.runtime.console import say

# Facts that must be the same in all runs of a comparison.
_DATA = (
    "dataset",
    "class_names",
    "class_counts",
    "subset_sha256",
    "num_validation_images",
    "num_test_images",
)
_PARTS = ("training", "validation", "test")  # the images of these must be the same
_NEEDED = ("method", "seed", "config", "groups", "confusion_matrix", "content_sha256", *_DATA)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
      directory: its work directory.
      summary: content of its `summary.json`.
      prediction: int [N] of the test images.
      label: int [N].
    """

    directory: Path
    summary: dict[str, Any]
    prediction: np.ndarray
    label: np.ndarray

    @property
    def seed(self) -> int:
        """The seed of weights, draws and augmentation."""
        return self.summary["seed"]

    @property
    def correct(self) -> np.ndarray:
        """Bool [N]: which test images are classified correctly."""
        return self.prediction == self.label


@dataclasses.dataclass(frozen=True)
class Variant:
    """Runs of one config, by seed.

    Attributes:
      name: name of the method; if a method has several variants, also the fields that differ.
      runs: one for each seed, ascending.
    """

    name: str
    runs: tuple[FinishedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs."""
        return tuple(run.seed for run in self.runs)

    def values(self, *keys: str) -> list[float]:
        """A figure of `summary.json`, by its keys, for every seed that has it."""
        found = []
        for run in self.runs:
            value: Any = run.summary
            for key in keys:
                value = value.get(key) if value is not None else None
            if value is not None:
                found.append(float(value))
        return found


def find_runs(directory: Path) -> list[FinishedRun]:
    """All finished runs below a folder.

    Raises:
      UserError: if there is none, or they are of different data.
    """
    if not directory.is_dir():
        raise UserError(
            f"there is no folder {directory}; give a folder that contains work directories"
        )
    found = _folders(directory)
    if not found:
        raise UserError(f"there is no finished run (summary.json) below {directory}; train one")
    runs = [_read(folder) for folder in found]
    for run in runs[1:]:
        _check_same_data(runs[0], run)
    _check_same_images(runs)
    return runs


def _folders(directory: Path) -> list[Path]:
    """Folders with a `summary.json`, each once, sorted; links to folders are followed."""
    found: dict[Path, Path] = {}
    seen = set()
    for name, folders, files in os.walk(directory, followlinks=True):
        folder = Path(name)
        for dead in (p for f in [*folders, *files] if (p := folder / f).is_symlink()):
            if not dead.exists():
                say(f"note: {dead} is a broken link, so it is left out")
        if folder.resolve() in seen:
            folders.clear()  # a link to a folder that was searched already
            continue
        seen.add(folder.resolve())
        folders.sort()
        if "summary.json" in files:
            found[folder.resolve()] = folder
    return sorted(found.values())


def variants(runs: Sequence[FinishedRun]) -> tuple[list[Variant], list[str]]:
    """Runs grouped by config, in the order of the methods; and notes for the reader.

    Runs that differ in nothing that matters for their numbers but the seed are grouped. Each other
    config is a variant of its own, named by the fields in which it differs.

    Raises:
      UserError: if a config has two runs with the same seed.
    """
    by_config: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_config.setdefault(json.dumps(_identity(run)), []).append(run)
    by_method: dict[str, list[list[FinishedRun]]] = {}
    for members in by_config.values():
        by_method.setdefault(members[0].summary["method"], []).append(members)
    rows, notes = [], []
    for method in sorted(by_method, key=list(METHODS).index):
        _check_same_generated([members[0] for members in by_method[method]])
        named = list(_named(method, by_method[method]))
        if len(named) > 1:
            notes.append(
                f"{method}: {len(named)} configs are kept apart, as they differ in more than the "
                f"seed: {'; '.join(name for name, _ in named)}"
            )
        rows += [Variant(name, by_seed(members)) for name, members in named]
    return rows, notes


def by_seed(members: Sequence[FinishedRun]) -> tuple[FinishedRun, ...]:
    """Runs of one config, by seed.

    Raises:
      UserError: if two of them have the same seed.
    """
    of_seed: dict[int, FinishedRun] = {}
    for run in members:
        if run.seed in of_seed:
            raise UserError(
                f"{of_seed[run.seed].directory} and {run.directory} are the same run (config and "
                f"seed {run.seed}); keep only one of them below the folder that is compared"
            )
        of_seed[run.seed] = run
    return tuple(of_seed[seed] for seed in sorted(of_seed))


def numbers_of(run: FinishedRun) -> dict[str, Any]:
    """The fields that matter for the numbers of a run, without its seed."""
    return {
        name: value
        for name, value in flattened(run.summary["config"]).items()
        if FIELDS[name].matters_for in NUMBERS and name != "seed"
    }


def _identity(run: FinishedRun) -> list[Any]:
    """What is the same in all seeds of a variant."""
    generated = run.summary["content_sha256"]["generated"]
    return [numbers_of(run), generated, run.summary.get("weights_sha256")]


def _read(directory: Path) -> FinishedRun:
    path = directory / "summary.json"
    again = f"remove {path} and train the run again, which only evaluates its last checkpoint"
    summary = records.read_json(path, again)
    if missing := [name for name in _NEEDED if name not in summary]:
        raise UserError(
            f"{path} has no {', '.join(missing)}, so it is not from a run; remove it or give "
            "another --workdir"
        )
    try:
        logits, label = read_predictions(directory / "predictions.npz", summary)
    except DamageError as error:
        raise UserError(f"{error}, so this run cannot be compared; {again}") from error
    return FinishedRun(directory, summary, logits.argmax(axis=1), label)


def _check_same_images(runs: Sequence[FinishedRun]) -> None:
    """Runs must be of the same training, validation and test images, by their digests."""
    for run in runs[1:]:
        first, other = (r.summary["content_sha256"] for r in (runs[0], run))
        parts = [part for part in _PARTS if first[part] != other[part]]
        if parts:
            raise UserError(
                f"{runs[0].directory} and {run.directory} are of different data (other "
                f"{' and '.join(parts)} images with the same names and numbers); compare them "
                "separately, each in its own folder"
            )


def _check_same_generated(firsts: Sequence[FinishedRun]) -> None:
    """Configs that differ in nothing, not even in places, must have the same generated images."""
    of_config: dict[str, FinishedRun] = {}
    for run in firsts:
        folder = run.summary["config"]["oversampling"]["generated_dir"]
        same = of_config.setdefault(json.dumps([numbers_of(run), folder]), run)
        first, other = (r.summary["content_sha256"]["generated"] for r in (same, run))
        if first != other:
            raise UserError(
                f"{same.directory} and {run.directory} have the same config, but the "
                "generated images were replaced between the two; train one of them again, or "
                "keep the runs in separate folders"
            )


def _check_same_data(first: FinishedRun, other: FinishedRun) -> None:
    facts = [
        {
            **{key: run.summary[key] for key in _DATA},
            "groups": {name: group["classes"] for name, group in run.summary["groups"].items()},
        }
        for run in (first, other)
    ]
    changed = differences(facts[0], facts[1])
    if not changed and not np.array_equal(first.label, other.label):
        changed = ["the labels of the test images"]
    if changed:
        raise UserError(
            f"{first.directory} and {other.directory} are of different data "
            f"({'; '.join(changed)}); compare them separately, each in its own folder"
        )


def _named(
    method: str, configs: Sequence[list[FinishedRun]]
) -> Iterator[tuple[str, list[FinishedRun]]]:
    """Each config's name: the method, and the fields in which configs of it differ.

    A field that tells a method and is not as this method has it is named, too.
    """
    numbers = [numbers_of(members[0]) for members in configs]
    places = [flattened(members[0].summary["config"]) for members in configs]
    differing = {name for other in numbers[1:] for name in changed_fields(numbers[0], other)} or {
        name
        for other in places[1:]
        for name in changed_fields(places[0], other)
        if FIELDS[name].matters_for == "place" and name != "init.fork_from"
    }
    for plain, members in zip(places, configs):
        fields = sorted(differing | _foreign(method, plain))
        said = [f"{_short(name)}={plain[name]}" for name in fields]
        yield (f"{method} ({', '.join(said)})" if said else method), members


def _foreign(method: str, plain: Mapping[str, Any]) -> set[str]:
    """Fields that tell a method by name, but another one than this."""
    sets = METHODS[method].sets
    return {
        name
        for name, field in FIELDS.items()
        if field.tells_method
        and isinstance(field.default, str)
        and plain[name] != sets.get(name, field.default)
    }


def _short(name: str) -> str:
    """The name of a field, with its section where others have a field of that name."""
    key = name.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == key for other in FIELDS) == 1
    return key if alone else name
