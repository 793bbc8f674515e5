"""Speed of the training step beside PyTorch's, in one run, alternating.

    pip install -r requirements.txt -r benchmarks/requirements.txt
    python benchmarks/training.py --json=training.json                  # sizes for a CPU or a GPU
    python benchmarks/training.py --sizes=wrn-16-2:128,resnet32:128:flip-crop --rounds=7

Every contender trains the same net on batches of the same OPeN plan, with DAR-BN, the dropout of
WideResNets and the augmentation of the recipe; a quarter of the rows is noise. Each has a process
of its own. A round times each contender once, one after the other, and gives the ratio of the two
speeds. Medians over rounds and the range of the ratios are printed, since single times on a shared
machine mean little. The time of the first step includes imports, weights, and compiling with an
empty cache.

Sizes are NET:BATCH, or NET:BATCH:flip-crop for flip and crop alone; nets are wrn-DEPTH-WIDTH and
resnetDEPTH. FLOP/s count multiplications and additions of the convolutions and the last layer,
forward once and backward twice. The matrix rate is that of one large product in the same precision,
measured in the same run. Below it: this project's step at other batch sizes, its evaluation, and
each feeder alone.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both share the device

from osed_jax.runtime import host_memory

if "--only=osed-jax" in sys.argv:
    host_memory.keep()  # as main.py does

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.training_sizes import IMAGE_SIZE, RECIPE, WANTED, Size
from osed_jax.batches import plan as plans
from osed_jax.batches.augment import augment
from osed_jax.batches.feeders import ResidentFeeder, TfDataFeeder
from osed_jax.data.images import ArrayImages, Bank
from osed_jax.data.long_tail import class_counts
from osed_jax.experiment import build
from osed_jax.runtime.sharding import jit_eval_step, jit_train_step, make_mesh, replicate, split
from osed_jax.training.state import create_state
from osed_jax.training.step import make_eval_step

OURS, EAGER, COMPILED = "osed-jax", "pytorch eager", "pytorch compiled"
SIZES = {"cpu": "wrn-28-10:16,wrn-16-2:128,resnet32:128:flip-crop", "gpu": "wrn-28-10:128"}
SECONDS = 4.0  # least time of a measurement
COUNTS = class_counts(5000, 10, 100.0, "exp")
FACTS = {
    "class_counts": COUNTS,
    "image_size": IMAGE_SIZE,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.201),
}

Step = Callable[[int], None]  # runs this many steps and waits for the last one


def main() -> None:
    """Runs one contender if asked, else all of them, and prints a table."""
    args = _arguments()
    if args.only:
        _serve(args.only, Size.parse(args.sizes))
        return
    platform = jax.default_backend()
    sizes = [Size.parse(text) for text in (args.sizes or SIZES[platform]).split(",")]
    report: dict[str, Any] = {"platform": platform, "device": jax.devices()[0].device_kind}
    report["matrix_rate"] = _matrix_rate(platform)
    packages = [n for n in ("jax", "flax", "torch") if importlib.util.find_spec(n)]
    report["versions"] = {n: importlib.metadata.version(n) for n in packages}
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    rate = report["matrix_rate"] / 1e12
    print(f"{report['device']}, {os.cpu_count()} cores: one large product {rate:.3g} TFLOP/s")
    report["sizes"] = {str(size): _compare(size, args, report["matrix_rate"]) for size in sizes}
    report["batch_sizes"] = {str(s): _by_batch_size(s) for s in sizes if not args.no_scan}
    report["feeders"] = _feeders()
    print("\nfeeders alone: " + _listed(report["feeders"]) + " images/s")
    if args.profile:
        step = _Ours(sizes[0])
        step(3)
        with jax.profiler.trace(args.profile):
            step(5)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="", help=f"{WANTED}; separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default=f"{OURS},{EAGER},{COMPILED}")
    parser.add_argument("--no-scan", action="store_true", help="leave out other batch sizes")
    parser.add_argument("--profile", help="folder for a trace of this project's step")
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(size: Size, args: argparse.Namespace, matrix_rate: float) -> dict[str, Any]:
    contenders = args.contenders.split(",")
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(name, size)) for name in contenders}
        results = {name: worker.first | {"rounds": []} for name, worker in workers.items()}
        counts = {
            n: max(1, round(SECONDS / worker.seconds(2) * 2)) for n, worker in workers.items()
        }
        for _ in range(args.rounds):
            for name, worker in workers.items():
                seconds = worker.seconds(counts[name]) / counts[name]
                results[name]["rounds"].append(size.batch / seconds)
    flops = 3 * size.forward_flops()
    for result in results.values():
        speed = statistics.median(result["rounds"])
        pairs = [ours / theirs for ours, theirs in zip(results[OURS]["rounds"], result["rounds"])]
        result |= {
            "images_per_second": speed,
            "flops_per_second": speed * flops,
            "share_of_matrix_rate": speed * flops / matrix_rate,
            "ours_over_this": [min(pairs), statistics.median(pairs), max(pairs)],
        }
    shares = _shares_of_a_step(size, size.batch / results[OURS]["images_per_second"])
    _print(size, results, shares)
    return {"contenders": results, "beside_the_net": shares}


def _by_batch_size(size: Size) -> dict[str, dict[int, float]]:
    """Images a second of a step and of evaluation, at halved, doubled and doubled again batches."""
    found: dict[str, dict[int, float]] = {"training": {}, "evaluation": {}}
    for scale in (0.5, 1, 2, 4):
        batch_size = int(size.batch * scale)
        for name, make in (("training", _Ours), ("evaluation", _evaluation)):
            step = make(size._replace(batch=batch_size))
            step(2)
            count = max(1, round(SECONDS / _timed(step, 1)))
            seconds = statistics.median(_timed(step, count) / count for _ in range(3))
            found[name][batch_size] = batch_size / seconds
    for name, speeds in found.items():
        print(f"{name}, {size.net}, by batch size: {_listed(speeds)} images/s")
    return found


def _listed(speeds: dict) -> str:
    return ", ".join(f"{name}: {float(f'{speed:.3g}'):,g}" for name, speed in speeds.items())


def _print(size: Size, results: dict[str, Any], shares: dict[str, float]) -> None:
    print(f"\n{size.net}, batch {size.batch}, augmentation {size.augmentation}\n")
    head = (
        "",
        "images/s",
        "OSeD-JAX / this one (range)",
        "GFLOP/s",
        "of matrix rate",
        "first step",
        "peak",
    )
    print("| " + " | ".join(head) + " |\n| --- " + "| ---: " * (len(head) - 1) + "|")
    for name, r in results.items():
        low, middle, high = r["ours_over_this"]
        print(
            f"| {name} | {r['images_per_second']:.3g} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {r['flops_per_second'] / 1e9:.3g} | {100 * r['share_of_matrix_rate']:.0f} % "
            f"| {r['first_step_seconds']:.0f} s | {r['peak_gib']:.2f} GiB |"
        )
    print(", ".join(f"{name}: {100 * share:.1f} % of a step" for name, share in shares.items()))


def _timed(step: Step, count: int) -> float:
    began = time.perf_counter()
    step(count)
    return time.perf_counter() - began


def _make(name: str, size: Size) -> Step:
    """A contender, ready to run."""
    return _Ours(size) if name == OURS else _pytorch(name.split()[1], size)


class _Ours:
    """The project's own step, fed by its own feeder."""

    def __init__(self, size: Size):
        config, mesh = _config(size), make_mesh()
        init, step = build.make_training(config, FACTS, steps_per_epoch=97, routed=True)
        self._step = jit_train_step(step, mesh)
        self._seed = replicate(np.uint32(0), mesh)
        self._state = replicate(init(0), mesh)
        self._batches = _endless(ResidentFeeder(_bank(), split(mesh)), _plan(size.batch))
        self._metrics: dict[str, jax.Array] = {}

    def __call__(self, count: int) -> None:
        for _ in range(count):
            self._start()
        jax.block_until_ready((self._state, self._metrics))

    def host_seconds(self) -> float:
        """Seconds that the host needs to start one step on an idle device."""
        jax.block_until_ready(self._state)
        return _timed(lambda _: self._start(), 1)

    def _start(self) -> None:
        self._state, self._metrics = self._step(self._state, next(self._batches), self._seed)


