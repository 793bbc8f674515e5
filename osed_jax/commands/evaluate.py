"""--mode=evaluate: evaluates a checkpoint on the test set of its run or on another one."""

from pathlib import Path
from typing import Any

from osed_jax.config.build import as_plain
from osed_jax.config.compare import differences
from osed_jax.config.schema import Config
from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import load_classifier, read_run
from osed_jax.evaluation.summary import figures, format_summary
from osed_jax.experiment import loading, workdir
from osed_jax.experiment.loading import Data
from osed_jax.files import atomic, records
from osed_jax.reports.report_input import ReportInput
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say
from osed_jax.runtime.sharding import make_mesh
from osed_jax.training.predict import Predictor


def evaluate(config: Config, directory: Path) -> dict[str, Any]:
    """Evaluates the last checkpoint and writes `evaluation.json` and `report/`.

    For other test images than those of the run, `report/` stays and another folder is written. If
    the work directory is read-only, the figures are printed and not saved.

    Args:
      config: as `config.check` returns it. Its dataset fields name the test set; the net must be
        that of training. The normalisation of training is used.
      directory: the work directory.

    Raises:
      UserError: if there is no checkpoint, the config describes another net, or the test set
        has other classes or another image size.
    """
    trained, facts = read_run(directory)
    _check_same_net(trained, config, directory)
    mesh = make_mesh()
    with cluster.first_goes_first("test set"):
        test = loading.load_split(config, "test", loading.open_cache(directory))
    _check_same_classes(test, facts)
    digest = test.content_sha256()
    cluster.check_same("images", {"test": digest})

    saved = load_classifier(directory, mesh)
    predictor = Predictor(
        saved.model, saved.augmentation, mesh, batch_size=config.evaluate.batch_size
    )
    logits = predictor.of_images(saved.state, test.images).logits
    other = _other_test_set(config, facts, digest)
    if other:
        say(
            f"note: {other} are not the test images of the run in {directory}; these figures "
            "are of the other images:"
        )
    result = {
        "epoch": saved.epoch,
        "dataset": as_plain(config)["dataset"],
        "content_sha256": {"test": digest},
        "other_test_set": other,
        **figures(config, facts, logits, test.label),
    }
    writable = atomic.can_be_written(directory)
    if writable and cluster.is_first():
        records.write_json(directory / "evaluation.json", result)
    kept = f"written to {directory / 'evaluation.json'}" if writable else "not saved"
    say(f"checkpoint of epoch {saved.epoch}, {kept}")
    say(format_summary(result))
    if not writable:
        say(f"note: {directory} is read-only, so the figures and their report are not saved")
    elif config.report.enabled:
        # Here, since the plotting library takes seconds to import.
        from osed_jax.reports.run_report import write_report

        data = _training_data(trained, facts, loading.open_cache(directory))
        subject = ReportInput(directory, trained, result, logits, test, saved, data, other)
        write_report(subject, config.report, mesh)
    return result


def _other_test_set(config: Config, facts: dict[str, Any], digest: str | None) -> str:
    """Names the test images if they are not those of the run; else ""."""
    if digest == facts["content_sha256"]["test"]:
        return ""
    dataset = config.dataset
    place = " ".join(filter(None, (dataset.name, dataset.data_dir, dataset.test_list)))
    return f"the images of {place} (sha256 {str(digest)[:8]})"


def _training_data(trained: Config, facts: dict[str, Any], cache: Path) -> Data | None:
    """The training data of the run; None, with a note, if it is no longer available."""
    try:
        data = loading.load_data(trained, cache)
        changed = workdir.changed_images(*map(_of_training, (facts, data.facts)))
        if not changed:
            return data
        why = f"they have changed since ({'; '.join(changed)})"
    except UserError as error:
        why = str(error)
    say(f"the report shows no training images: {why}")
    return None


def _of_training(facts: dict[str, Any]) -> dict[str, Any]:
    digests = {k: v for k, v in facts["content_sha256"].items() if k != "test"}
    return {**facts, "content_sha256": digests}


def _check_same_net(trained: Config, config: Config, directory: Path) -> None:
    old, new = ({"model": as_plain(c)["model"]} for c in (trained, config))
    changed = differences(old, new)
    if changed:
        raise UserError(
            f"the checkpoints of {directory} are of another net ({'; '.join(changed)}); "
            f"give the config it was trained with"
        )


def _check_same_classes(test: ImageSet, facts: dict[str, Any]) -> None:
    if list(test.class_names) != facts["class_names"]:
        raise UserError(
            f"the test set's classes are {', '.join(test.class_names)}, but the run was trained "
            f"on {', '.join(facts['class_names'])}; give a data set of the same classes"
        )
    if test.images.image_size != facts["image_size"]:
        raise UserError(
            f"the test images are {test.images.image_size} pixels wide, but the run was trained "
            f"on {facts['image_size']}; set config.dataset.image_size={facts['image_size']}"
        )
