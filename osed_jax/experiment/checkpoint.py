"""Checkpoints of a work directory, saved by Orbax: the last one, and some permanently."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as keep

from osed_jax.config.build import run_as_plain
from osed_jax.config.compare import differences
from osed_jax.config.field import NUMBERS
from osed_jax.errors import DamageError, UserError
from osed_jax.experiment import workdir as files
from osed_jax.files import records
from osed_jax.files.atomic import free_name
from osed_jax.files.digests import FILE as DIGESTS
from osed_jax.files.digests import check_digests, write_digests
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say

_ITEM = "default"  # Orbax's name of the folder with the state


class _Sealing(ocp.StandardCheckpointHandler):
    """Before a checkpoint is renamed, adds which run it belongs to and the digests of its files."""

    def __init__(self, about: Mapping[str, Any]):
        super().__init__()
        self._about = about

    def finalize(self, directory: Any) -> None:
        """Called in the first process, after all processes have written their parts."""
        super().finalize(directory)
        records.write_json(Path(directory) / Path(files.ABOUT).name, self._about)
        write_digests(Path(directory))


class Checkpoints:
    """The folder `checkpoints/` of a work directory; a context manager that waits for saves.

    A checkpoint is saved asynchronously, under a temporary name, and renamed once complete. So a
    killed process always leaves the last complete one. It contains the digests of its files, to
    find damage, and the config and facts of its run.
    """

    def __init__(
        self,
        workdir: Path,
        options: ocp.CheckpointManagerOptions,
        about: Mapping[str, Any] | None = None,
    ):
        """Opens the checkpoints of a work directory; see `writing` and `reading`."""
        self._workdir, self._folder = workdir, workdir.absolute() / files.CHECKPOINTS
        registry, handler = ocp.handlers.DefaultCheckpointHandlerRegistry(), _Sealing(about or {})
        for arguments in (ocp.args.StandardSave, ocp.args.StandardRestore):
            registry.add(_ITEM, arguments, handler)
        self._manager = ocp.CheckpointManager(
            self._folder, handler_registry=registry, options=options
        )

    @classmethod
    def writing(
        cls, workdir: Path, *, every: int, also: Sequence[int], about: Mapping[str, Any]
    ) -> "Checkpoints":
        """Opens for training: the last checkpoint is kept, and some permanently.

        A damaged last checkpoint is moved away, with a message, and training continues from the
        one before.

        Args:
          workdir: the work directory.
          every: checkpoints of multiples of this epoch are kept; 0: none of them.
          also: checkpoints of these epochs are kept too; other runs fork there.
          about: the `config` of the run and the facts of its `dataset`.

        Raises:
          UserError: if no checkpoint before the damaged one is left.
        """
        with cluster.first_goes_first("checkpoints"):
            if cluster.is_first():
                _set_damaged_aside(workdir)
        policies: list[Any] = [keep.LatestN(1), keep.CustomSteps(list(also))]
        if every:
            policies.append(keep.EveryNSteps(every))
        policy = keep.AnyPreservationPolicy(policies)
        return cls(workdir, ocp.CheckpointManagerOptions(preservation_policy=policy), about)

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
        try:
            self._manager.close()  # waits for a running save
        except Exception as failure:
            if error is None:
                raise self._unwritten(failure) from failure

    def _unwritten(self, failure: Exception) -> UserError:
        files.check_there(self._workdir)
        text = " ".join(str(failure).split())
        full = "No space left on device" in text
        why = "no space left on the device" if full else text[:200]
        return UserError(
            f"cannot write a checkpoint to {self._folder} ({why}); free some space or allow "
            "writing there; the same command continues from the last complete checkpoint"
        )

    def epochs(self) -> list[int]:
        """Numbers of finished epochs that have a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, state: Any) -> None:
        """Starts saving the state after `epoch` epochs; first waits for an earlier save."""
        try:
            self._manager.save(epoch, args=ocp.args.StandardSave(state))
        except Exception as failure:  # also of the earlier save
            raise self._unwritten(failure) from failure

    def restore(self, epoch: int, like: Any) -> Any:
        """The state after `epoch` epochs.

        Args:
          epoch: number of finished epochs.
          like: shapes, dtypes and shardings to restore to; see `sharding.abstract`.

        Raises:
          UserError: if there is no such checkpoint, or it is damaged, of another model or of
            another run than the work directory.
        """
        if epoch not in self.epochs():
            raise UserError(
                f"{self._folder} has no checkpoint of epoch {epoch}; "
                f"it has {self.epochs() or 'none'}"
            )
        try:
            check_whole(self._workdir, epoch)
        except DamageError as error:
            before = [e for e in self.epochs() if e < epoch]
            other = f", or remove {self._folder / str(epoch)} to use the one before"
            raise UserError(
                f"the checkpoint of epoch {epoch} is damaged: {error}; restore it from a copy"
                f"{other if before else ''}"
            ) from error
        _check_whose(self._workdir, epoch)
        try:
            return self._manager.restore(epoch, args=ocp.args.StandardRestore(like))
        except Exception as error:  # Orbax and its storage raise many kinds of error
            raise UserError(
                f"the checkpoint {self._folder / str(epoch)} is damaged or of another net "
                f"({' '.join(str(error).split())[:200]}); give the config that it was trained "
                "with, or remove the folder to continue from an earlier one"
            ) from error


def check_whole(workdir: Path, epoch: int) -> None:
    """Checks the files of a checkpoint by their digests.

    Raises:
      DamageError: naming the first file that is missing or changed.
    """
    folder = workdir / files.CHECKPOINTS / str(epoch) / _ITEM
    if not folder.is_dir():
        raise DamageError(f"{folder} is missing")
    if not check_digests(folder):
        raise DamageError(f"{folder / DIGESTS} is missing")


def _set_damaged_aside(workdir: Path) -> None:
    """Moves damaged checkpoints away, from the last one back to the last complete one."""
    epochs = files.checkpoint_epochs(workdir)
    damaged: list[tuple[int, str]] = []
    for epoch in reversed(epochs):
        try:
            check_whole(workdir, epoch)
            break
        except DamageError as error:
            damaged.append((epoch, str(error)))
    if damaged and len(damaged) == len(epochs):
        raise UserError(
            f"the checkpoint of epoch {damaged[0][0]} is damaged: {damaged[0][1]}; there is "
            "no complete one before it: restore it from a copy, or give another --workdir to "
            "train from the beginning"
        )
    for epoch, why in damaged:
        aside = free_name(workdir / f"{files.CHECKPOINTS}.damaged" / str(epoch))
        aside.parent.mkdir(exist_ok=True)
        (workdir / files.CHECKPOINTS / str(epoch)).rename(aside)
        say(
            f"the checkpoint of epoch {epoch} is damaged: {why}; it was moved to {aside}, and "
            "training continues from the one before"
        )


def _check_whose(workdir: Path, epoch: int) -> None:
    """Raises UserError if a checkpoint belongs to another run than its work directory."""
    about = files.read_about(workdir, epoch)
    changed = differences(
        about["config"],
        run_as_plain(files.read_config(workdir)),
        lambda field: field.matters_for in NUMBERS,
    )
    changed += files.changed_images(about["dataset"], files.read_facts(workdir))
    if changed:
        raise UserError(
            f"{workdir / files.CHECKPOINTS / str(epoch)} belongs to another run than "
            f"{workdir} ({'; '.join(changed)}); move it back to its own run"
        )
