"""When do generated images pay? The runs of results/when_it_pays.

    python -m benchmarks.when_it_pays --workdir=runs/when_it_pays   # trains missing runs
    python -m benchmarks.tables --figures                           # then: tables and map

On digits. A miniature generator is trained, and after each of STEPS it fills a store. For each of
RAREST there is a long tail whose rarest class has this many real images. Each pair is a cell of the
map: `fill` with that store on that long tail, compared with the two methods that need no generator,
`ros` (resampling) and `open` (noise) from epoch 0. Deferred noise would be easier to beat here.

The generator learns from digits that are in no long tail, no validation part and no test set. The
validation part trains the judge, a support-vector machine. The quality of the generator is the
share of a store's images that the judge reads as their class. --mode=gap measures the store of each
cell in the features of the `ros` run of the same long tail and seed.

Finished runs are skipped, interrupted ones continue. The seeds are done one after the other, and
the figures are kept after each long tail, so that a part of the map can be read early.
"""

import argparse
import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from sklearn.svm import SVC

from configs import digits
from osed_jax.commands.finetune import finetune
from osed_jax.commands.gap import gap
from osed_jax.commands.generate import generate
from osed_jax.commands.train import train
from osed_jax.config.build import check
from osed_jax.config.schema import Config
from osed_jax.data.image_set import ImageSet
from osed_jax.experiment import loading
from osed_jax.files import atomic, records
from osed_jax.runtime.console import say
from osed_jax.store.reading import load_generated

# Total steps of fine-tuning: each generator continues from the one before. Most are where images
# change from noise to digits; this was found out before any run was trained.
STEPS = (200, 400, 500, 600, 700, 800, 1500)
RAREST = (1, 2, 5, 10, 20)  # real images of the rarest class
SEEDS = (0, 1, 2, 3, 4)  # seeds of the runs; the generator has only one

# Of all configs. A fifth of each class is held out, for the judge; curves and reports of each run
# would take longer than its training.
_COMMON = {
    "dataset.validation_fraction": 0.2,
    "train.eval_every_epochs": 0,
    "train.checkpoint_every_epochs": 0,
    "report.enabled": False,
}
_MEASURES = ("frechet_distance", "precision", "recall")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is crossed with what, and where it lies.

    Attributes:
      folder: of generators, stores and runs.
      steps: of fine-tuning, ascending.
      rarest: real images of the rarest class.
      seeds: of the runs.
      changes: fields that differ from the shipped setting; a test makes everything small.
    """

    folder: Path
    steps: tuple[int, ...] = STEPS
    rarest: tuple[int, ...] = RAREST
    seeds: tuple[int, ...] = SEEDS
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def config(self, method: str, rarest: int, **changes: Any) -> Config:
        """The digits with a long tail that ends at so many images."""
        config = digits.get_config(method)
        if method == "fill":
            config.oversampling.replace_ratio = 1.0  # every class up to the most frequent one
        config.update_from_flattened_dict({**_COMMON, **self.changes})
        config.dataset.imbalance_ratio = config.dataset.num_max / rarest
        config.update_from_flattened_dict(changes)
        return check(config)

    def generator(self, steps: int) -> Path:
        """The folder of the generator after so many steps."""
        return self.folder / f"generator_{steps}"

    def store(self, steps: int) -> Path:
        """The folder of its images."""
        return self.folder / f"generated_{steps}"

    def run(self, name: str, rarest: int, seed: int) -> Path:
        """The work directory of a run; `name` is a method, or `fill_STEPS`."""
        return self.folder / f"rarest_{rarest}" / f"{name}.seed_{seed}"


def main() -> None:
    """Trains what is missing, and keeps the figures."""
    args = arguments(__doc__.splitlines()[0], "when_it_pays")
    study = Study(args.workdir)
    make_generators(study)
    for _ in make_runs(study):
        keep(study, args.keep)


def arguments(about: str, setting: str) -> argparse.Namespace:
    """The command line: where to train, and what folder of results/ gets the figures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--workdir", type=Path, required=True, help="of all runs")
    usual = Path(__file__).resolve().parent.parent / "results" / setting
    parser.add_argument("--keep", type=Path, default=usual, help="folder of the kept figures")
    logging.set_verbosity(logging.ERROR)
    return parser.parse_args()


def make_generators(study: Study) -> None:
    """Fine-tunes from step to step, and fills the store of each step for the longest tail."""
    for before, steps in zip((0, *study.steps), study.steps):
        finetune(generator_config(study, before, steps))
        shown = {"generation.model": str(study.generator(steps))}
        shown["oversampling.generated_dir"] = str(study.store(steps))
        generate(study.config("fill", min(study.rarest), **shown))


def generator_config(study: Study, before: int, steps: int) -> Config:
    """Of the steps from `before` to `steps`; the shortest tail leaves out what all of them do."""
    changes = {
        "finetune.output_dir": str(study.generator(steps)),
        "finetune.num_steps": steps - before,
        "finetune.warmup_steps": (steps - before) // 10,
        "finetune.checkpoint_every_steps": 100,
        "finetune.sample_every_steps": steps + 1,  # none
    }
    if before:
        changes["finetune.base"] = str(study.generator(before))
    return study.config("fill", max(study.rarest), **changes)


