"""Bytes that devices exchange in one training step, and the efficiency computed from them.

    python benchmarks/exchange.py                                  # WRN-28-10, DAR-BN, 8 devices
    python benchmarks/exchange.py --step-ms=12 --link-gbps=400 --latency-us=15
    python benchmarks/exchange.py --dtype=float32 --step-ms=2400 --link-gbps=10 --per-device=16

Compiles the real training step for 8 devices (of the host, so it runs anywhere) and reads the
collective operations and their bytes out of the program. A ring all-reduce of B bytes over n
devices then takes 2 (n - 1) / n B / bandwidth, and each operation a latency. No overlap with
computation is assumed, so the efficiency is a lower bound for these figures.
In float32 the program is that of CPUs, which reduces the sixteen sums of minimal filtering where an
accelerator reduces nine.
"""

import argparse
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax
import numpy as np

from configs import default
from osed_jax.config.build import check
from osed_jax.data.long_tail import class_counts
from osed_jax.experiment import build
from osed_jax.runtime.sharding import abstract, jit_train_step, make_mesh, split

COUNTS = class_counts(5000, 10, 100.0, "exp")
FACTS = {"class_counts": COUNTS, "mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 32}
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def main() -> None:
    """Prints the collectives of a step and a table of efficiencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="28-10", help="DEPTH-WIDTH")
    parser.add_argument("--dtype", default="bfloat16", help="of the net, or float32")
    parser.add_argument("--per-device", type=int, default=128, help="images a device and step")
    parser.add_argument("--step-ms", type=float, help="of one device alone, for so many images")
    parser.add_argument("--link-gbps", type=float, default=400, help="of each device, gigabit/s")
    parser.add_argument("--latency-us", type=float, default=20, help="of one collective")
    args = parser.parse_args()
    depth, width = map(int, args.net.split("-"))
    found = _collectives(depth, width, args.dtype)
    total = sum(found)
    print(f"WRN-{args.net}: {len(found)} all-reduces a step, {total / 1e6:.2f} MB in all, ", end="")
    print(f"{sum(found) - max(found):,} bytes without the largest, median {int(np.median(found))}")
    if args.step_ms:
        _efficiencies(found, args)


def _efficiencies(found: list[int], args: argparse.Namespace) -> None:
    print("| devices | exchange, ms | efficiency | images/s |\n| ---: | ---: | ---: | ---: |")
    for devices in (1, 8, 16, 64, 256, 1024):
        ring = 2 * (devices - 1) / devices * sum(found) * 8 / (args.link_gbps * 1e9)
        exchange = 1e3 * (ring + len(found) * args.latency_us * 1e-6) if devices > 1 else 0.0
        share = args.step_ms / (args.step_ms + exchange)
        speed = devices * args.per_device / (args.step_ms + exchange) * 1e3
        print(f"| {devices:,} | {exchange:.2f} | {100 * share:.0f} % | {speed:,.0f} |")


def _collectives(depth: int, width: int, dtype: str) -> list[int]:
    """Bytes of every all-reduce of the program of one device."""
    config = default.get_config("open")
    config.model.update({"depth": depth, "widen_factor": width, "dtype": dtype})
    plain, mesh = check(config), make_mesh()
    init, train_step = build.make_training(plain, FACTS, steps_per_epoch=97, routed=True)
    state = jax.eval_shape(init, 0)
    size, parts = 16 * mesh.size, split(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((size, 32, 32, 3), np.uint8, sharding=parts),
        "label": jax.ShapeDtypeStruct((size,), np.int32, sharding=parts),
        "kind": jax.ShapeDtypeStruct((size,), np.int32, sharding=parts),
    }
    seed = abstract(jax.ShapeDtypeStruct((), np.uint32), mesh)
    lowered = jit_train_step(train_step, mesh).lower(abstract(state, mesh), batch, seed)
    found = []
    for line in lowered.compile().as_text().splitlines():
        match = re.search(r"= (.*?) (?:all-reduce|all-reduce-start)\(", line)
        if match:
            found.append(sum(map(_bytes, re.findall(r"(\w+)\[([\d,]*)\]", match[1]))))
        elif re.search(r" (all-gather|all-to-all|collective-permute|reduce-scatter)\(", line):
            print("also:", line.strip()[:120])
    return found


def _bytes(shape: tuple[str, str]) -> int:
    dtype, sides = shape
    return BYTES[dtype] * int(np.prod([int(s) for s in sides.split(",") if s]))


if __name__ == "__main__":
    main()
