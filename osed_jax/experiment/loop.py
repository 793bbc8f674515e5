"""Trains the epochs of one run: from its last checkpoint, a fork, or the first epoch."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tensorboardX import SummaryWriter

from osed_jax.config.stages import Stage, stage_of, stages
from osed_jax.data.image_set import ImageSet
from osed_jax.errors import UserError
from osed_jax.experiment import build, pretrained, workdir
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.experiment.fork import fork_state
from osed_jax.experiment.loading import Config, Data
from osed_jax.files import records
from osed_jax.files.records import as_line
from osed_jax.kinds import Kind
from osed_jax.runtime import cluster
from osed_jax.runtime.console import progress, say
from osed_jax.runtime.sharding import abstract, jit_train_step, replicate
from osed_jax.training.predict import Predictor
from osed_jax.training.state import TrainState, adopt_auxiliary, renew_head

# Most steps that the host may be ahead of the device, so that the progress bar is right.
_STEPS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class _Program:
    """A net and its compiled step, which stages of one kind share, and runs that are alike."""

    init: Callable[[jax.Array | int], TrainState]
    like: TrainState  # shapes, dtypes and shardings of its state
    train_step: Callable


@functools.lru_cache(maxsize=8)
def _program(settings: str, mesh: Mesh) -> _Program:
    """The program of these arguments of `make_training`, in JSON.

    It is made from nothing else, so runs with the same ones, as those of a sweep, share it.
    """
    arguments = json.loads(settings)
    init, train_step = build.make_training(**arguments)
    seed = jax.ShapeDtypeStruct((), np.uint32)
    like = abstract(jax.eval_shape(init, seed), mesh)
    dtype = arguments["config"]["model"]["dtype"]
    return _Program(init, like, jit_train_step(train_step, mesh, dtype))


class Run:
    """One experiment: its compiled steps and its place on disk."""

    def __init__(self, config: Config, directory: Path, mesh: Mesh, data: Data):
        self._config, self._directory, self._mesh, self._data = config, directory, mesh, data
        self._seed = replicate(np.uint32(config["seed"]), mesh)
        self._stages = stages(config)
        self._num_epochs = self._stages[-1].end
        self._feeder = build.make_feeder(config, data, mesh)
        self._steps_per_epoch = len(build.make_plan(config, data, 0))
        self._learning_rates = build.learning_rates(config)
        num_classes = len(data.train.class_names)
        plain_model = build.make_model(config, num_classes, routed=False)
        augmentation = build.make_augmentation(config, data.facts, noise=False)
        self._predictor = Predictor(
            plain_model, augmentation, mesh, batch_size=config["evaluate"]["batch_size"]
        )

    def train(self, saved: Checkpoints) -> TrainState:
        """Trains all epochs that are not yet in a checkpoint."""
        state, first_epoch = self._starting_point(saved)
        with self._log(first_epoch) as write:
            for epoch in range(first_epoch, self._num_epochs):
                state = self._entered(state, epoch)
                state, record = self._train_epoch(state, epoch)
                write(record)
                saved.save(epoch + 1, state)
                _say_epoch(record, self._num_epochs)
        return state

    @contextlib.contextmanager
    def _log(self, first_epoch: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Writes the records of epochs from `first_epoch` on, in the first process only."""
        if not cluster.is_first():
            yield lambda record: None
            return
        metrics = self._directory / "metrics.jsonl"
        records.keep_lines_before(metrics, "epoch", first_epoch)
        board = SummaryWriter(
            str(self._directory / "tensorboard"),
            purge_step=first_epoch * self._steps_per_epoch
            + 1,  # an epoch is logged at its last step
        )

        def write(record: dict[str, Any]) -> None:
            workdir.check_there(self._directory)
            print(as_line(record), end="", file=log, flush=True)
            _write_scalars(board, record)

        with board, open(metrics, "a") as log:
            yield write

    def evaluate(self, state: TrainState, data: ImageSet) -> np.ndarray:
        """Logits of the images; raises UserError if the outputs of the net are not finite."""
        return self._predictor.of_images(state, data.images).logits

    def _entered(self, state: TrainState, epoch: int) -> TrainState:
        """The state at the start of an epoch; it is changed if a stage of another kind begins."""
        stage = stage_of(self._stages, epoch)
        if epoch != stage.first:
            return state
        if stage.routed and not self._routed_after(epoch):
            state = replicate(adopt_auxiliary(state, self._program(stage).like), self._mesh)
        if stage.head_only:
            state = renew_head(state, self._initial())
        return state

    def _routed_after(self, epochs: int) -> bool:
        """Whether the state after `epochs` epochs has the norms of noise and generated rows."""
        return epochs > 0 and stage_of(self._stages, epochs - 1).routed

    def _program(self, stage: Stage) -> _Program:
        return self._made(routed=stage.routed, head_only=stage.head_only)

    def _made(self, *, routed: bool, head_only: bool) -> _Program:
        settings = {
            **build.of_a_step(self._config, self._data.facts, routed=routed),
            "steps_per_epoch": self._steps_per_epoch,
            "head_only": head_only,
        }
        return _program(json.dumps(settings, sort_keys=True), self._mesh)

    def _like(self, epochs: int) -> TrainState:
        """Shapes, dtypes and shardings of the state after `epochs` epochs."""
        return self._made(routed=self._routed_after(epochs), head_only=False).like

    def _initial(self) -> TrainState:
        plain = self._made(routed=False, head_only=False)
        return replicate(plain.init(self._config["seed"]), self._mesh)

    def _starting_point(self, saved: Checkpoints) -> tuple[TrainState, int]:
        """The state to start from, and the number of epochs that it has been trained."""
        done, source = saved.epochs(), self._config["init"]["fork_from"]
        if done:
            say(f"continuing from the checkpoint of epoch {done[-1]}")
            return saved.restore(done[-1], self._like(done[-1])), done[-1]
        if source:
            state, start = fork_state(self._config, Path(source), self._data.facts, self._like)
            say(f"starting from epoch {start} of {source}")
            return state, start
        return self._pretrained(self._initial()), 0

    def _pretrained(self, state: TrainState) -> TrainState:
        if not (weights := self._config["init"]["weights"]):
            return state
        file = pretrained.locate(weights)
        say(f"starting from the weights in {file}")
        return replicate(pretrained.with_weights(state, file), self._mesh)

    def _train_epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
        program = self._program(stage_of(self._stages, epoch))
        plan = build.make_plan(self._config, self._data, epoch)
        kinds = np.bincount(plan.kind.ravel(), minlength=len(Kind)).tolist()
        num_images = sum(kinds) - kinds[Kind.PADDING]
        began = time.perf_counter()
        per_step: list[dict[str, jax.Array]] = []
        label = f"epoch {epoch + 1}/{self._num_epochs}"
        with progress(total=num_images, unit="image", label=label) as bar:
            for batch, kind in zip(self._feeder.batches(plan), plan.kind):
                state, metrics = program.train_step(state, batch, self._seed)
                per_step.append(metrics)
                if len(per_step) > _STEPS_AHEAD:
                    per_step[-1 - _STEPS_AHEAD]["loss"].block_until_ready()
                bar.update(int((kind != Kind.PADDING).sum()))
        measured = jax.device_get(per_step)
        seconds = time.perf_counter() - began
        self._check_finite(measured, epoch)
        slots = (plan.kind != Kind.PADDING).sum(axis=1)
        record = {
            "epoch": epoch,
            "step": (epoch + 1) * self._steps_per_epoch,
            "learning_rate": float(self._learning_rates[epoch]),
            "loss": float(np.average([m["loss"] for m in measured], weights=slots)),
            "train_accuracy": float(
                sum(m["correct"] for m in measured) / max(sum(m["natural"] for m in measured), 1)
            ),
            "natural": kinds[Kind.NATURAL],
            "generated": kinds[Kind.GENERATED],
            "noise": kinds[Kind.NOISE],
        }
        every = self._config["train"]["eval_every_epochs"]
        if every and (epoch + 1) % every == 0:
            part = "validation" if self._data.facts["num_validation_images"] else "test"
            data = getattr(self._data, part)
            prediction = self.evaluate(state, data).argmax(axis=1)
            record[f"{part}_accuracy"] = float((prediction == data.label).mean())
        record["images_per_second"] = round(num_images / seconds, 2)
        record["seconds"] = round(time.perf_counter() - began, 3)
        return state, record

    def _check_finite(self, measured: list[dict[str, np.ndarray]], epoch: int) -> None:
        for i, metrics in enumerate(measured):
            if not np.isfinite(metrics["loss"]):
                raise UserError(
                    f"the loss is {metrics['loss']} at step {epoch * self._steps_per_epoch + i} "
                    f"(epoch {epoch + 1}); nothing of this epoch was saved; use a lower "
                    "config.optimizer.learning_rate or a longer warm-up"
                )


