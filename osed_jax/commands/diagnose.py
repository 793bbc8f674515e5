"""--mode=diagnose: measures the gradients of each kind of row at a checkpoint."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.batches import plan as plans
from osed_jax.batches.plan import Plan
from osed_jax.config.build import run_as_plain
from osed_jax.config.compare import differences
from osed_jax.config.schema import Config, with_values
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import load_classifier, read_run
from osed_jax.evaluation.layer_gradients import LayerGradient, measure
from osed_jax.experiment import build, loading
from osed_jax.experiment.loading import Data
from osed_jax.files import atomic, records
from osed_jax.kinds import KIND_NAMES, Kind
from osed_jax.reports import diagnose_page as report
from osed_jax.runtime.console import say
from osed_jax.runtime.sharding import check_batch_size, make_mesh

# Share of rows that are not natural: half, so that both parts are measured equally well.
_REPLACED = 0.5


def diagnose(config: Config, directory: Path) -> list[LayerGradient]:
    """Measures gradients at the last checkpoint and writes `diagnose/`.

    Half of the rows are noise. If `config.oversampling.generated_dir` is a folder, a quarter are
    noise and a quarter generated images, whatever the method of the run. The checkpoint does not
    change.

    Args:
      config: as `config.check` returns it; net, augmentation and loss must be those of training.
      directory: the work directory.

    Returns:
      The table's rows.

    Raises:
      UserError: if there is no checkpoint, the config or the training set is not that of the
        run, a gradient is not finite, or mode generated finds no generated images.
    """
    trained, facts = read_run(directory)
    _check_same_run(trained, config, directory)
    mesh = make_mesh()
    check_batch_size("config.train.batch_size", config.train.batch_size, mesh)
    data = _load(config, directory)
    _check_same_data(data.facts, facts, directory)
    saved = load_classifier(directory, mesh)
    loss_fn, weights = build.make_loss(config, facts["class_counts"])
    plan = make_plan(config, data)
    rows = measure(
        saved.model,
        saved.state,
        build.make_feeder(config, data, mesh).batches(plan),
        num_batches=len(plan),
        image_size=facts["image_size"],
        loss_fn=loss_fn,
        class_weights=weights,
        epoch=max(saved.epoch - 1, 0),
        augmentation=build.make_augmentation(config, facts, noise=True),
        seed=config.seed,
        mesh=mesh,
    )
    _write(directory / "diagnose", rows, plan, data, saved.epoch)
    return rows


def make_plan(config: Config, data: Data) -> Plan:
    """Class-balanced batches without padding, in which half of the rows are replaced.

    Rows of a class without generated images are not replaced. So noise and generated rows have the
    same classes, and differ in their pixels only.
    """
    generated, num_classes = data.generated, len(data.train.class_names)
    replace = np.full(num_classes, _REPLACED)
    if generated:
        replace[np.asarray(generated.class_counts) == 0] = 0
    num_batches, batch_size = config.diagnose.num_batches, config.train.batch_size
    num_slots = num_batches * batch_size
    num_epochs = -(-num_slots // len(data.train.label))
    epochs = [
        plans.balanced_plan(
            seed=config.seed,
            epoch=epoch,
            label=data.train.label,
            generated_label=generated.label if generated else np.zeros(0, np.int64),
            replace_prob=replace,
            noise_share=0.5 if generated else 1.0,
            batch_size=batch_size,
        )
        for epoch in range(num_epochs)
    ]

    def fold(parts: Iterable[np.ndarray]) -> np.ndarray:
        flat = np.concatenate([part.ravel() for part in parts])
        return flat[used][:num_slots].reshape(num_batches, batch_size)

    used = np.concatenate([e.kind.ravel() for e in epochs]) != Kind.PADDING
    plan = Plan(
        label=fold(e.label for e in epochs),
        kind=fold(e.kind for e in epochs),
        row=fold(e.row for e in epochs),
    )
    return build.with_soft_labels(config, data, plan)


def _load(config: Config, directory: Path) -> Data:
    """The data of the run, with generated images if there is a folder of them."""
    over = config.oversampling
    folder, needed = over.generated_dir, over.mode == "generated"
    found = bool(folder) and Path(folder).is_dir()
    if folder and not found and not needed:
        say(f"note: there are no generated images in {folder}, so only noise is measured")
    mode = "generated" if needed or found else "none"
    # Classes without generated images are allowed here, whatever the config of the run needs.
    wanted = {"oversampling.mode": mode, "oversampling.replace_in": "tail"}
    return loading.load_data(with_values(config, wanted), loading.open_cache(directory))


def _check_same_run(trained: Config, config: Config, directory: Path) -> None:
    old, new = (
        {name: run_as_plain(c)[name] for name in ("model", "augment", "loss")}
        for c in (trained, config)
    )
    if build.has_noise(trained.oversampling):
        old["noise_space"] = trained.oversampling.noise_space
        new["noise_space"] = config.oversampling.noise_space
    changed = differences(old, new)
    if changed:
        raise UserError(
            f"the checkpoints of {directory} were trained with other settings "
            f"({'; '.join(changed)}); give the config they were trained with"
        )


def _check_same_data(found: dict[str, Any], trained_on: dict[str, Any], directory: Path) -> None:
    names = ("class_names", "image_size", "subset_sha256")
    old, new = ({n: facts[n] for n in names} for facts in (trained_on, found))
    changed = differences(old, new)
    if trained_on["content_sha256"]["training"] != found["content_sha256"]["training"]:
        changed.append("other training images, by their content")
    if changed:
        raise UserError(
            f"{directory} was trained on other images ({'; '.join(changed)}); give "
            f"config.dataset as it was in training, see {directory / 'config.json'}"
        )


def _write(folder: Path, rows: list[LayerGradient], plan: Plan, data: Data, epoch: int) -> None:
    folder.mkdir(exist_ok=True)
    counts = {name: int((plan.kind == kind).sum()) for kind, name in KIND_NAMES.items()}
    table = [row._asdict() for row in rows]
    about = {"epoch": epoch, "num_batches": len(plan), "batch_size": plan.kind.shape[1]}
    records.write_json(folder / "gradients.json", {**about, "rows": counts, "gradients": table})
    text = io.StringIO()
    writer = csv.DictWriter(text, LayerGradient._fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    atomic.write_atomically(folder / "gradients.csv", text.getvalue())
    report.write_figure(rows, folder / "gradients.png")
    setting = _setting(counts, plan, data, epoch)
    html = report.render(rows, folder / "gradients.png", setting)
    atomic.write_atomically(folder / "diagnose.html", html)
    say(setting)
    for line in _aligned(report.summary(rows)):
        say(line)
    say(f"figure, table and page are in {folder}")


def _setting(counts: dict[str, int], plan: Plan, data: Data, epoch: int) -> str:
    """What was measured, in one or two sentences."""
    held = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    said = (
        f"Checkpoint of epoch {epoch}; {len(plan)} batches of {plan.kind.shape[1]} rows, "
        f"class-balanced: {held}."
    )
    generated = data.generated
    if generated and 0 in generated.class_counts:
        pairs = zip(generated.class_names, generated.class_counts)
        kept = ", ".join(name for name, number in pairs if not number)
        said += f" Rows of class {kept} are all natural, for want of generated images."
    return said


def _aligned(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in table]
