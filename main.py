"""Trains and compares long-tailed classifiers, generates images for them; see README.md."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from osed_jax.errors import UserError

FLAGS = flags.FLAGS
MODES = ["train", "evaluate", "compare", "generate", "verify"]
flags.DEFINE_enum("mode", "train", MODES, "What to do; the last two: with generated images.")
flags.DEFINE_string("workdir", None, "Folder of the run; with --mode=compare, of many runs.")
config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py:METHOD; override fields by --config.FIELD=VALUE."
)


def main(argv: list[str]) -> None:
    """Parses the command line and calls one driver."""
    extra = FLAGS(argv)[1:]
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    # Drivers are imported late, so that --help and a mistyped flag answer at once.
    if FLAGS.mode == "generate":
        from osed_jax.generation.generate import generate

        generate(_config())
        return
    if FLAGS.mode == "verify":
        from osed_jax.generation.verify import verify

        verify(_config())
        return
    if not FLAGS.workdir:
        raise UserError("--workdir is missing; give the folder that holds, or will hold, the run")
    workdir = Path(FLAGS.workdir)
    if FLAGS.mode == "compare":
        from osed_jax.evaluation.compare import compare

        compare(workdir)
        return
    if FLAGS.mode == "evaluate":
        from osed_jax.evaluation.evaluate import evaluate

        evaluate(_config(), workdir)
    else:
        from osed_jax.training.train import train

        train(_config(), workdir)


def _config() -> ConfigDict:
    if FLAGS.config is None:
        raise UserError("--config is missing; give for example --config=configs/digits.py:erm")
    return FLAGS.config


def run(argv: list[str]) -> int:
    """Runs `main`; what a person can mend is told in one line, with exit status 2."""
    try:
        main(argv)
        return 0
    except UserError as error:
        message = str(error)
    except (flags.Error, AttributeError, TypeError, FileNotFoundError) as error:
        if FLAGS.is_parsed():  # past the command line, these are defects and need their traceback
            raise
        message = f"{' '.join(str(error).split())}; see python main.py --help"
    except OSError as error:
        message = f"{error.strerror}: {error.filename}; free or name another place and start again"
    except KeyboardInterrupt:
        message = "interrupted; the same command goes on from what is saved"
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv))
