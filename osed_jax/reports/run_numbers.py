"""The parts of a report that come from a run's numbers: each draws a figure, returns HTML."""

from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.comparison.statistics import share_interval
from osed_jax.evaluation.metrics import log_softmax
from osed_jax.experiment import build
from osed_jax.files.records import describe_damaged, read_lines
from osed_jax.kinds import KIND_NAMES
from osed_jax.reports import curves, page
from osed_jax.reports.report_input import ReportInput
from osed_jax.reports.style import MANY_CLASSES
from osed_jax.runtime.console import say


def learning(subject: ReportInput, folder: Path) -> str:
    """Loss and accuracy by epoch; start_epoch is marked."""
    records, forked = _records(subject)
    if not records:
        return page.text("Not shown: metrics.jsonl is not there.")
    config, path = subject.config, folder / "learning_curves.png"
    start = config.oversampling.start_epoch
    deferred = config.oversampling.mode != "none" and start > 0
    curves.draw_learning_curves(
        path, records, start_epoch=start if deferred else None, forked_epochs=forked
    )
    return page.picture(path, "loss and accuracy by epoch")


def classes(subject: ReportInput, folder: Path) -> str:
    """Accuracy of each class, and how often training shows it."""
    figures, path = subject.figures, folder / "per_class.png"
    matrix = np.asarray(figures["confusion_matrix"])
    hits, total = np.diag(matrix), matrix.sum(axis=1)
    shown, when = _shown(subject)
    curves.draw_per_class(
        path,
        subject.class_names,
        accuracy=list(figures["per_class"].values()),
        interval=[share_interval(int(h), int(n)) if n else None for h, n in zip(hits, total)],
        class_counts=subject.facts["class_counts"],
        shown=shown,
        shown_when=when,
    )
    wide = len(subject.class_names) > MANY_CLASSES
    return page.picture(path, "accuracy and training images of each class", wide=wide)


def groups(subject: ReportInput, folder: Path) -> str:
    """Accuracy of groups of classes; those without a class are named."""
    figures, names = subject.figures, list(subject.class_names)
    matrix = np.asarray(figures["confusion_matrix"])
    lines: list[Any] = []
    for name, group in figures["groups"].items():
        members = [names.index(n) for n in group["classes"]]
        total = int(matrix[members].sum())
        between = share_interval(int(np.diag(matrix)[members].sum()), total) if total else None
        sizes = [subject.facts["class_counts"][c] for c in members]
        plural = "class" if len(members) == 1 else "classes"
        smallest = f"{min(sizes):,} to " if min(sizes) < max(sizes) else ""
        what = f"{len(members)} {plural}, {smallest}{max(sizes):,} images"
        lines.append((name, what, group["accuracy"], between))
    lines += [(name, "no class", None, None) for name in figures["absent_groups"]]
    path = folder / "groups.png"
    curves.draw_groups(path, lines)
    return page.picture(path, "accuracy of groups of classes")


def confusion(subject: ReportInput, folder: Path) -> str:
    """The confusion matrix: as what each class is classified."""
    path = folder / "confusion.png"
    matrix = np.asarray(subject.figures["confusion_matrix"])
    curves.draw_confusion(path, matrix, subject.class_names)
    return page.picture(path, "confusion matrix")


def calibration(subject: ReportInput, folder: Path) -> str:
    """Accuracy against confidence."""
    path = folder / "reliability.png"
    probability = np.exp(log_softmax(subject.logits))
    curves.draw_reliability(
        path,
        probability.max(axis=1),
        subject.logits.argmax(axis=1) == subject.test.label,
        subject.figures["ece"],
    )
    return page.picture(path, "accuracy against confidence")


def _records(subject: ReportInput) -> tuple[list[dict[str, Any]], int]:
    """Records of all epochs, first those of the run it was forked from, and their number."""
    own = _read_records(subject.directory)
    source = subject.config.init.fork_from
    others = _read_records(Path(source)) if source and own else []
    before = [record for record in others if record["epoch"] < own[0]["epoch"]]
    return before + own, len(before)


def _read_records(directory: Path) -> list[dict[str, Any]]:
    path = directory / "metrics.jsonl"
    records, damaged = read_lines(path)
    if damaged:
        say(f"note: the curves lack epochs: {describe_damaged(path, damaged)}")
    return records


def _shown(subject: ReportInput) -> tuple[dict[str, np.ndarray], str]:
    """How often the last epoch shows each class, by kind."""
    if subject.data is None:
        return {"natural": np.asarray(subject.facts["class_counts"])}, "the training set"
    last = subject.config.train.num_epochs - 1
    plan = build.make_plan(subject.config, subject.data, last)
    slots = {
        name: np.bincount(plan.label[plan.kind == kind], minlength=len(subject.class_names))
        for kind, name in KIND_NAMES.items()
    }
    return {name: n for name, n in slots.items() if n.any()}, f"the last epoch ({last + 1})"
