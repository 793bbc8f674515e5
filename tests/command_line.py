"""Runs the real command line, as a person would."""

import os
import subprocess
import sys

from tests.conftest import ROOT, UNOPTIMISED

# A run small enough for a test: 3 classes are too few for no group, 10 keep all of them.
SMALL = (
    "--config.train.num_epochs=4",
    "--config.dataset.num_max=40",
    "--config.dataset.imbalance_ratio=8",
    "--config.train.eval_every_epochs=2",
    "--config.train.checkpoint_every_epochs=1",
    "--config.report.enabled=False",
)


def environment(devices: int = 1) -> dict[str, str]:
    flags = f"{UNOPTIMISED} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONWARNINGS": "ignore"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *map(str, arguments)]


def run(*arguments: object, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs main.py to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_well(*arguments: object, devices: int = 1) -> str:
    """Runs main.py, which must succeed; returns what it printed."""
    done = run(*arguments, devices=devices)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
