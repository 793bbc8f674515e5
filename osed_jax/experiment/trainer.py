"""Trains the epochs of one run: from its last checkpoint, a fork, or the first epoch."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from tensorboardX import SummaryWriter

from osed_jax.batches.plan import Plan
from osed_jax.config.build import run_as_plain
from osed_jax.config.schema import Config
from osed_jax.config.stages import stage_of, stages
from osed_jax.data.image_set import ImageSet
from osed_jax.experiment import build, loop, pretrained
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.experiment.fork import fork_state
from osed_jax.experiment.loading import Data
from osed_jax.kinds import Kind
from osed_jax.runtime import cluster
from osed_jax.runtime.console import progress, say
from osed_jax.runtime.sharding import replicate
from osed_jax.training.predict import Predictor
from osed_jax.training.state import TrainState, adopt_auxiliary, renew_head

_SCALARS = (
    "loss",
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "learning_rate",
    "images_per_second",
)


class Trainer:
    """One experiment: its compiled steps and its place on disk."""

    def __init__(self, config: Config, directory: Path, mesh: Mesh, data: Data):
        self._config, self._directory, self._mesh, self._data = config, directory, mesh, data
        self._seed = replicate(np.uint32(config.seed), mesh)
        self._stages = stages(config)
        self._num_epochs = self._stages[-1].end
        self._feeder = build.make_feeder(config, data, mesh)
        self._steps_per_epoch = len(build.make_plan(config, data, 0))
        self._learning_rates = build.learning_rates(config)
        self._predictor = Predictor(
            build.make_model(config, len(data.train.class_names), routed=False),
            build.make_augmentation(config, data.facts, noise=False),
            mesh,
            batch_size=config.evaluate.batch_size,
        )

    def train(self) -> TrainState:
        """Trains all epochs that are not yet in a checkpoint; returns the last state."""
        config = self._config
        with Checkpoints.writing(
            self._directory,
            every=config.train.checkpoint_every_epochs,
            also=[config.oversampling.start_epoch, *(stage.end for stage in self._stages)],
            about={"config": run_as_plain(config), "dataset": self._data.facts},
        ) as saved:
            state, first_epoch = self._starting_point(saved)
            with self._log(first_epoch) as write:
                for epoch in range(first_epoch, self._num_epochs):
                    state, record = self._train_epoch(self._entered(state, epoch), epoch)
                    write(record)
                    saved.save(epoch + 1, state)
                    _say_epoch(record, self._num_epochs)
            return state

    def evaluate(self, state: TrainState, images: ImageSet) -> np.ndarray:
        """Logits of the images; raises UserError if the outputs of the net are not finite."""
        return self._predictor.of_images(state, images.images).logits

    def _train_epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, dict[str, Any]]:
        program = self._program_of(epoch)
        plan = build.make_plan(self._config, self._data, epoch)
        sizes = (plan.kind != Kind.PADDING).sum(axis=1)
        num_images = int(sizes.sum())
        began = time.perf_counter()
        label = f"epoch {epoch + 1}/{self._num_epochs}"
        with progress(total=num_images, unit="image", label=label) as bar:
            state, measured = loop.run_steps(
                lambda state, batch: program.train_step(state, batch, self._seed),
                state,
                zip(self._feeder.batches(plan), sizes.tolist()),
                bar,
            )
        seconds = time.perf_counter() - began
        loop.check_finite(
            measured["loss"],
            epoch * self._steps_per_epoch,
            "config.optimizer.learning_rate",
            f"nothing of epoch {epoch + 1} was saved",
        )
        record = self._record(epoch, plan, measured, sizes)
        record |= self._held_out_accuracy(state, epoch)
        record["images_per_second"] = round(num_images / seconds, 2)
        record["seconds"] = round(time.perf_counter() - began, 3)
        return state, record

    def _record(
        self, epoch: int, plan: Plan, measured: dict[str, np.ndarray], sizes: np.ndarray
    ) -> dict[str, Any]:
        """The line of an epoch in `metrics.jsonl`, without what is measured after it."""
        kinds = np.bincount(plan.kind.ravel(), minlength=len(Kind)).tolist()
        return {
            "epoch": epoch,
            "step": (epoch + 1) * self._steps_per_epoch,
            "learning_rate": float(self._learning_rates[epoch]),
            "loss": float(np.average(measured["loss"], weights=sizes)),
            "train_accuracy": float(sum(measured["correct"]) / max(sum(measured["natural"]), 1)),
            "natural": kinds[Kind.NATURAL],
            "generated": kinds[Kind.GENERATED],
            "noise": kinds[Kind.NOISE],
        }

    def _held_out_accuracy(self, state: TrainState, epoch: int) -> dict[str, float]:
        """Accuracy of the validation images, or of the test images if there are none."""
        every = self._config.train.eval_every_epochs
        if not every or (epoch + 1) % every:
            return {}
        part = "validation" if self._data.facts["num_validation_images"] else "test"
        images: ImageSet = getattr(self._data, part)
        prediction = self.evaluate(state, images).argmax(axis=1)
        return {f"{part}_accuracy": float((prediction == images.label).mean())}

    def _entered(self, state: TrainState, epoch: int) -> TrainState:
        """The state at the start of an epoch; it is changed if a stage of another kind begins."""
        stage = stage_of(self._stages, epoch)
        if epoch != stage.first:
            return state
        if stage.routed and not self._routed_after(epoch):
            state = replicate(adopt_auxiliary(state, self._program_of(epoch).like), self._mesh)
        if stage.head_only:
            state = renew_head(state, self._initial())
        return state

    def _routed_after(self, epochs: int) -> bool:
        """Whether the state after `epochs` epochs has the norms of noise and generated rows."""
        return epochs > 0 and stage_of(self._stages, epochs - 1).routed

    def _program_of(self, epoch: int) -> build.Program:
        stage = stage_of(self._stages, epoch)
        return self._program(routed=stage.routed, head_only=stage.head_only)

    def _program(self, *, routed: bool, head_only: bool) -> build.Program:
        return build.program_of(
            self._config,
            self._data.facts,
            self._mesh,
            steps_per_epoch=self._steps_per_epoch,
            routed=routed,
            head_only=head_only,
        )

    def _like(self, epochs: int) -> TrainState:
        """Shapes, dtypes and shardings of the state after `epochs` epochs."""
        return self._program(routed=self._routed_after(epochs), head_only=False).like

    def _initial(self) -> TrainState:
        plain = self._program(routed=False, head_only=False)
        return replicate(plain.init(self._config.seed), self._mesh)

    def _starting_point(self, saved: Checkpoints) -> tuple[TrainState, int]:
        """The state to start from, and the number of epochs that it has been trained."""
        done, source = saved.epochs(), self._config.init.fork_from
        if done:
            say(f"continuing from the checkpoint of epoch {done[-1]}")
            return saved.restore(done[-1], self._like(done[-1])), done[-1]
        if source:
            state, start = fork_state(self._config, Path(source), self._data.facts, self._like)
            say(f"starting from epoch {start} of {source}")
            return state, start
        return self._pretrained(self._initial()), 0

    def _pretrained(self, state: TrainState) -> TrainState:
        if not (weights := self._config.init.weights):
            return state
        file = pretrained.locate(weights)
        say(f"starting from the weights in {file}")
        return replicate(pretrained.with_weights(state, file), self._mesh)

    @contextlib.contextmanager
    def _log(self, first_epoch: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Writes the records of epochs from `first_epoch` on, also for TensorBoard."""
        with loop.log(self._directory, "epoch", first_epoch) as write:
            if not cluster.is_first():
                yield write
                return
            first_step = first_epoch * self._steps_per_epoch + 1  # an epoch is at its last step
            folder = str(self._directory / "tensorboard")
            with SummaryWriter(folder, purge_step=first_step) as board:

                def write_both(record: dict[str, Any]) -> None:
                    write(record)
                    for name in _SCALARS:
                        if name in record:
                            board.add_scalar(name, record[name], record["step"])

                yield write_both


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
