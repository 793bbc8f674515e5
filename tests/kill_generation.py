"""Kills the real generate command at random moments, then compares its store with a whole one.

Run by hand, from the repository's root; the model is the miniature that `--mode=adapt` makes:

    python -m tests.kill_generation WHOLE KILLED 20 14 24

WHOLE is a store that was never interrupted (made first where it is missing), KILLED is made with
20 kills (SIGKILL), each 14 to 24 seconds after a start (when it draws, here), at moments
drawn from the seed 0, and is then left to finish.
"""

import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.cheap_store import tree
from tests.command_line import command
from tests.conftest import ROOT

BATCHES = "--config.generation.batch_size=10"  # small, so that kills fall within and between them


def generate(store: str, seconds: float | None = None) -> bool:
    """Runs the command, to its end or until it is killed; returns whether it was killed."""
    arguments = "--mode=generate", f"--config.oversampling.generated_dir={store}", BATCHES
    process = subprocess.Popen(
        command("--config=configs/digits.py:osed", *arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert process.wait(seconds) == 0
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def main(whole: str, killed: str, kills: str, low: str, high: str) -> int:
    """Prints how many images each life of the process left behind, then the verdict."""
    if not Path(whole).exists():
        generate(whole)
    moments, done = random.Random(0), 0
    while done < int(kills):
        if not generate(killed, moments.uniform(float(low), float(high))):
            print(f"finished after {done} kills; take less time")
            return 1
        done += 1
        print(f"kill {done}: {len(list(Path(killed).glob('*/0*.png')))} images", flush=True)
    generate(killed)
    equal = tree(Path(whole)) == tree(Path(killed))
    print(f"after {done} kills the store is {'equal, byte for byte' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
