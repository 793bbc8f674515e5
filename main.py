"""Trains and compares long-tailed classifiers, generates images for them; see README.md."""

if __name__ == "__main__":
    from osed_jax.runtime import host_memory, signals

    signals.at_once()  # first: the imports below take a second
    host_memory.keep()  # before libraries start threads

import importlib
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from osed_jax.commands.modes import MODES, check_together, mode_of
from osed_jax.config.command_line import missing_config, of_methods, of_one, parsed
from osed_jax.config.compare import flattened
from osed_jax.errors import UserError
from osed_jax.files.atomic import in_utf8
from osed_jax.runtime import cluster, signals
from osed_jax.runtime.exit_status import exit_status_of

FLAGS = flags.FLAGS
app.define_help_flags()
flags.DEFINE_string("mode", "train", f"What to do, one of {', '.join(MODES)}.")
flags.DEFINE_string(
    "workdir", None, "Folder of the run; for sweep, tune and compare: folder of all runs."
)
config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py:METHOD; set fields with --config.FIELD=VALUE."
)
flags.DEFINE_bool("distributed", False, "Join the other processes that the environment names.")
flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, without --distributed.")
flags.DEFINE_integer("num_processes", None, "Number of processes that train or evaluate together.")
flags.DEFINE_integer("process_id", None, "Number of this process, counted from 0.")
flags.DEFINE_float(
    "join_timeout", cluster.JOIN_TIMEOUT, "Seconds within which all processes must join.", 1.0
)


def main(config: ConfigDict | None, argv: list[str]) -> None:
    """Calls one command, imported late, so that a mistyped value is answered at once."""
    mode, arguments = mode_of(FLAGS.mode), []
    if mode.config:
        if config is None:
            raise UserError(missing_config(FLAGS["config"].present))
        arguments.append(of_methods(FLAGS.mode, argv) if mode.by_method else of_one(config, argv))
    if mode.workdir:
        if not FLAGS.workdir:
            raise UserError("--workdir is missing; give the folder of the run, also a new one")
        if not in_utf8(FLAGS.workdir):
            raise UserError(f"--workdir={FLAGS.workdir} is not in UTF-8; give another name")
        arguments.append(Path(FLAGS.workdir).expanduser())
    given = (FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    if FLAGS.distributed or given != (None, None, None):
        check_together(FLAGS.mode)
        settings = {"mode": FLAGS.mode, **flattened(config.to_dict() if config else {})}
        cluster.join(*given, timeout=FLAGS.join_timeout, settings=settings)
    module = importlib.import_module(f"osed_jax.commands.{FLAGS.mode}")
    signals.by_exception()
    getattr(module, FLAGS.mode)(*arguments)


def run(argv: list[str]) -> int:
    """Runs the program; returns its exit status."""

    def command() -> None:
        config = parsed(argv)
        logging.set_verbosity(logging.FATAL)  # what libraries log as errors, they raise too
        main(config, argv)

    return exit_status_of(command)


if __name__ == "__main__":
    status = run(sys.argv)
    if status:
        signals.end(status)
