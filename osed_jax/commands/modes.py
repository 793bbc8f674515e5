"""The modes, and what each needs on the command line."""

from typing import NamedTuple

from osed_jax.errors import UserError


class Mode(NamedTuple):
    """A mode. Its function has the same name and is in the module osed_jax/commands/NAME.py.

    Attributes:
      config: whether it takes `--config`.
      by_method: whether it takes the config of every method.
      workdir: whether it takes `--workdir`; if not, fields of the config name its folders.
      together: whether several processes can do it together.
    """

    config: bool = True
    by_method: bool = False
    workdir: bool = True
    together: bool = False


MODES = {
    "train": Mode(together=True),
    "sweep": Mode(by_method=True, together=True),
    "tune": Mode(by_method=True),
    "evaluate": Mode(together=True),
    "compare": Mode(config=False),
    "diagnose": Mode(),
    "gap": Mode(),
    "generate": Mode(workdir=False),
    "verify": Mode(workdir=False),
    "filter": Mode(workdir=False),
    "finetune": Mode(workdir=False),
}


def mode_of(name: str) -> Mode:
    """The mode of this name; raises UserError if there is none."""
    if name not in MODES:
        raise UserError(f"unknown --mode={name}; use one of {', '.join(MODES)}")
    return MODES[name]


def check_together(name: str) -> None:
    """Raises UserError if several processes cannot do this mode together."""
    if not MODES[name].together:
        raise UserError(
            f"--mode={name} cannot be done by several processes together; leave out "
            "--distributed, --coordinator_address, --num_processes and --process_id "
            "(generation takes config.generation.process_index and process_count instead)"
        )