def fit(config: Config, directory: Path, mesh: Mesh, data: Data) -> tuple[Run, TrainState]:
    """Trains all epochs that are not yet in a checkpoint; returns the run and its last state."""
    run = Run(config, directory, mesh, data)
    with Checkpoints.writing(
        directory,
        every=config["train"]["checkpoint_every_epochs"],
        also=[config["oversampling"]["start_epoch"], *(s.end for s in stages(config))],
        about={"config": config, "dataset": data.facts},
    ) as saved:
        return run, run.train(saved)


def _write_scalars(board: SummaryWriter, record: dict[str, Any]) -> None:
    for name in (
        "loss",
        "train_accuracy",
        "validation_accuracy",
        "test_accuracy",
        "learning_rate",
        "images_per_second",
    ):
        if name in record:
            board.add_scalar(name, record[name], record["step"])


def _say_epoch(record: dict[str, Any], num_epochs: int) -> None:
    parts = [
        f"{part} {record[f'{part}_accuracy']:.2%}"
        for part in ("train", "validation", "test")
        if f"{part}_accuracy" in record
    ]
    rate = record["images_per_second"]
    say(
        f"epoch {record['epoch'] + 1}/{num_epochs}: loss {record['loss']:.4f}, "
        f"{', '.join(parts)}, {rate:,.{0 if rate >= 10 else 1}f} images/s"
    )
