"""From noise or from real images? The runs of results/starting_from_real_images.

    python -m benchmarks.starting_from_real_images --workdir=runs/real   # trains what is missing
    python -m benchmarks.tables                                          # then: the table

Digits with 100 images of the most frequent class and 1 of the rarest. A half-trained and a good
generator, those of benchmarks/when_it_pays.py after so many steps, each fill a store from noise and
one from the long tail's own images at each strength, and one from images of other classes with soft
labels (Diff-Mix; its strengths in turn). `fill` is trained with every store, beside
resampling (`ros`). What is finished is skipped, and the figures are kept after each run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.starts_tables import NOISE, OTHER, OTHER_STRENGTHS, STEPS, stores
from benchmarks.when_it_pays import Judge, Study, arguments, generator_config, write_csv
from osed_jax.commands.finetune import finetune
from osed_jax.commands.generate import generate
from osed_jax.commands.train import train
from osed_jax.config.schema import Config
from osed_jax.files import records

SEEDS = (0, 1, 2)  # of the runs; generators and stores have one
RAREST = 1


def study(folder: Path) -> Study:
    """The setting, in which one long tail is taken."""
    return Study(folder, steps=tuple(STEPS), rarest=(RAREST,), seeds=SEEDS)


def store_config(of: Study, steps: int, start: str, **changes: Any) -> Config:
    """The config that draws a store, or that trains with it."""
    fields: dict[str, Any] = {
        "generation.model": str(of.generator(steps)),
        "oversampling.generated_dir": str(_store(of, steps, start)),
    }
    if start == OTHER:
        fields |= {"generation.start_from": OTHER, "generation.strength": OTHER_STRENGTHS}
    elif start != NOISE:
        fields |= {"generation.start_from": "train", "generation.strength": (float(start),)}
    return of.config("fill", RAREST, **fields, **changes)


def _store(of: Study, steps: int, start: str) -> Path:
    return of.folder / f"generated_{steps}_from_{start}"


def main() -> None:
    """Trains what is missing, and keeps the figures."""
    args = arguments(__doc__.splitlines()[0], "starting_from_real_images")
    make(study(args.workdir), args.keep)


def make(of: Study, kept: Path) -> None:
    """Fine-tunes, draws and trains what is missing; keeps the figures after each run."""
    for before, steps in zip((0, *of.steps), of.steps):
        finetune(generator_config(of, before, steps))
    for steps, start in stores():
        generate(store_config(of, steps, start))
    judge = Judge(of)
    shares = [(s, start, judge.share(_store(of, s, start))) for s, start in stores()]
    kept.mkdir(parents=True, exist_ok=True)
    names = ("steps", "start", "recognised")
    write_csv(kept / "stores.csv", [dict(zip(names, share)) for share in shares])
    for directory, config in runs(of):
        train(config, directory)
        keep(of, kept)


def runs(of: Study) -> Iterator[tuple[Path, Config]]:
    """Every run: its work directory, named by generator, start and seed, and its config."""
    for seed in of.seeds:
        yield of.folder / f"run_0_none.seed_{seed}", of.config("ros", RAREST, seed=seed)
        for steps, start in stores():
            directory = of.folder / f"run_{steps}_{start}.seed_{seed}"
            yield directory, store_config(of, steps, start, seed=seed)


def keep(of: Study, kept: Path) -> None:
    """Writes the figures of all finished runs: `runs.csv`, and `setting.json` of the first."""
    lines: list[dict[str, Any]] = []
    for directory, _ in runs(of):
        if not (directory / "summary.json").exists():
            continue
        summary = records.read_json(directory / "summary.json")
        _, steps, rest = directory.name.split("_", 2)
        start, _, seed = rest.partition(".seed_")
        line = {"steps": int(steps), "start": start, "seed": int(seed), "top1": summary["top1"]}
        line |= {group: found["accuracy"] for group, found in summary["groups"].items()}
        if not lines:
            names = ("devices", "machine", "versions", "config")
            records.write_json(kept / "setting.json", {name: summary[name] for name in names})
        lines.append(line | {"wall_seconds": summary["wall_seconds"]})
    write_csv(kept / "runs.csv", lines)


if __name__ == "__main__":
    main()
