"""Kills the real generate command at random moments, then compares its store with a whole one.

Run by hand, from the repository's root; the model is the miniature that `--mode=finetune` makes:

    python -m tests.kill_generation WHOLE KILLED 20

WHOLE is a store that was never interrupted (made first where it is missing). KILLED is made with 20
kills (SIGKILL) and then left to finish. Moments are drawn from the seed 0: one time in four within
15 seconds of the start, else a moment after up to 40 new images.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cheap_store import tree
from tests.command_line import command
from tests.conftest import ROOT

BATCHES = "--config.generation.batch_size=10"  # small, so that kills fall within and between them


def start(store: Path) -> subprocess.Popen:
    """Starts the command on a store."""
    arguments = "--mode=generate", f"--config.oversampling.generated_dir={store}", BATCHES
    line = command("--config=configs/digits.py:osed", *arguments)
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)


def images(store: Path) -> int:
    """How many images are there."""
    return len(list(store.glob("*/0*.png")))


def wait(process: subprocess.Popen, store: Path, moments: random.Random) -> None:
    """Waits for the moment of the next kill, or for the end."""
    early = moments.random() < 0.25
    deadline = time.monotonic() + (moments.uniform(0, 15) if early else float("inf"))
    enough = images(store) + moments.randint(1, 40)
    while process.poll() is None and time.monotonic() < deadline and images(store) < enough:
        time.sleep(0.01)
    time.sleep(moments.uniform(0, 0.3))


def main(whole: Path, killed: Path, kills: int) -> int:
    """Prints how many images each life of the process left behind, then the verdict."""
    if not whole.exists():
        assert start(whole).wait() == 0
    moments = random.Random(0)
    for number in range(1, kills + 1):
        process = start(killed)
        wait(process, killed, moments)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            print(f"it finished before kill {number}")
            return 1
        print(f"kill {number}: {images(killed)} images", flush=True)
    assert start(killed).wait() == 0
    equal = tree(whole) == tree(killed)
    print(f"after {kills} kills the store is {'equal, byte for byte' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
