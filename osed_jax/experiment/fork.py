"""Starts a run from the checkpoint of another one, so that common epochs are trained once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from osed_jax.config.build import differences, method_name
from osed_jax.config.stages import common_epochs, stages
from osed_jax.errors import UserError
from osed_jax.experiment import workdir
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.training.state import TrainState

# Fields that do not change the epochs that two runs have in common (`stages` compares those of
# oversampling), or do not change any number.
_FREE = (
    "oversampling.",
    "init.fork_from",
    "loss.generated_weight",
    "train.head_epochs",
    "optimizer.head_learning_rate",
    "evaluate.",
    "train.feeder",
    "train.eval_every_epochs",
    "train.checkpoint_every_epochs",
    "dataset.groups",
    "dataset.many_above",
    "dataset.few_below",
    "dataset.max_decoded_gib",
)


def fork_state(
    config: dict[str, Any],
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
    other = workdir.read_config(source)
    shared = stages(config)
    start = common_epochs(stages(other), shared)
    changed = [d for d in differences(other, config) if not d.startswith(_FREE)]
    if not changed:  # there may be other images with the same names
        seen = any(s.replaces for s in shared if s.first < start)
        kept, ours = workdir.read_facts(source), facts
        if not seen:
            kept, ours = _natural(kept), _natural(ours)
        changed = workdir.changed_images(kept, ours)
    if changed:
        raise UserError(
            f"cannot fork from {source}: it differs in {'; '.join(changed)}; "
            f"give the same values, or train in full without config.init.fork_from"
        )
    if not start:
        raise UserError(
            f"cannot fork from {source}: its method {method_name(other)} trains differently "
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
