"""Checkpoints of a work directory, kept by Orbax: the last one, and some for good."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as keep

from osed_jax.errors import UserError


class Checkpoints:
    """The folder `checkpoints/` of a work directory; a context manager that waits for saves.

    A checkpoint is written beside the training, under a temporary name, and renamed when it is
    whole: a process killed at any moment leaves the last whole one.
    """

    def __init__(self, workdir: Path, options: ocp.CheckpointManagerOptions):
        """Opens the checkpoints of a work directory; see `writing` and `reading`."""
        self._folder = workdir.absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    @classmethod
    def writing(cls, workdir: Path, *, every: int, also: Sequence[int]) -> "Checkpoints":
        """Opens for training: the last checkpoint is kept, and some for good.

        Args:
          workdir: the work directory.
          every: multiples of this epoch are kept for good; 0 for none of them.
          also: these epochs are kept too: where other runs fork.
        """
        policies: list[Any] = [keep.LatestN(1), keep.CustomSteps(list(also))]
        if every:
            policies.append(keep.EveryNSteps(every))
        policy = keep.AnyPreservationPolicy(policies)
        return cls(workdir, ocp.CheckpointManagerOptions(preservation_policy=policy))

    @classmethod
    def reading(cls, workdir: Path) -> "Checkpoints":
        """Opens for reading; another process may be writing."""
        options = ocp.CheckpointManagerOptions(
            read_only=True, save_interval_steps=0, create=False, cleanup_tmp_directories=False
        )
        return cls(workdir, options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def epochs(self) -> list[int]:
        """Numbers of finished epochs of which there is a whole checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, state: Any) -> None:
        """Starts saving the state after `epoch` finished epochs; an earlier save is awaited."""
        self._manager.save(epoch, args=ocp.args.StandardSave(state))

    def restore(self, epoch: int, like: Any) -> Any:
        """The state after `epoch` epochs.

        Args:
          epoch: number of finished epochs.
          like: shapes, dtypes and shardings to restore to; see `mesh.abstract`.

        Raises:
          UserError: where there is no such checkpoint, it is damaged, or of another model.
        """
        if epoch not in self.epochs():
            raise UserError(
                f"{self._folder} has no checkpoint of epoch {epoch}; "
                f"it has {self.epochs() or 'none'}"
            )
        try:
            return self._manager.restore(epoch, args=ocp.args.StandardRestore(like))
        except Exception as error:  # Orbax and its storage raise many kinds
            raise UserError(
                f"the checkpoint {self._folder / str(epoch)} is damaged or of another model "
                f"({' '.join(str(error).split())[:200]}); give the config that it was trained "
                f"with, or remove the folder to go on from an earlier one"
            ) from error
