"""Starts a run from the checkpoint of another one, so that common epochs are trained once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from osed_jax.config.build import method_of
from osed_jax.config.schema import Config
from osed_jax.config.stages import common_epochs, differing, stages
from osed_jax.errors import UserError
from osed_jax.experiment import workdir
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.training.state import TrainState


def fork_state(
    config: Config,
    source: Path,
    facts: dict[str, Any],
    like: Callable[[int], TrainState],
) -> tuple[TrainState, int]:
    """The state of the run in `source` at the epoch where the two runs differ, and that epoch.

    It is the end of the last stage, or part of a stage, that they have in common: for a deferred
    method the `start_epoch` of an ERM run. Training from it gives the same numbers as training in
    full.

    Args:
      config: of the run that starts.
      source: work directory of the other run.
      facts: of this run's data, see `loading.Data`.
      like: number of epochs -> shapes, dtypes and shardings of the state after them.

    Raises:
      UserError: if `source` is not a work directory, its run differs from the first epoch on, or it
        has no such checkpoint.
    """
    other, ours = workdir.read_config(source), stages(config)
    start = common_epochs(stages(other), ours)
    changed = differing(other, config)
    if not changed:  # there may be other images with the same names
        shows_generated = any(stage.replacing for stage in ours if stage.first < start)
        both = (workdir.read_facts(source), facts)
        changed = workdir.changed_images(*(both if shows_generated else map(_natural, both)))
    if changed:
        raise UserError(
            f"cannot fork from {source}: it differs in {'; '.join(changed)}; "
            f"give the same values, or train in full without config.init.fork_from"
        )
    if not start:
        raise UserError(
            f"cannot fork from {source}: its method {method_of(other)} trains differently "
            "from the first epoch on; fork from a run that begins like this one, or train in "
            "full without config.init.fork_from"
        )
    with Checkpoints.reading(source) as saved:
        if start not in saved.epochs():
            raise UserError(
                f"cannot fork from {source}: it has no checkpoint of epoch {start}, only of "
                f"{saved.epochs() or 'none'}; set config.oversampling.start_epoch to one of them, "
                "or train that run with this start_epoch, which makes it keep this checkpoint"
            )
        return saved.restore(start, like(start)), start


def _natural(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without those of generated images, which are not used before a method starts."""
    kept = {name: value for name, value in facts.items() if not name.startswith("generated_")}
    digests = facts["content_sha256"]
    return {**kept, "content_sha256": {k: v for k, v in digests.items() if k != "generated"}}
