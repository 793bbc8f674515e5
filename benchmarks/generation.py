"""Speed of the image generator with random weights: images/s, UNet FLOP/s, memory.

    python benchmarks/generation.py --configs=PATH --image_size=512 --steps=25 --dtype=bfloat16
    python benchmarks/generation.py --configs=PATH --image_size=128 --steps=1 --full_image_size=512

The folder holds the configuration and tokenizer of a model in diffusers' layout, no weights. The
sampler compiles in a first batch that is not counted. Timed are whole batches on one device, and
the UNet alone on as many rows; the rest is text encoder, decoder and reduction. Where
`--full_image_size` or `--full_steps` differ from what was run, the figures named `computed_` were
not measured: UNet time grows with its operations as XLA counts them for both sizes, the rest with
the pixels.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp

from osed_jax.config.choices import SCHEDULERS
from osed_jax.diffusion.sampler import Sampler
from osed_jax.diffusion.stable_diffusion import StableDiffusion, init_random


def main() -> None:
    """Run, print a table, write the same as JSON where asked."""
    args = _arguments()
    model = init_random(args.configs, 0, dtype=jnp.dtype(args.dtype))
    figures = _settings(args, model) | _measure(args, model)
    if args.full_image_size != args.image_size or args.full_steps != args.steps:
        figures |= _at_full_size(args, model, figures)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(
            f"{name:{width}}  {value:.4g}"
            if isinstance(value, float)
            else f"{name:{width}}  {value}"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", required=True, help="folder in diffusers' layout")
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--size", type=int, default=32, help="training size, reduced to")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="dpmsolver++")
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=1, help="timed batches, the fastest counts")
    parser.add_argument("--full_image_size", type=int, default=512, help="size computed for")
    parser.add_argument("--full_steps", type=int, default=25, help="steps computed for")
    parser.add_argument("--json", help="file to write")
    return parser.parse_args()


def _sampler(args: argparse.Namespace, model: StableDiffusion, steps: int, size: int) -> Sampler:
    return Sampler(
        model,
        batch_size=args.batch_size,
        image_size=size,
        size=args.size,
        scheduler=args.scheduler,
        steps=steps,
        guidance_scale=args.guidance_scale,
        devices=jax.devices()[:1],
    )


def _settings(args: argparse.Namespace, model: StableDiffusion) -> dict:
    parameters = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in model.params.items()}
    settings = vars(args) | {"device": jax.devices()[0].device_kind}
    return settings | {f"parameters_{part}": count for part, count in parameters.items()}


def _measure(args: argparse.Namespace, model: StableDiffusion) -> dict:
    sampler = _sampler(args, model, args.steps, args.image_size)
    count = sampler.batch_size
    whole = _seconds(sampler, args.repeats)
    unet = _unet_seconds(args, model)
    flops = sampler.step_flops()
    return {
        "seconds_first_batch": whole["first"],
        "seconds_batch": whole["best"],
        "images_per_second": count / whole["best"],
        "seconds_unet_step": unet,
        "seconds_rest_of_batch": max(whole["best"] - args.steps * unet, 0.0),
        "unet_tflop_per_step_and_image": flops / count / 1e12,
        "unet_tflop_per_second": flops / unet / 1e12,
        "peak_memory_gib": _peak_memory(),
    }


def _seconds(sampler: Sampler, repeats: int) -> dict[str, float]:
    """Time of the first batch, compilation included, and of the fastest later one."""
    times = []
    rows = list(range(sampler.batch_size))
    for _ in range(1 + repeats):
        start = time.perf_counter()
        sampler(["a photo of a cat"] * len(rows), seed=0, labels=rows, indices=rows)
        times.append(time.perf_counter() - start)
    return {"first": times[0], "best": min(times[1:])}


def _unet_seconds(args: argparse.Namespace, model: StableDiffusion) -> float:
    """Time of one UNet evaluation for a batch, both halves of the guidance included."""
    rows = args.batch_size * (1 if args.guidance_scale == 1 else 2)
    side = args.image_size // model.downscale
    latents = jnp.zeros((rows, side, side, model.latent_channels))
    tokens = jnp.asarray(model.tokenize(["a photo of a cat"] * rows))
    context = jax.jit(model.encode_text)(model.params["text_encoder"], tokens)
    denoise = jax.jit(model.denoise)
    times = []
    for _ in range(1 + args.repeats):
        start = time.perf_counter()
        denoise(model.params["unet"], latents, jnp.full(rows, 500), context).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _at_full_size(args: argparse.Namespace, model: StableDiffusion, figures: dict) -> dict:
    full = _sampler(args, model, args.full_steps, args.full_image_size)
    count = full.batch_size
    flops = full.step_flops() / count / 1e12
    unet = figures["seconds_unet_step"] * flops / figures["unet_tflop_per_step_and_image"]
    pixels = (args.full_image_size / args.image_size) ** 2
    seconds = args.full_steps * unet + figures["seconds_rest_of_batch"] * pixels
    return {
        "computed_unet_tflop_per_step_and_image": flops,
        "computed_seconds_unet_step": unet,
        "computed_seconds_batch": seconds,
        "computed_images_per_second": count / seconds,
    }


def _peak_memory() -> float:
    """GiB: of the accelerator, or on CPU of this process."""
    statistics = jax.devices()[0].memory_stats() or {}
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.get("peak_bytes_in_use", kib * 1024) / 2**30


if __name__ == "__main__":
    main()
