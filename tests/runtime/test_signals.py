"""Ctrl-C and SIGTERM, sent to real processes at moments that they tell."""

import signal
import subprocess
import sys

import pytest

from tests.command_line import command, environment
from tests.conftest import ROOT

START = """
import sys, time
from osed_jax.runtime import signals
from osed_jax.runtime.exit_status import exit_status_of

def wait():
    print("ready", flush=True)
    time.sleep(10_000)

class Swallowing:  # as a callback of JAX may be
    def __del__(self):
        wait()

def swallow():
    Swallowing()
    time.sleep(10_000)
"""
AT_ONCE = "signals.at_once(); wait()"
RAISED = "sys.exit(exit_status_of(lambda: (signals.by_exception(), wait())))"
SWALLOWED = "sys.exit(exit_status_of(lambda: (signals.by_exception(), swallow())))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", [AT_ONCE, RAISED, SWALLOWED])
def test_a_signal_is_one_line_and_its_status(program, number):
    with subprocess.Popen(
        [sys.executable, "-c", START + program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        said = process.stderr.read()
    name = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert said == f"error: {name}; the same command continues from what is saved\n"
    assert process.returncode == 128 + number


def test_ctrl_c_during_imports_is_one_line(tmp_path):
    with subprocess.Popen(
        command("--config=configs/digits.py:erm", f"--workdir={tmp_path}"),
        cwd=ROOT,
        env={**environment(), "PYTHONPROFILEIMPORTTIME": "1"},  # tells every import as it ends
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        imports = iter(process.stderr.readline, "")
        next(line for line in imports if line.endswith("absl.flags\n"))
        process.send_signal(signal.SIGINT)
        said = [line for line in imports if not line.startswith("import time:")]
    assert process.returncode == 130
    assert said == ["error: interrupted; the same command continues from what is saved\n"]


def test_what_libraries_do_at_exit_adds_nothing_to_an_error():
    program = "import atexit; atexit.register(lambda: 1 / 0); print('out'); signals.end(2)"
    done = subprocess.run(
        [sys.executable, "-c", START + program], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "out\n", "")
