"""Speed of the UNet beside PyTorch diffusers', in one run, alternating; on a CPU or one GPU.

    pip install -r requirements.txt -r benchmarks/requirements.txt
    python benchmarks/generation_beside_torch.py --configs=PATH --image_size=128

PATH is the configuration of a model in diffusers' layout; no weights are needed, both nets have
random ones. Each contender has a process of its own. A round times one denoising step of each, one
after the other: both halves of the guidance for `--batch_size` images. Printed are medians over
rounds and the range of the ratios; the first step includes imports, weights and compiling.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

OURS, EAGER = "osed-jax", "pytorch"
TOKENS = 77  # of CLIP's context


def main() -> None:
    """Runs one contender where asked, else both, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", required=True, help="folder in diffusers' layout")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=(OURS, EAGER), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        _serve(args)
        return
    workers = {name: _start(name) for name in (OURS, EAGER)}
    first = {name: _answer(worker) for name, worker in workers.items()}
    rounds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(args.rounds):
        for name, worker in workers.items():
            rounds[name].append(_ask(worker, "step"))
    peak = {name: _ask(worker, "peak") for name, worker in workers.items()}
    for worker in workers.values():
        worker.terminate()
    ratios = sorted(ours / theirs for ours, theirs in zip(rounds[OURS], rounds[EAGER]))
    print("| | seconds a step | first step | peak |\n| --- | ---: | ---: | ---: |")
    for name in workers:
        median = statistics.median(rounds[name])
        print(f"| {name} | {median:.2f} | {first[name]:.0f} s | {peak[name]:.2f} GiB |")
    middle = statistics.median(ratios)
    print(f"time of {OURS} / {EAGER}: {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def _start(name: str) -> subprocess.Popen:
    environment = {**os.environ, "BENCHMARK_BEGAN": str(time.time())}
    command = [sys.executable, *sys.argv, f"--only={name}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def _ask(worker: subprocess.Popen, question: str) -> float:
    assert worker.stdin
    print(question, file=worker.stdin, flush=True)
    return _answer(worker)


def _answer(worker: subprocess.Popen) -> float:
    assert worker.stdout
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a contender ended with the error above")
    return json.loads(line)


def _serve(args: argparse.Namespace) -> None:
    """The worker's side: seconds of the first step, then an answer to every line."""
    step = _ours(args) if args.only == OURS else _pytorch(args)
    step()
    print(time.time() - float(os.environ["BENCHMARK_BEGAN"]), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        if line.strip() == "step":
            step()
            print(time.perf_counter() - began, flush=True)
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


def _ours(args: argparse.Namespace) -> Callable[[], object]:
    from osed_jax.runtime import host_memory

    host_memory.keep()  # as main.py does

    import jax
    import jax.numpy as jnp

    from osed_jax.diffusion.stable_diffusion import init_random

    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    model = init_random(args.configs, 0, dtype=dtype)
    side, rows = args.image_size // model.downscale, 2 * args.batch_size
    latents = jnp.zeros((rows, side, side, model.latent_channels))
    context = jnp.zeros((rows, TOKENS, _unet(args)["cross_attention_dim"]), dtype)
    denoise, step = jax.jit(model.denoise), jnp.full(rows, 500)
    weights = model.params["unet"]
    return lambda: denoise(weights, latents, step, context).block_until_ready()


def _pytorch(args: argparse.Namespace) -> Callable[[], object]:
    import torch
    from diffusers import UNet2DConditionModel

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    config = _unet(args)
    net = UNet2DConditionModel.from_config(config).to(device, dtype).eval()
    vae = json.loads((Path(args.configs) / "vae" / "config.json").read_text())
    side = args.image_size // 2 ** (len(vae["block_out_channels"]) - 1)
    rows = 2 * args.batch_size
    latents = torch.zeros(rows, config["in_channels"], side, side, device=device, dtype=dtype)
    context = torch.zeros(rows, TOKENS, config["cross_attention_dim"], device=device, dtype=dtype)

    def step() -> None:
        with torch.no_grad():
            net(latents, 500, context)
        if cuda:
            torch.cuda.synchronize()

    return step


def _unet(args: argparse.Namespace) -> dict:
    return json.loads((Path(args.configs) / "unet" / "config.json").read_text())


if __name__ == "__main__":
    main()
