"""Starting a deferred method from another run's checkpoint, so that ERM is trained once for all."""

from pathlib import Path
from typing import Any

from osed_jax import workdir
from osed_jax.config import differences
from osed_jax.errors import UserError
from osed_jax.training.checkpoint import Checkpoints
from osed_jax.training.state import TrainState

# Fields that have no influence on the epochs before start_epoch.
_FREE = (
    "oversampling.",
    "init.",
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
    config: dict[str, Any], source: Path, facts: dict[str, Any], like: TrainState
) -> TrainState:
    """The state of the run in `source` after `start_epoch` epochs.

    Training from it gives the same numbers as training in full.

    Args:
      config: of the run that starts; its oversampling.start_epoch says which checkpoint.
      source: work directory of the other run.
      facts: of this run's data, see `experiment.Data`.
      like: shapes, dtypes and shardings of the state to restore.

    Raises:
      UserError: where the other run is no work directory, differs in anything that matters before
        start_epoch, started a method of its own earlier, or has no such checkpoint.
    """
    start = config["oversampling"]["start_epoch"]
    other = workdir.read_config(source)
    changed = [d for d in differences(other, config) if not d.startswith(_FREE)]
    if not changed:  # other images of the same name
        kept = workdir.read_json(source / "dataset.json")
        natural = [name for name in kept if name != "generated_counts"]
        changed = differences(
            *({name: known.get(name) for name in natural} for known in (kept, facts))
        )
    if changed:
        raise UserError(
            f"cannot fork from {source}: it differs in {'; '.join(changed)}; "
            f"give the same values, or train in full without config.init.fork_from"
        )
    theirs = other["oversampling"]
    if theirs["mode"] != "none" and theirs["start_epoch"] < start:
        raise UserError(
            f"cannot fork from {source}: its own mode {theirs['mode']} started at epoch "
            f"{theirs['start_epoch']}, before epoch {start}; fork from an ERM run"
        )
    with Checkpoints.reading(source) as saved:
        if start not in saved.epochs():
            raise UserError(
                f"cannot fork from {source}: it has no checkpoint of epoch {start}, only of "
                f"{saved.epochs() or 'none'}; set config.oversampling.start_epoch to one of them, "
                f"or train that run with this start_epoch, whose checkpoint it then keeps"
            )
        return saved.restore(start, like)
