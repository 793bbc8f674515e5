"""Speed and memory of feeding images that do not fit in memory: decoded from files, every epoch.

    python benchmarks/streaming.py                                     # 224 x 224 JPEGs
    python benchmarks/streaming.py --images=115846 --cores=1           # ImageNet-LT's number

Writes JPEG files of smooth random pictures to a temporary folder, and feeds two whole epochs of
them with the project's tf.data feeder. Memory is that of the process after each tenth of an epoch.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from PIL import Image, ImageFilter

from osed_jax.batches import plan as plans
from osed_jax.batches.feeders import TfDataFeeder
from osed_jax.data.images import Bank, FileImages
from osed_jax.runtime.sharding import make_mesh, split

BATCH = 128


def main() -> None:
    """Makes the files, feeds two epochs of them, prints speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(Path(folder), args.images, args.size)
        kib = sum(p.stat().st_size for p in paths) / len(paths) / 1024
        print(
            f"{len(paths):,} JPEG files of {args.size} x {args.size} pixels, {kib:.1f} KiB each, "
            f"{len(paths) * args.size**2 * 3 / 2**30:.2f} GiB decoded, {args.cores} cores"
        )
        feeder = TfDataFeeder(Bank(FileImages(paths, args.size)), split(make_mesh()))
        for epoch in range(2):
            _feed(feeder, epoch, len(paths))


def _feed(feeder: TfDataFeeder, epoch: int, count: int) -> None:
    plan = plans.natural_plan(
        seed=0, epoch=epoch, label=np.zeros(count, np.int64), batch_size=BATCH
    )
    steps, held = len(plan.row), []
    began = time.perf_counter()
    for step, batch in enumerate(feeder.batches(plan)):
        jax.block_until_ready(batch)
        if step % max(1, steps // 10) == 0:
            held.append(_resident_mib())
    seconds = time.perf_counter() - began
    print(
        f"epoch {epoch}: {count / seconds:,.0f} images/s; memory held, MiB: "
        f"{' '.join(f'{mib:.0f}' for mib in held)}"
    )


def _write(folder: Path, count: int, size: int) -> list[Path]:
    """As many files as asked for; the pictures repeat, the files do not share storage."""
    random, encoded = np.random.default_rng(0), []
    for _ in range(32):
        pixels = random.integers(256, size=(size, size, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=85)
        encoded.append(file.getvalue())
    paths = [folder / f"{i:06}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded[i % len(encoded)])
    return paths


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
