"""`summary.json`: the final figures of a run and the facts of the run."""

import importlib.metadata
import io
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from osed_jax.config.build import method_of, run_as_plain
from osed_jax.config.schema import Config
from osed_jax.config.stages import num_epochs
from osed_jax.data.long_tail import class_groups
from osed_jax.errors import DamageError
from osed_jax.evaluation.metrics import classification_report
from osed_jax.experiment import build
from osed_jax.experiment.loading import Data
from osed_jax.files import atomic
from osed_jax.files.records import describe_damaged, read_lines
from osed_jax.kinds import Kind
from osed_jax.runtime.console import say
from osed_jax.training.state import TrainState, num_parameters

_VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "osed-jax")


def figures(config: Config, facts: dict[str, Any], logits: np.ndarray, label: np.ndarray) -> dict:
    """Accuracies, calibration and confusion of a test set, with the configured groups."""
    dataset = config.dataset
    groups = class_groups(
        facts["class_counts"],
        groups=dataset.groups,
        many_above=dataset.many_above,
        few_below=dataset.few_below,
    )
    return classification_report(logits, label, class_names=facts["class_names"], groups=groups)


def summarise(
    config: Config,
    data: Data,
    logits: np.ndarray,
    held_out_logits: np.ndarray | None,
    directory: Path,
    state: TrainState,
) -> dict[str, Any]:
    """The content of `summary.json` for a run whose last epoch is in a checkpoint.

    Args:
      config: of the run.
      data: what it was trained and tested on.
      logits: of the test images.
      held_out_logits: of the validation images; None if there are none.
      directory: the work directory.
      state: the last state of training.
    """
    return {
        "method": method_of(config),
        "seed": config.seed,
        **figures(config, data.facts, logits, data.test.label),
        "validation": _of_validation(config, data, held_out_logits),
        **data.facts,
        "generated_used": _generated_used(config, data),
        "num_parameters": num_parameters(state.params),
        "num_batch_stats": num_parameters(state.batch_stats),
        "epochs": num_epochs(config),
        "forked_from": config.init.fork_from or None,
        **_speed(config, directory / "metrics.jsonl"),
        "devices": [d.device_kind for d in jax.devices()],
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": versions(),
        "config": run_as_plain(config),
    }


def _speed(config: Config, metrics: Path) -> dict[str, float | None]:
    """Wall time and median speed; None, with a note, if `metrics.jsonl` lacks epochs."""
    records, damaged = read_lines(metrics)
    if damaged:
        say(f"note: {describe_damaged(metrics, damaged)}")
    found = {r["epoch"]: r for r in records}
    # Epochs before a fork are in the file of the other run.
    first = min(found, default=0) if config.init.fork_from else 0
    missing = set(range(first, num_epochs(config))) - set(found)
    if missing or not found:
        say(
            f"note: {metrics} lacks {len(missing) or 'all'} of its epochs, so the summary has "
            "no wall time and no speed; accuracies are not affected"
        )
        return {"wall_seconds": None, "images_per_second": None}
    return {
        "wall_seconds": round(sum(r["seconds"] for r in found.values()), 1),
        "images_per_second": statistics.median(r["images_per_second"] for r in found.values()),
    }


def _of_validation(config: Config, data: Data, logits: np.ndarray | None) -> dict[str, Any] | None:
    if logits is None:
        return None
    found = figures(config, data.facts, logits, data.validation.label)
    found["num_images"] = found.pop("num_test_images")
    return found


def versions() -> dict[str, str]:
    """Installed versions of the packages that determine the numbers."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # if it runs from a checkout
            from osed_jax import __version__

            found[name] = __version__
    return found


def write_predictions(path: Path, logits: np.ndarray, label: np.ndarray) -> None:
    """Logits float32 [N, K] and labels int64 [N] of the test images, in the test set's order."""
    buffer = io.BytesIO()
    np.savez(buffer, logits=logits, label=label)
    atomic.write_atomically(path, buffer.getvalue())


def read_predictions(
    path: Path, summary: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that `write_predictions` wrote, checked against a summary of them.

    Raises:
      DamageError: if they are missing, damaged or from another run.
    """
    try:
        with np.load(path) as file:
            logits, label = file["logits"], file["label"]
        confusion = np.zeros((logits.shape[1],) * 2, int)
        np.add.at(confusion, (label, logits.argmax(axis=1)), 1)
    except Exception as error:  # NumPy and zipfile raise many kinds of error
        raise DamageError(f"{path} cannot be read ({error})") from error
    if summary is not None and confusion.tolist() != summary["confusion_matrix"]:
        raise DamageError(f"{path} does not match the figures in the summary.json beside it")
    return logits, label


def format_summary(summary: dict[str, Any]) -> str:
    """The most important figures, in a few lines."""
    groups = [
        f"{name} {_percent(group['accuracy'])}" for name, group in summary["groups"].items()
    ] + [f"{name} absent" for name in summary["absent_groups"]]
    worst, held_out = summary["worst_class"], summary.get("validation")
    validation = (
        f"\n{held_out['num_images']:,} validation images: top-1 {_percent(held_out['top1'])}, "
        f"balanced accuracy {_percent(held_out['balanced_accuracy'])}"
        if held_out
        else ""
    )
    return (
        f"{summary['num_test_images']:,} test images: top-1 {_percent(summary['top1'])}, "
        f"balanced accuracy {_percent(summary['balanced_accuracy'])}, "
        f"worst class {worst['name']} {_percent(worst['accuracy'])}, "
        f"NLL {summary['nll']:.3f}, ECE {summary['ece']:.3f}\n"
        f"groups: {', '.join(groups)}"
        f"{validation}"
    )


def _percent(share: float | None) -> str:
    return "no test images" if share is None else f"{share:.2%}"


def _generated_used(config: Config, data: Data) -> dict[str, int] | None:
    """Number of different generated images in the plans of the run, and of their slots."""
    if data.generated is None:
        return None
    different: set[int] = set()
    slots = 0
    for epoch in range(config.oversampling.start_epoch, config.train.num_epochs):
        plan = build.make_plan(config, data, epoch)
        rows = plan.row[plan.kind == Kind.GENERATED]
        different.update(rows.tolist())
        slots += len(rows)
    return {"different": len(different), "slots": slots}
