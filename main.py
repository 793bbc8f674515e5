"""Trains and compares long-tailed classifiers, generates images for them; see README.md."""

import errno
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from osed_jax import cluster
from osed_jax.errors import UserError

FLAGS = flags.FLAGS
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name another place or allow it"),
}
app.define_help_flags()
MODES = (  # each a module of osed_jax/commands/, with a function of the same name
    "train",
    "sweep",
    "tune",
    "evaluate",
    "compare",
    "diagnose",
    "gap",
    "generate",
    "verify",
    "filter",
    "finetune",
)
OLD_MODES = {"adapt": "finetune", "select": "filter"}
WITHOUT_WORKDIR = ("generate", "verify", "finetune", "filter")  # their folders are config fields
flags.DEFINE_string("mode", "train", f"What to do: {', '.join(MODES)}.")
flags.DEFINE_string(
    "workdir", None, "Folder of the run; with --mode=sweep or compare, of many runs."
)
config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py:METHOD; override fields by --config.FIELD=VALUE."
)
flags.DEFINE_bool("distributed", False, "Join other processes as the environment says.")
flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, given by hand.")
flags.DEFINE_integer("num_processes", None, "Processes that train or evaluate together.")
flags.DEFINE_integer("process_id", None, "Of this process, counted from 0.")


def parse(argv: list[str]) -> ConfigDict | None:
    """Parses the command line; returns the config with its overrides."""
    try:
        extra = FLAGS(argv)[1:]
        config = FLAGS.config
        if config is not None:
            config.keys()  # a missing file makes itself known only when it is used
    except Exception as error:  # a config file's own complaint comes wrapped in a traceback
        from osed_jax.renames import renamed_flags

        text = renamed_flags(argv)
        text = text or " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(f"{text.split('UserError: ')[-1]} (see python main.py --help)") from error
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    return config


def main(config: ConfigDict | None) -> None:
    """Calls one command, imported late, so that a mistyped value is answered at once."""
    if FLAGS.mode in OLD_MODES:
        raise UserError(f"--mode={FLAGS.mode} is called --mode={OLD_MODES[FLAGS.mode]} now")
    if FLAGS.mode not in MODES:
        raise UserError(f"unknown --mode={FLAGS.mode}; use one of {', '.join(MODES)}")
    arguments: list[Any] = []
    if FLAGS.mode != "compare":
        if config is None:
            raise UserError("--config is missing; give for example --config=configs/digits.py:erm")
        from osed_jax.config import check

        arguments.append(check(config))
    if FLAGS.mode not in WITHOUT_WORKDIR:
        if not FLAGS.workdir:
            raise UserError("--workdir is missing; give the folder that holds or will hold the run")
        arguments.append(Path(FLAGS.workdir))
    join()
    module = importlib.import_module(f"osed_jax.commands.{FLAGS.mode}")
    getattr(module, FLAGS.mode)(*arguments)


def join() -> None:
    """Joins the other processes of a job, where flags say that there are any."""
    given = (FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    if not FLAGS.distributed and given == (None, None, None):
        return
    if FLAGS.mode not in ("train", "sweep", "evaluate"):
        raise UserError(
            f"--mode={FLAGS.mode} is not done by processes that join each other; leave out "
            f"--distributed, --coordinator_address, --num_processes and --process_id (generation "
            f"takes config.generation.process_index and process_count instead)"
        )
    cluster.join(*given)


def run(argv: list[str]) -> int:
    """Runs `main`; what a person can mend is told in one line, with exit status 2."""
    try:
        config = parse(argv)
        logging.set_verbosity(logging.ERROR)  # the libraries' warnings are not for the reader
        main(config)
        return cluster.leave(0)
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error}; {_ADVICE.get(error.errno, 'mend that')}, then start again"
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on from what is saved"
    except Exception as error:
        lost = cluster.lost(error)
        if lost is None:
            traceback.print_exc()
            return cluster.leave(1)
        message = lost
    print(f"error: {message}", file=sys.stderr)
    return cluster.leave(2)


if __name__ == "__main__":
    sys.exit(run(sys.argv))
