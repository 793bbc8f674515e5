"""The report of a run: figures and one page."""

import contextlib
import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from osed_jax.comparison.statistics import share_interval
from osed_jax.config.build import check, get_config, method_of, run_as_plain
from osed_jax.config.compare import changed_fields
from osed_jax.config.schema import Config, Report
from osed_jax.experiment.workdir import REPORT_FOLDER as FOLDER
from osed_jax.experiment.workdir import REPORT_PAGE as PAGE
from osed_jax.files import digests
from osed_jax.files.atomic import whole_folder
from osed_jax.reports import page, run_images, run_numbers
from osed_jax.reports.report_input import ReportInput
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say


def write_report(subject: ReportInput, settings: Report, mesh: Mesh) -> Path:
    """Writes the folder of the report, completely or not at all, and returns its page.

    The folder is `report/`, or another one beside it for another test set than that of the run.
    All processes of a job compute on their devices; the first one writes the page.

    Args:
      subject: what it is about.
      settings: section `report` of the config.
      mesh: devices for the features.
    """
    target = subject.directory / _folder(subject)
    title = f"OSeD-JAX: {method_of(subject.config)}, seed {subject.config.seed}"
    with _new_folder(target) as folder:
        sections = _sections(subject, settings, mesh, folder)
        (folder / PAGE).write_bytes(page.page(title, _headline(subject), sections).encode())
        digests.write_digests(folder)
        if cluster.is_first():
            digests.make_way(target)
    say(f"the report is {target / PAGE}")
    return target / PAGE


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target`; one that is thrown away in the other processes of a job."""
    if cluster.is_first():
        with whole_folder(target) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _folder(subject: ReportInput) -> str:
    digest = subject.figures["content_sha256"]["test"]
    return f"{FOLDER}.other_test_set.{digest[:8]}" if subject.other_test_set else FOLDER


def _sections(
    subject: ReportInput, settings: Report, mesh: Mesh, folder: Path
) -> list[tuple[str, str]]:
    sections = [
        ("Learning", run_numbers.learning(subject, folder)),
        ("Classes", run_numbers.classes(subject, folder)),
        ("Groups of classes", run_numbers.groups(subject, folder)),
        ("Confusion", run_numbers.confusion(subject, folder)),
        ("Calibration", run_numbers.calibration(subject, folder)),
        ("Mistakes", run_images.mistakes(subject, folder)),
    ]
    data = subject.data
    if data is None:
        missing = page.text("Not shown: the training images are not at hand.")
        sections.append(("Training images", missing))
    else:
        count, points = settings.images_per_class, settings.map_images
        sections += [
            ("A batch", run_images.batch(subject, data, mesh, folder)),
            (
                "Training images",
                run_images.real_and_generated(subject, data, count, folder),
            ),
        ]
        if points:
            found = run_images.feature_map(subject, data, points, mesh, folder)
            sections.append(("Features", found))
    return [*sections, ("Config", _config(subject)), ("To repeat it", _command(subject))]


def _headline(subject: ReportInput) -> str:
    figures, facts = subject.figures, subject.facts
    total, worst = figures["num_test_images"], figures["worst_class"]
    low, high = share_interval(round(figures["top1"] * total), total)
    counts = facts["class_counts"]
    boxes = [
        ("top-1 accuracy", _percent(figures["top1"])),
        ("balanced accuracy", _percent(figures["balanced_accuracy"])),
        (f"worst class: {worst['name']}", _percent(worst["accuracy"])),
        ("expected calibration error", _percent(figures["ece"])),
    ]
    if held_out := figures.get("validation"):
        boxes.append(
            ("balanced accuracy, validation images", _percent(held_out["balanced_accuracy"]))
        )
    other = subject.other_test_set
    whose = (
        [
            f"These are the figures of another test set than the run's own: {other}. The run's own "
            f"are in its summary.json and {FOLDER}/."
        ]
        if other
        else []
    )
    return page.facts(boxes) + page.text(
        *whose,
        f"{facts['dataset']}: {facts['num_train_images']:,} training images of {len(counts)} "
        f"classes, {max(counts):,} of the most frequent and {min(counts):,} of the rarest; "
        f"{total:,} test images. Checkpoint of epoch {subject.classifier.epoch}.",
        f"The 95 % interval of top-1 over test images is {100 * low:.1f} to {100 * high:.1f} %. "
        f"How much another seed would change needs more runs.",
    )


def _config(subject: ReportInput) -> str:
    method = method_of(subject.config)
    changed = changed_fields(default_of(method), run_as_plain(subject.config))
    rows = [(field, str(old), str(new)) for field, (old, new) in changed.items()]
    head = ("field", f"default of {method}", "this run")
    whole = page.details(
        "all fields", page.code(json.dumps(run_as_plain(subject.config), indent=2))
    )
    return (
        page.text("What differs from the method's default:")
        + page.table(head, rows, texts=True)
        + whole
    )


def _command(subject: ReportInput) -> str:
    source = subject.config.init.fork_from
    note = (
        page.text(
            f"Without the flag of config.init.fork_from ({source}) it trains in full, to the same "
            f"numbers on the same devices."
        )
        if source
        else ""
    )
    return page.code(reproducing_command(subject.config, subject.directory)) + note


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def default_of(method: str) -> dict[str, Any]:
    """The defaults of a method, for the fields that change the numbers of a run."""
    return run_as_plain(check(get_config(method)))


def reproducing_command(config: Config, workdir: Path) -> str:
    """A command line that gives the same config, without the config file that it came from.

    Args:
      config: of the run.
      workdir: a folder for the run.
    """
    method = method_of(config)
    flags = [f"--config=configs/default.py:{method}", f"--workdir={workdir}"]
    for field, (_, value) in changed_fields(default_of(method), run_as_plain(config)).items():
        flags.append(f"--config.{field}={_written(value)}")
    return " \\\n    ".join(["python main.py", *map(shlex.quote, flags)])


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    return repr(tuple(value)) if isinstance(value, list) else str(value)
