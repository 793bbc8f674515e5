"""Trains, evaluates and compares long-tailed classifiers; see README.md."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from osed_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_enum("mode", "train", ["train", "evaluate", "compare", "adapt"], "What to do.")
flags.DEFINE_string("workdir", None, "Folder of the run; with --mode=compare, of many runs.")
config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py:METHOD; override fields by --config.FIELD=VALUE."
)


def main(argv: list[str]) -> None:
    """Parses the command line and calls one driver."""
    extra = FLAGS(argv)[1:]
    if extra:
        raise UserError(f"unexpected argument {extra[0]!r}; flags are written --name=value")
    if not FLAGS.workdir and FLAGS.mode != "adapt":
        raise UserError("--workdir is missing; give the folder that holds, or will hold, the run")
    workdir = Path(FLAGS.workdir or "")
    # Imported late, so that --help and a mistyped flag answer at once.
    if FLAGS.mode == "compare":
        from osed_jax.evaluation.compare import compare

        compare(workdir)
        return
    if FLAGS.config is None:
        raise UserError("--config is missing; give for example --config=configs/digits.py:erm")
    if FLAGS.mode == "adapt":
        from osed_jax.generation.adapt import adapt

        adapt(FLAGS.config)
    elif FLAGS.mode == "evaluate":
        from osed_jax.evaluation.evaluate import evaluate

        evaluate(FLAGS.config, workdir)
    else:
        from osed_jax.training.train import train

        train(FLAGS.config, workdir)


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
        message = "interrupted; the same command goes on from the last checkpoint"
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv))