def planned(study: Study) -> Iterator[tuple[int, int, dict[str, Config]]]:
    """Seed, rarest and the configs by name, in the order of training."""
    for seed in study.seeds:
        for rarest in study.rarest:
            runs = {
                "ros": study.config("ros", rarest, seed=seed),
                "open": study.config("open", rarest, seed=seed, **{"oversampling.start_epoch": 0}),
            }
            for steps in study.steps:
                shown = {"oversampling.generated_dir": str(study.store(steps))}
                runs[f"fill_{steps}"] = study.config("fill", rarest, seed=seed, **shown)
            yield seed, rarest, runs


def make_runs(study: Study) -> Iterator[None]:
    """Trains and measures what is missing; yields after each long tail of a seed."""
    for seed, rarest, runs in planned(study):
        for name, config in runs.items():
            say(f"seed {seed}, rarest class of {rarest}: {name}")
            train(config, study.run(name, rarest, seed))
        for steps in study.steps:
            path = study.run(f"fill_{steps}", rarest, seed) / "gap.json"
            if not path.exists():
                found = gap(runs[f"fill_{steps}"], study.run("ros", rarest, seed))
                records.write_json(path, found)
        yield


def keep(study: Study, folder: Path) -> None:
    """Writes the figures of all that is finished: `runs.csv`, `generators.csv`, `setting.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        _figures(study.run(name, rarest, seed), name, rarest, seed)
        for seed, rarest, runs in planned(study)
        for name in runs
        if (study.run(name, rarest, seed) / "summary.json").exists()
    ]
    write_csv(folder / "runs.csv", found)
    judge = Judge(study)
    write_csv(folder / "generators.csv", [judge.row(steps) for steps in study.steps])
    first = records.read_json(study.run("ros", study.rarest[0], study.seeds[0]) / "summary.json")
    kept = {name: first[name] for name in ("devices", "machine", "versions", "config")}
    records.write_json(folder / "setting.json", kept | {"judge_on_real_test_images": judge.real})


def _figures(directory: Path, name: str, rarest: int, seed: int) -> dict[str, Any]:
    """A line of `runs.csv`: accuracies, and of `fill` the gap of the images that it shows."""
    summary = records.read_json(directory / "summary.json")
    method, _, steps = name.partition("_")
    row = {"method": method, "steps": steps, "rarest": rarest, "seed": seed}
    row |= {"top1": summary["top1"]}
    row |= {group: found["accuracy"] for group, found in summary["groups"].items()}
    row["validation"] = summary["validation"]["balanced_accuracy"]
    path = directory / "gap.json"
    means = records.read_json(path)["mean_of_classes"] if path.exists() else {}
    sets = [f"{s}_{measure}" for measure in _MEASURES for s in ("generated", "test")]
    row |= {column: means.get(column, "") for column in sets}
    return row | {"wall_seconds": summary["wall_seconds"]}


class Judge:
    """A support-vector machine that has learnt from the held-out digits."""

    def __init__(self, study: Study):
        self._study, self._config = study, study.config("ros", max(study.rarest))
        split = loading.load_train(self._config, study.folder)
        self._train, seen = split.train, split.validation
        self._machine = SVC(C=10).fit(_pixels(seen), seen.label)
        test = loading.load_split(self._config, "test", study.folder)
        self.real = float(self._right(test).mean())

    def row(self, steps: int) -> dict[str, Any]:
        """A line of `generators.csv`: the share of images read as their class, also by class."""
        store = self._images(self._study.store(steps))
        right = self._right(store)
        shares = {
            f"class_{name}": right[store.label == c].mean() if count else ""
            for c, (name, count) in enumerate(zip(store.class_names, store.class_counts))
        }
        return {"steps": steps, "images": len(right), "recognised": right.mean(), **shares}

    def share(self, store: Path) -> float:
        """The share of a store's images that are read as their class."""
        return float(self._right(self._images(store)).mean())

    def _images(self, store: Path) -> ImageSet:
        return load_generated(
            str(store),
            class_names=self._train.class_names,
            image_size=self._train.images.image_size,
            cache_dir=self._study.folder / ".cache" / "images",
            max_decoded_gib=1.0,
        )

    def _right(self, data: ImageSet) -> np.ndarray:
        return self._machine.predict(_pixels(data)) == data.label


def _pixels(data: ImageSet) -> np.ndarray:
    """Grey values in [0, 1], float64 [N, H * H]."""
    grey = data.images.take(np.arange(len(data.label)))[..., 0]
    return grey.reshape(len(grey), -1) / 255


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows of equal columns, numbers rounded to six digits."""
    rows, text = list(rows), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        rounded = {k: round(float(v), 6) if isinstance(v, float) else v for k, v in row.items()}
        writer.writerow(rounded)
    atomic.write_atomically(path, text.getvalue())


if __name__ == "__main__":
    main()
