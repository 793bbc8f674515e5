"""Runs the command line in processes forked from one that has imported everything already.

Imports take longer than most commands of the tests. Each line of standard input is a JSON list of
jobs that run side by side, each with `arguments`, `environment`, `folder`, `stdout` and `stderr`
(paths), `dies` (where it kills itself; see `die`) and `timeout` in seconds; each line of standard
output is a list of exit statuses. A child does what `python main.py` does after its imports: no
backend of JAX is up before the fork, so it obeys its own environment.
"""

import functools
import importlib
import itertools
import json
import os
import signal
import sys
import time
import traceback

sys.modules["transformers"] = None  # type: ignore[assignment] # as in conftest.py

import main  # noqa: E402
from osed_jax.commands.modes import MODES  # noqa: E402

# The drivers, and what they import late; not TensorFlow, whose threads a fork would lose.
LATE = ("osed_jax.reports.run_report", "sklearn.datasets", "sklearn.manifold")
for module in (*(f"osed_jax.commands.{mode}" for mode in MODES), *LATE):
    importlib.import_module(module)


def child(job: dict) -> int:
    """Runs one command with its own environment and outputs."""
    os.environ.clear()
    os.environ.update(job["environment"])
    for descriptor, path in ((1, job["stdout"]), (2, job["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(job["folder"])
    sys.argv = ["main.py", *job["arguments"]]
    if job["dies"]:
        die(*job["dies"])
    try:
        return main.run(sys.argv)
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def die(at: str, call: int) -> None:
    """Kills this process (SIGKILL) at the beginning of a call, from 1, of MODULE:FUNCTION."""
    module, _, path = at.partition(":")
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, importlib.import_module(module))
    real, calls = getattr(owner, name), itertools.count(1)

    def deadly(*given: object, **named: object) -> object:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    setattr(owner, name, deadly)


def serve() -> None:
    """Answers until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        children = [(start(job), time.monotonic() + job["timeout"]) for job in json.loads(line)]
        print(json.dumps([wait(*child) for child in children]), file=answers)


def start(job: dict) -> int:
    """Forks a child for a job; returns its pid."""
    pid = os.fork()
    if not pid:
        os._exit(child(job))
    return pid


def wait(pid: int, deadline: float) -> int:
    """Waits for a child, kills it after the deadline; returns its exit status."""
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done:
        time.sleep(0.01)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    serve()
