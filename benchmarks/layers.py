"""Time of single layers beside PyTorch's and beside a matrix product of the same size, on a CPU.

    pip install -r requirements.txt -r benchmarks/requirements.txt
    python benchmarks/layers.py                          # the layers of ResNet-32 and WRN-16-2
    python benchmarks/layers.py --layers=160x32 --batch=16 --rounds=5

A layer CHANNELSxSIDE is a 3x3 convolution with as many channels before as after, and the batch norm
with ReLU behind it. The matrix product is the one that the convolution is by definition:
[N * SIDE * SIDE, 9 * CHANNELS] times [9 * CHANNELS, CHANNELS]. PyTorch computes eagerly, on tensors
with channels first and with channels last. A time is the median of several calls in a row.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from osed_jax.runtime import host_memory

if __name__ == "__main__":
    host_memory.keep()  # as main.py does

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from osed_jax.kinds import Kind
from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.cpu.convolution import convolve

LAYERS = "16x32,32x16,64x8,32x32,64x16,128x8"
OURS, FIRST, LAST = "OSeD-JAX", "PyTorch", "PyTorch, channels last"
Run = Callable[[], None]  # computes once and waits for the result


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default=LAYERS, help="CHANNELSxSIDE, separated by commas")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, batch {args.batch}; milliseconds\n")
    print(f"| layer | what | {OURS} | {FIRST} | {LAST} | matrix product |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for layer in args.layers.split(","):
        channels, side = map(int, layer.split("x"))
        shape = (args.batch, side, side, channels)
        runs = {OURS: _ours(shape), FIRST: _torch(shape), LAST: _torch(shape, last=True)}
        product = _product(shape)
        for what in runs[OURS]:
            contenders = {name: of_this[what] for name, of_this in runs.items()}
            if "norm" not in what:
                contenders["matrix product"] = product
            times = [f"{1e3 * t:.2f}" for t in _times(contenders, args.rounds)]
            times += [""] * (4 - len(times))
            print(f"| {layer} | {what} | " + " | ".join(times) + " |", flush=True)


def _times(contenders: dict[str, Run], rounds: int) -> list[float]:
    """Median seconds of each, after two calls that warm up.

    Threads of PyTorch wait for work without sleeping for some milliseconds after a call, so a
    contender starts when those of the one before it sleep.
    """
    found = []
    for run in contenders.values():
        time.sleep(0.1)
        times = []
        for _ in range(rounds + 2):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        found.append(statistics.median(times[2:]))
    return found


def _arrays(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, filter and gradient of the output."""
    random, channels = np.random.default_rng(0), shape[-1]
    sizes = (shape, (3, 3, channels, channels), shape)
    x, kernel, grad = (random.normal(size=size).astype(np.float32) for size in sizes)
    return x, kernel, grad


def _ours(shape: tuple[int, ...]) -> dict[str, Run]:
    x, kernel, grad = map(jnp.asarray, _arrays(shape))
    norm = RoutedBatchNorm(generated_norm="shared", noise_norm="shared")
    kind = jnp.full(shape[0], Kind.NATURAL)
    weights = norm.init(jax.random.key(0), x, kind, train=True)

    def activation(x: jax.Array) -> jax.Array:
        return jax.nn.relu(norm.apply(weights, x, kind, train=True, mutable=["batch_stats"])[0])

    def compiled(function: Callable[..., jax.Array], *arguments: jax.Array) -> Run:
        function = jax.jit(function)
        return lambda: jax.block_until_ready(function(*arguments))

    def by_input(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: convolve(x, kernel, 1), x)[1](grad)[0]

    def by_filter(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: convolve(x, kernel, 1), kernel)[1](grad)[0]

    def norm_both_ways(x: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(activation, x)[1](grad)[0]

    return {
        "forward": compiled(lambda x, kernel: convolve(x, kernel, 1), x, kernel),
        "gradient of the input": compiled(by_input, x, kernel, grad),
        "gradient of the filter": compiled(by_filter, x, kernel, grad),
        "batch norm and ReLU, forward and backward": compiled(norm_both_ways, x, grad),
    }


def _torch(shape: tuple[int, ...], *, last: bool = False) -> dict[str, Run]:
    form = torch.channels_last if last else torch.contiguous_format
    x, kernel, grad = (torch.from_numpy(a) for a in _arrays(shape))
    x, grad = (a.permute(0, 3, 1, 2).contiguous(memory_format=form) for a in (x, grad))
    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=form).requires_grad_()
    x.requires_grad_()
    scale, bias = (make(shape[-1], requires_grad=True) for make in (torch.ones, torch.zeros))
    y = functional.conv2d(x, kernel, padding=1)

    def forward() -> None:
        with torch.no_grad():
            functional.conv2d(x, kernel, padding=1)

    def gradient(of: torch.Tensor) -> Run:
        return lambda: torch.autograd.grad(y, of, grad, retain_graph=True)

    def norm_both_ways() -> None:
        out = functional.relu(functional.batch_norm(x, None, None, scale, bias, training=True))
        torch.autograd.grad(out, x, grad)

    return {
        "forward": forward,
        "gradient of the input": gradient(x),
        "gradient of the filter": gradient(kernel),
        "batch norm and ReLU, forward and backward": norm_both_ways,
    }


def _product(shape: tuple[int, ...]) -> Run:
    channels = shape[-1]
    a = jnp.ones((np.prod(shape[:3]), 9 * channels))
    b = jnp.ones((9 * channels, channels))
    product = jax.jit(jnp.dot)
    return lambda: jax.block_until_ready(product(a, b))


if __name__ == "__main__":
    main()
