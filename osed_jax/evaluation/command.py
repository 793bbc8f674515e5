"""The command that repeats a run."""

import shlex
from pathlib import Path
from typing import Any

from configs import default
from osed_jax import experiment
from osed_jax.config import changed_fields, check, method_name
from osed_jax.experiment import Config


def default_of(method: str) -> Config:
    """A method's own defaults, as far as a run's numbers follow from them."""
    return experiment.of_a_run(check(default.get_config(method)))


def reproducing_command(config: Config, workdir: Path) -> str:
    """A command line that leads to the same config, whatever file it came from.

    Args:
      config: plain, as `config.json` has it.
      workdir: a folder for the run.
    """
    method = method_name(config)
    flags = [f"--config=configs/default.py:{method}", f"--workdir={workdir}"]
    for field, (_, value) in changed_fields(default_of(method), config).items():
        flags.append(f"--config.{field}={_written(value)}")
    return " \\\n    ".join(["python main.py", *map(shlex.quote, flags)])


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    return repr(tuple(value)) if isinstance(value, list) else str(value)
