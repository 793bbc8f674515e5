"""Fills a store with images that cost nothing, by the real loop; also as a process to be killed.

    python -m tests.cheap_store FOLDER KILLS INDEX COUNT

fills one process's share, KILLS times only until it kills itself (SIGKILL) before a random line of
the project's code.
"""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np

from osed_jax.diffusion.samples import Samples
from osed_jax.generation.filling import fill
from osed_jax.generation.filters import Filters
from osed_jax.store.card import write_card
from osed_jax.store.writing import filling

CLASSES = ("cat", "sea_lion", "dog")
WANTED = (0, 12, 17)
SETTINGS = {"model": "cheap", "size": 8, "prompts": {"cat": ["a cat"]}}


def image(label: int, index: int) -> np.ndarray:
    """Every fifth image is black, and 7 equals 1."""
    if index % 5 == 4:
        return np.zeros((8, 8, 3), np.uint8)
    random = np.random.default_rng([label, 1 if index == 7 else index])
    return random.integers(256, size=(8, 8, 3), dtype=np.uint8)


def draw(names) -> Samples:
    images = np.stack([image(*name) for name in names])
    return Samples(images, images.repeat(2, 1).repeat(2, 2))


def draw_by_row(names) -> Samples:
    """Some images depend on their row in the batch, as rounding does in real programs."""
    drawn = draw(names)
    for row, (_, index) in enumerate(names):
        if index % 5 == 0:
            drawn.image[row, 0, 0] = row
    return drawn


def fill_cheaply(
    folder, *, share=(0, 1), settings=SETTINGS, wanted=WANTED, classes=CLASSES, **changes
):
    """Returns how many images were drawn."""
    arguments = {"draw": draw, "max_attempts": 3.0, "filters": {"drop_duplicates": True}, **changes}
    filters = Filters(min_deviation=0.02, **arguments["filters"])
    with filling(
        Path(folder),
        settings=settings,
        class_names=classes,
        wanted=wanted,
        process_index=share[0],
        process_count=share[1],
        repeated=filters.repeated,
        finish=lambda lines: write_card(Path(folder), classes, settings, lines),
    ) as store:
        return fill(
            store,
            arguments["draw"],
            lambda label, index: {"prompt": f"{label} {index}"},
            filters,
            batch_size=4,
            max_attempts=arguments["max_attempts"],
        )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _killed_after(lines: int, folder: str, share: tuple[int, int]) -> bool:
    """Fills in a process of its own; returns whether that was killed."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == signal.SIGKILL

    def trace(frame, event, _):
        nonlocal lines
        if "osed_jax" not in frame.f_code.co_filename:
            return None
        lines -= event == "line"
        if lines == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    fill_cheaply(folder, share=share, draw=draw_by_row)
    os._exit(0)


def main(folder: str, kills: str, index: str, count: str) -> None:
    share = int(index), int(count)
    moments = random.Random(0)
    killed = 0
    while killed < int(kills):
        killed += _killed_after(moments.randrange(1, 2000), folder, share)
    fill_cheaply(folder, share=share, draw=draw_by_row)


if __name__ == "__main__":
    main(*sys.argv[1:])
