"""Time of the digests of a checkpoint of WRN-28-10 and of 50,000 images of 32 pixels.

    python benchmarks/digests.py

Saves a real state (parameters, running statistics, momentum) as training does. Measures saving and
restoring it, the part of the digests in that, and the digest of images in memory.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from configs import cifar10_lt
from osed_jax.config.build import check
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.experiment import build
from osed_jax.experiment.checkpoint import Checkpoints, check_whole
from osed_jax.experiment.workdir import CHECKPOINTS
from osed_jax.files.digests import write_digests
from osed_jax.files.records import write_json
from osed_jax.runtime.sharding import abstract, make_mesh, replicate
from osed_jax.training.state import create_state

TRIALS = 3
FACTS = {"class_names": [str(c) for c in range(10)]}


def main() -> None:
    """Prints one line for each figure: the fastest and the slowest of the trials."""
    config = check(cifar10_lt.get_config("erm"))
    with tempfile.TemporaryDirectory() as folder:
        of_a_checkpoint(config, Path(folder))
    pixels = np.random.RandomState(0).randint(0, 256, (50_000, 32, 32, 3), np.uint8)
    label = np.arange(50_000) % 10
    images = ImageSet(ArrayImages(pixels), label, tuple(FACTS["class_names"]))
    tell("50,000 images: digest", images.content_sha256)


def of_a_checkpoint(config: dict[str, Any], folder: Path) -> None:
    """Saves one, and measures its parts."""
    mesh = make_mesh()
    model = build.make_model(config, 10, routed=False)
    tx = build.make_optimizer(config, steps_per_epoch=97)
    shapes = jax.eval_shape(lambda: create_state(model, tx, seed=0, image_size=32))
    random = np.random.RandomState(0)  # as hard to compress as weights
    state = replicate(
        jax.tree.map(lambda x: np.asarray(random.randn(*x.shape), x.dtype), shapes), mesh
    )
    about = {"config": config, "dataset": FACTS}
    for name in ("config", "dataset"):
        write_json(folder / f"{name}.json", about[name])
    saves = iter(range(1, TRIALS + 1))

    def save() -> None:
        with Checkpoints.writing(folder, every=1, also=[], about=about) as saved:
            saved.save(next(saves), state)

    tell("checkpoint: saving, digests included", save)
    saved = folder / CHECKPOINTS / str(TRIALS) / "default"
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    print(f"checkpoint: {size / 2**20:,.0f} MiB")
    tell("checkpoint: its digests alone, written", lambda: write_digests(saved))
    tell("checkpoint: its digests alone, checked", lambda: check_whole(folder, TRIALS))
    with Checkpoints.reading(folder) as reading:
        tell(
            "checkpoint: restoring, digests checked",
            lambda: jax.block_until_ready(reading.restore(TRIALS, abstract(shapes, mesh))),
        )


def tell(what: str, act: Callable[[], Any]) -> None:
    """Prints how long it takes."""
    seconds = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    print(f"{what}: {min(seconds):.2f} to {max(seconds):.2f} s", flush=True)


if __name__ == "__main__":
    main()
