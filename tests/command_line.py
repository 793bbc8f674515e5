"""Runs the real command line, as a person would."""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import ROOT, UNOPTIMISED

# In seconds, against tests that never end; far beyond what a busy machine takes for one.
NEVER = 1800

# A run small enough for a test: 3 classes are too few for no group, 10 keep all of them.
SMALL = (
    "--config.train.num_epochs=4",
    "--config.dataset.num_max=40",
    "--config.dataset.imbalance_ratio=8",
    "--config.train.eval_every_epochs=2",
    "--config.train.checkpoint_every_epochs=1",
    "--config.report.enabled=False",
)


def environment(devices: int = 1, *, many_steps: bool = False) -> dict[str, str]:
    """That of a command; `many_steps`: it trains for longer than optimised programs compile."""
    flags = UNOPTIMISED.replace("level=0", "level=1") if many_steps else UNOPTIMISED
    flags += f" --xla_force_host_platform_device_count={devices}"
    # The many small programs are the same in most commands: each is compiled once for all of them.
    every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {**os.environ, **every, "XLA_FLAGS": flags, "PYTHONWARNINGS": "ignore"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *map(str, arguments)]


@functools.cache
def zygote() -> subprocess.Popen:
    """The process that commands are forked from; one for each process of the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.zygote"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs main.py's `run` to its end in a process of its own; see `tests.zygote`."""
    (done,) = run_together([arguments], devices=devices)
    return done


def run_killed(*arguments: object, at: str, call: int = 1) -> None:
    """Runs main.py's `run`, which must come to the given call of a function, and is killed there.

    Args:
      arguments: of the command line.
      at: MODULE:FUNCTION or MODULE:CLASS.METHOD.
      call: number of the call, from 1, at the beginning of which SIGKILL ends the process.
    """
    (done,) = run_together([arguments], dies={0: (at, call)})
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def run_together(
    lines: Sequence[Sequence[object]],
    devices: int = 1,
    dies: Mapping[int, tuple[str, int]] | None = None,
    folders: Sequence[Path] = (),
    many_steps: bool = False,
) -> list:
    """Runs one process for each of several lists of arguments, side by side.

    Args:
      lines: a list of arguments for each process.
      devices: of each process.
      dies: number of a process -> `at` and `call`, see `run_killed`.
      folders: in which each starts; by default all in the project's.
      many_steps: see `environment`.
    """
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            {
                "arguments": command(*arguments)[2:],
                "environment": environment(devices, many_steps=many_steps),
                "stdout": f"{folder}/{i}.stdout",
                "stderr": f"{folder}/{i}.stderr",
                "dies": (dies or {}).get(i),
                "folder": str(folders[i] if folders else ROOT),
                "timeout": NEVER,
            }
            for i, arguments in enumerate(lines)
        ]
        parent = zygote()
        assert parent.stdin and parent.stdout
        print(json.dumps(jobs), file=parent.stdin, flush=True)
        return [
            subprocess.CompletedProcess(
                job["arguments"],
                code,
                *(Path(job[name]).read_text() for name in ("stdout", "stderr")),
            )
            for job, code in zip(jobs, json.loads(parent.stdout.readline()))
        ]


def run_well(*arguments: object, devices: int = 1) -> str:
    """Runs main.py, which must succeed; returns what it printed."""
    done = run(*arguments, devices=devices)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
