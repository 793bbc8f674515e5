"""The example runs as its first lines say, and shows what it is there to show."""

import subprocess
import sys
import time

from tests.command_line import environment
from tests.conftest import ROOT


def test_generated_images_help_the_rarest_classes_more_than_resampling_and_both_more_than_erm():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "examples.open_and_osed"],
        cwd=ROOT,
        env=environment(many_steps=True),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr and time.monotonic() - began < 600
    counts, _, *rows = done.stdout.splitlines()
    assert counts.endswith("100 59 35 21 12 7 4 2 1 1")
    rarest = {name: float(figure) for name, _, figure in map(str.split, rows)}
    assert list(rarest) == ["erm", "ros", "open", "osed", "fill"]
    assert rarest["erm"] + 10 < rarest["ros"] and rarest["ros"] + 10 < rarest["fill"]
