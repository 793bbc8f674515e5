"""--mode=train: trains or continues a run, evaluates it and writes its summary."""

from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.config.build import run_as_plain
from osed_jax.config.conflicts import doubts
from osed_jax.config.schema import Config
from osed_jax.config.stages import stages
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import Classifier, load_classifier, trained_classifier
from osed_jax.evaluation.summary import (
    format_summary,
    read_predictions,
    summarise,
    write_predictions,
)
from osed_jax.experiment import loading, workdir
from osed_jax.experiment.loading import Data
from osed_jax.experiment.trainer import Trainer
from osed_jax.experiment.workdir import REPORT_FOLDER, REPORT_PAGE
from osed_jax.files import atomic, records
from osed_jax.reports.report_input import ReportInput
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say
from osed_jax.runtime.sharding import check_batch_size, make_mesh

_COUNTS_SAID = 100  # of more classes than that, not every count is printed


def train(config: Config, directory: Path) -> dict[str, Any]:
    """Trains in a work directory and returns what is written to its `summary.json`.

    An interrupted run continues from its last checkpoint. For a finished run only its figures are
    printed.

    Args:
      config: as `config.check` returns it.
      directory: the work directory.
    """
    for doubt in doubts(config):
        say(f"note: {doubt}")
    with workdir.claimed_by_first(directory, run_as_plain(config)):
        if (directory / "summary.json").exists():
            say(f"{directory} is finished already; its figures:")
            summary = records.read_json(
                directory / "summary.json", "remove it, and the same command makes it again"
            )
            if config.report.enabled and not (directory / REPORT_FOLDER / REPORT_PAGE).exists():
                _make_missing_report(config, directory, summary)
        else:
            summary = _train(config, directory)
        say(format_summary(summary))
        return summary


def _train(config: Config, directory: Path) -> dict[str, Any]:
    mesh = make_mesh()
    check_batch_size("config.train.batch_size", config.train.batch_size, mesh)
    with cluster.first_goes_first("data"):
        loading.check_weights(config)
        data = loading.load_data(config, loading.open_cache(directory))
        data = loading.with_weights_digest(config, data)
        if cluster.is_first():
            workdir.keep_facts(directory, data.facts)
    cluster.check_same("images", data.facts["content_sha256"])
    _say_data(data.facts)
    trainer = Trainer(config, directory, mesh, data)
    state = trainer.train()
    logits = trainer.evaluate(state, data.test)
    validates = data.facts["num_validation_images"] > 0
    held_out = trainer.evaluate(state, data.validation) if validates else None
    with cluster.first_goes_first("summary"):
        summary = summarise(config, data, logits, held_out, directory, state)
        if cluster.is_first():
            write_predictions(directory / "predictions.npz", logits, data.test.label)
            records.write_json(directory / "summary.json", summary)
    if config.report.enabled:
        facts, epochs = workdir.read_facts(directory), stages(config)[-1].end
        classifier = trained_classifier(config, facts, epochs, state)
        _report(config, directory, summary, logits, data, classifier)
    return summary


def _report(
    config: Config,
    directory: Path,
    summary: dict[str, Any],
    logits: np.ndarray,
    data: Data,
    classifier: Classifier,
) -> None:
    # Here, since the plotting library takes seconds to import.
    from osed_jax.reports.run_report import write_report

    subject = ReportInput(directory, config, summary, logits, data.test, classifier, data)
    write_report(subject, config.report, make_mesh())


def _make_missing_report(config: Config, directory: Path, summary: dict[str, Any]) -> None:
    """Writes the missing report of a finished run, or prints why that is not possible."""
    try:
        if not atomic.can_be_written(directory):
            raise UserError(f"{directory} is read-only")
        data = loading.load_data(config, loading.open_cache(directory))
        if changed := workdir.changed_images(workdir.read_facts(directory), data.facts):
            raise UserError(f"the images have changed since it was trained ({'; '.join(changed)})")
        logits, _ = read_predictions(directory / "predictions.npz", summary)
        classifier = load_classifier(directory, make_mesh())
        _report(config, directory, summary, logits, data, classifier)
    except UserError as error:
        say(f"note: the run has no report, and none can be made: {error}")


def _say_data(facts: dict[str, Any]) -> None:
    each = facts["class_counts"]
    counts = " ".join(map(str, each))
    if len(each) > _COUNTS_SAID:
        counts = f"{len(each):,} classes with {max(each):,} to {min(each):,}"
    held_out = facts["num_validation_images"]
    say(
        f"{facts['dataset']}: {facts['num_train_images']:,} training images ({counts}), "
        f"{f'{held_out:,} validation images, ' if held_out else ''}"
        f"subset sha256 {facts['subset_sha256']}"
    )