def _evaluation(size: Size) -> Step:
    """The project's own evaluation of images that are on the host."""
    config, mesh = _config(size), make_mesh()
    model = build.make_model(config, len(COUNTS), routed=False)
    tx = build.make_optimizer(config, steps_per_epoch=97)
    augmentation = build.make_augmentation(config, FACTS, noise=False)
    eval_step = jit_eval_step(make_eval_step(model=model, augmentation=augmentation), mesh)
    state = jax.jit(lambda: create_state(model, tx, seed=0, image_size=32))()
    state = replicate(state.replace(opt_state=()), mesh)
    image = _bank().take(np.arange(size.batch))

    def run(count: int) -> None:
        for _ in range(count):
            jax.device_get(eval_step(state, jax.device_put(image, split(mesh))))

    return run


def _pytorch(form: str, size: Size) -> Step:
    import torch
    import torch_training

    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = size.augmentation == RECIPE
    step = torch_training.make_step(
        form, size.model(), num_classes=len(COUNTS), recipe=recipe, device=device
    )
    plan, images = _plan(size.batch), _bank()
    index = 0

    def run(count: int) -> None:
        nonlocal index
        for _ in range(count):
            i = index % len(plan)
            image = images.take(plan.row[i])
            step(torch_training.to_batch(image, plan.label[i], plan.kind[i], device))
            index += 1
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _config(size: Size) -> dict[str, Any]:
    return size.config("float32" if jax.default_backend() == "cpu" else "bfloat16")


