"""The loop over training steps, and the log of what they measured, for nets and for generators."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from osed_jax.errors import UserError
from osed_jax.experiment import workdir
from osed_jax.files.records import as_line, keep_lines_before
from osed_jax.runtime import cluster

# Most steps that the host may be ahead of the device, so that the progress bar is right.
_STEPS_AHEAD = 2

Step = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


def run_steps(
    train_step: Step,
    state: Any,
    batches: Iterable[tuple[Any, int]],
    bar: tqdm,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Makes a step for each batch.

    Args:
      train_step: (state, batch) -> (state, metrics); metrics are scalars, one is `loss`.
      state: of the net.
      batches: each batch, and by how much it moves the progress bar.
      bar: the progress bar.

    Returns:
      The last state, and each metric of every step, [number of steps].
    """
    measured: list[dict[str, jax.Array]] = []
    for batch, size in batches:
        state, metrics = train_step(state, batch)
        measured.append(metrics)
        if len(measured) > _STEPS_AHEAD:
            measured[-1 - _STEPS_AHEAD]["loss"].block_until_ready()
        bar.update(size)
    on_host = jax.device_get(measured)
    return state, {name: np.asarray([m[name] for m in on_host]) for name in on_host[0]}


def check_finite(loss: np.ndarray, first_step: int, setting: str, unsaved: str) -> None:
    """Raises UserError, naming the step, if a loss is not finite.

    Args:
      loss: of each step.
      first_step: number of the first one.
      setting: the field of the learning rate.
      unsaved: what is lost, in words.
    """
    broken = np.flatnonzero(~np.isfinite(loss))
    if len(broken):
        raise UserError(
            f"the loss is {loss[broken[0]]} at step {first_step + broken[0]}; {unsaved}; use a "
            f"lower {setting} or a longer warm-up"
        )


@contextlib.contextmanager
def log(directory: Path, unit: str, first: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds a record to `metrics.jsonl`, in the first process only.

    Args:
      directory: the work directory.
      unit: the field that counts its lines, `epoch` or `step`.
      first: lines from this count on are written again.
    """
    if not cluster.is_first():
        yield lambda record: None
        return
    metrics = directory / "metrics.jsonl"
    keep_lines_before(metrics, unit, first)

    def write(record: dict[str, Any]) -> None:
        workdir.check_there(directory)
        print(as_line(record), end="", file=file, flush=True)

    with open(metrics, "a") as file:
        yield write
