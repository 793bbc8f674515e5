"""From noise or from real images? The runs behind docs/starting_from_real_images.md, and its table.

    python benchmarks/starting_from_real_images.py --workdir=runs/real   # trains what is missing
    python benchmarks/starting_from_real_images.py                       # the table of what is kept

Digits with 100 images of the most frequent class and 1 of the rarest. A half-trained and a good
generator, those of benchmarks/when_it_pays.py after so many steps, each fill a store from noise and
one from the long tail's own images at each strength. `fill` is trained with every store, beside
resampling (`ros`). What is finished is skipped, and the figures are kept after each seed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from absl import logging

from benchmarks.when_it_pays import ROOT, Judge, Study, generator_config, write_csv
from benchmarks.when_it_pays_answers import FIGURES, read_csv
from osed_jax import workdir
from osed_jax.commands.finetune import finetune
from osed_jax.commands.generate import generate
from osed_jax.commands.train import train
from osed_jax.console import say
from osed_jax.evaluation.statistics import over_seeds
from osed_jax.evaluation.tables import Table, markdown, written
from osed_jax.loading import Config

STEPS = {500: "half-trained", 1500: "good"}  # of the generators
STRENGTHS = (0.3, 0.6, 0.9)
SEEDS = (0, 1, 2)  # of the runs; generators and stores have one
RAREST = 1
NOISE = "noise"


def study(folder: Path) -> Study:
    """The setting, in which one long tail is taken."""
    return Study(folder, steps=tuple(STEPS), rarest=(RAREST,), seeds=SEEDS)


def stores() -> Iterator[tuple[int, str]]:
    """What is drawn: a generator's steps, and what its images start from."""
    for steps in STEPS:
        yield from ((steps, start) for start in (NOISE, *map(str, STRENGTHS)))


def store_config(of: Study, steps: int, start: str, **changes: Any) -> Config:
    """The config that draws a store, or that trains with it."""
    fields = {
        "generation.model": str(of.generator(steps)),
        "oversampling.generated_dir": str(of.folder / f"generated_{steps}_from_{start}"),
    }
    if start != NOISE:
        fields |= {"generation.start_from": "train", "generation.strength": (float(start),)}
    return of.config("fill", RAREST, **fields, **changes)


def main() -> None:
    """Trains what is missing, if asked to; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, help="of all runs; without it nothing is trained")
    usual = ROOT / "results" / "starting_from_real_images"
    parser.add_argument("--kept", type=Path, default=usual, help="folder of the kept figures")
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    if args.workdir:
        make(study(args.workdir), args.kept)
    say(markdown(table(args.kept)))


def make(of: Study, kept: Path) -> None:
    """Fine-tunes, draws and trains what is missing; keeps the figures after each seed."""
    for before, steps in zip((0, *of.steps), of.steps):
        finetune(generator_config(of, before, steps))
    for steps, start in stores():
        generate(store_config(of, steps, start))
    judge, lines = Judge(of), []
    for seed in of.seeds:
        runs = {("", ""): of.config("ros", RAREST, seed=seed)}
        runs |= {key: store_config(of, *key, seed=seed) for key in stores()}
        for (steps, start), config in runs.items():
            directory = of.folder / f"run_{steps}_{start}.seed_{seed}"
            train(config, directory)
            line = {"steps": steps, "start": start, "seed": seed}
            lines.append(line | _figures(directory, judge, config, bool(start)))
        write_csv(kept / "runs.csv", lines)
    first = workdir.read_json(of.folder / "run__.seed_0" / "summary.json")
    setting = {name: first[name] for name in ("devices", "machine", "versions", "config")}
    workdir.write_json(kept / "setting.json", setting)


def _figures(directory: Path, judge: Judge, config: Config, generated: bool) -> dict[str, Any]:
    """Of a line of `runs.csv`: test accuracies, and the share of images read as their class."""
    summary = workdir.read_json(directory / "summary.json")
    folder = Path(config["oversampling"]["generated_dir"])
    return {
        "recognised": judge.share(folder) if generated else "",
        "top1": summary["top1"],
        **{group: found["accuracy"] for group, found in summary["groups"].items()},
        "wall_seconds": summary["wall_seconds"],
    }


def table(kept: Path) -> Table:
    """Accuracies of `fill` with each store, and what starting from real images gains over noise."""
    lines = {(r["steps"], r["start"], r["seed"]): r for r in read_csv(kept / "runs.csv")}
    seeds = sorted({key[2] for key in lines})

    def values(steps: Any, start: str, figure: str) -> np.ndarray:
        return np.asarray([float(lines[str(steps), start, seed][figure]) for seed in seeds])

    header = ["generator", "images start from", "recognised (%)"]
    for words in FIGURES.values():
        header += [words, f"{words}: over noise"]
    rows = [["none (resampling)", "", ""]]
    for figure in FIGURES:
        rows[0] += [written(over_seeds(values("", "", figure))), ""]
    for steps, start in stores():
        recognised = values(steps, start, "recognised")[0]
        from_what = NOISE if start == NOISE else f"real images, strength {start}"
        row = [STEPS[steps], from_what, f"{100 * recognised:.1f}"]
        for figure in FIGURES:
            shown = values(steps, start, figure)
            gain = over_seeds(shown - values(steps, NOISE, figure))
            row += [written(over_seeds(shown)), "" if start == NOISE else written(gain, sign=True)]
        rows.append(row)
    return header, rows


if __name__ == "__main__":
    main()