def _plan(batch_size: int) -> plans.Plan:
    """Whole batches of a deferred epoch."""
    plan = plans.balanced_plan(
        seed=0,
        epoch=160,
        label=np.repeat(np.arange(10), COUNTS),
        generated_label=np.zeros(0, np.int64),
        replace_prob=plans.replace_probability(COUNTS, 1 / 3),
        noise_share=1.0,
        batch_size=batch_size,
    )
    return plans.Plan(plan.label[:-1], plan.kind[:-1], plan.row[:-1])


def _bank() -> Bank:
    pixels = np.random.default_rng(0).integers(256, size=(sum(COUNTS), 32, 32, 3), dtype=np.uint8)
    return Bank(ArrayImages(pixels))


def _endless(feeder: ResidentFeeder, plan: plans.Plan) -> Any:
    while True:
        yield from feeder.batches(plan)


class _Worker:
    """A contender in a process of its own, so that its idle threads do not disturb the others."""

    def __init__(self, name: str, size: Size):
        self._empty = tempfile.TemporaryDirectory()
        empty = self._empty.name
        caches = {"JAX_COMPILATION_CACHE_DIR": empty, "TORCHINDUCTOR_CACHE_DIR": empty}
        self._process = subprocess.Popen(
            [sys.executable, __file__, f"--only={name}", f"--sizes={size}"],
            env={**os.environ, **caches, "BENCHMARK_BEGAN": str(time.time())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process, self._empty:
            self._process.terminate()

    def seconds(self, count: int) -> float:
        """Seconds of this many steps."""
        assert self._process.stdin
        print(count, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a contender ended with the error above")
        return json.loads(line)


def _serve(name: str, size: Size) -> None:
    """The worker's side: after the first step, for every number on standard input its seconds."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # compilers print
    step = _make(name, size)
    step(1)
    first = {"first_step_seconds": time.time() - float(os.environ["BENCHMARK_BEGAN"])}
    step(1)
    print(json.dumps(first | {"peak_gib": _peak_bytes(name) / 2**30}), file=answers)
    for line in sys.stdin:
        print(_timed(step, int(line)), file=answers)


def _peak_bytes(name: str) -> float:
    """Of the device's memory, or of the process on a CPU."""
    if jax.default_backend() == "cpu":
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    if name == OURS:
        return (jax.devices()[0].memory_stats() or {})["peak_bytes_in_use"]
    import torch

    return torch.cuda.max_memory_allocated()


def _matrix_rate(platform: str) -> float:
    """Operations a second of one large matrix product, the best of five."""
    side, dtype = (2048, jnp.float32) if platform == "cpu" else (8192, jnp.bfloat16)
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: x @ x)
    product(a).block_until_ready()
    times = [_timed(lambda count: [product(a) for _ in range(count)][-1].block_until_ready(), 5)]
    times += [_timed(lambda _: product(a).block_until_ready(), 1) * 5 for _ in range(5)]
    return 2 * side**3 * 5 / min(times)


def _feeders() -> dict[str, float]:
    """Images a second that each feeder hands to an idle device, at batch 128."""
    mesh, found = make_mesh(), {}
    for name, feeder in (("resident", ResidentFeeder), ("tfdata", TfDataFeeder)):
        try:
            batches = _endless(feeder(_bank(), split(mesh)), _plan(128))
        except ImportError:  # no TensorFlow
            continue

        feed = _feeding(batches)
        feed(20)
        found[name] = 128 * 200 / statistics.median(_timed(feed, 200) for _ in range(5))
    return found


def _feeding(batches: Any) -> Step:
    def feed(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(next(batches))

    return feed


def _shares_of_a_step(size: Size, step_seconds: float) -> dict[str, float]:
    """How much of a step feeder, augmentation and the host take where each runs alone."""
    config, mesh = _config(size), make_mesh()
    settings = build.make_augmentation(config, FACTS, noise=True)
    batches = _endless(ResidentFeeder(_bank(), split(mesh)), _plan(size.batch))
    one = next(batches)
    augmented = jax.jit(lambda image, kind, key: augment(image, kind, key, settings))
    key = jax.random.key(0)

    def show(count: int) -> None:
        for _ in range(count):
            augmented(one["image"], one["kind"], key).block_until_ready()

    found = {}
    for name, run in (("feeder", _feeding(batches)), ("augmentation and noise", show)):
        run(2)
        found[name] = min(_timed(run, 10) for _ in range(3)) / 10 / step_seconds
    ours = _Ours(size)
    ours(2)
    found["host"] = statistics.median(ours.host_seconds() for _ in range(5)) / step_seconds
    return found


if __name__ == "__main__":
    main()
