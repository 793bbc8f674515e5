"""Flips, cuts and removes files that are kept for later, then uses them; counts what comes of it.

    python -m tests.inject_faults 1000

Each trial takes a fresh copy of a finished run, a store of generated images, a cache of decoded
images or a generator, damages one random file of it, and calls the mode that reads it. No outcome
may be `silent` (other numbers without a word) or `traceback`. Seeds are 0, 1, 2, ...
"""

import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np
from PIL import Image

from configs import digits
from osed_jax.commands.compare import compare
from osed_jax.commands.evaluate import evaluate
from osed_jax.commands.train import train
from osed_jax.config.build import check
from osed_jax.data.folder import load_folder
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.files.records import read_json
from osed_jax.store.reading import load_generated
from tests.cheap_store import CLASSES, fill_cheaply, tree

FAULTS = ("flip", "cut", "remove")
OUTCOMES = ("refused", "same", "said", "silent", "traceback")
_CLOCK = ("wall_seconds", "images_per_second")


class ReportInput(NamedTuple):
    """Something that is kept: made once, then copied, damaged and used.

    Attributes:
      make: fills a new folder.
      use: reads a folder; returns its numbers.
      weight: its share of the trials.
    """

    make: Callable[[Path], Any]
    use: Callable[[Path], Any]
    weight: int


def run_config() -> dict[str, Any]:
    """Two epochs of a small net, a checkpoint after each."""
    config = digits.get_config("erm")
    config.train.update({"num_epochs": 2, "checkpoint_every_epochs": 1, "batch_size": 32})
    config.dataset.update({"num_max": 12, "imbalance_ratio": 4.0})
    config.report.enabled = False
    return check(config)


def make_run(folder: Path) -> None:
    """A finished run in `folder`/run."""
    train(run_config(), folder / "run")


def make_unfinished(folder: Path) -> None:
    """The same, killed before its summary."""
    make_run(folder)
    (folder / "run" / "summary.json").unlink()


def use_by_evaluation(folder: Path) -> Any:
    """Figures of --mode=evaluate."""
    return evaluate(run_config(), folder / "run")


def use_by_training(folder: Path) -> Any:
    """Figures of the summary after the same command again."""
    train(run_config(), folder / "run")
    summary = read_json(folder / "run" / "summary.json")
    return {name: value for name, value in summary.items() if name not in _CLOCK}


def use_by_comparison(folder: Path) -> Any:
    """The table of --mode=compare."""
    compare(folder)
    return (folder / "comparison" / "methods.csv").read_text()


def make_store(folder: Path) -> None:
    """A store of cheap images."""
    fill_cheaply(folder / "store")


def use_by_loading(folder: Path) -> Any:
    """What training would be shown of a store."""
    loaded = load_generated(
        str(folder / "store"),
        class_names=CLASSES,
        image_size=8,
        cache_dir=folder / "cache",
        max_decoded_gib=1,
    )
    return loaded.content_sha256()


def use_by_generation(folder: Path) -> Any:
    """A store after it was filled again."""
    fill_cheaply(folder / "store")
    return tree(folder / "store")


def make_cache(folder: Path) -> None:
    """A folder of images, decoded once."""
    made = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder.with_name("images") / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(6):
                image = made.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder.with_name("images") / split / name / f"{i}.png")
    use_cache(folder)


def use_cache(folder: Path) -> Any:
    """The decoded images."""
    images = folder.with_name("images")
    data = load_folder(
        str(images), "train", image_size=8, cache_dir=folder / "cache", max_decoded_gib=1
    )
    return data.content_sha256()


def make_generator(folder: Path) -> None:
    """A miniature Stable Diffusion."""
    from osed_jax.diffusion.model_files.saving import save
    from osed_jax.generation import miniature

    folder.mkdir(parents=True)
    save(miniature.build(8, 0), str(folder / "generator"))


def use_generator(folder: Path) -> Any:
    """Weights, settings and tokens of a generator."""
    import jax

    from osed_jax.diffusion.stable_diffusion import load

    model = load(str(folder / "generator"))
    weights = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model.params)]
    return weights, model.configs, model.tokenize(["a dog", "a cat"]).tolist()


SUBJECTS = {
    "run, --mode=evaluate": ReportInput(make_run, use_by_evaluation, 25),
    "killed run, the same command": ReportInput(make_unfinished, use_by_training, 15),
    "finished run, the same command": ReportInput(make_run, use_by_training, 5),
    "run, --mode=compare": ReportInput(make_run, use_by_comparison, 10),
    "store, training": ReportInput(make_store, use_by_loading, 15),
    "store, --mode=generate": ReportInput(make_store, use_by_generation, 15),
    "cache of decoded images": ReportInput(make_cache, use_cache, 10),
    "generator": ReportInput(make_generator, use_generator, 5),
}


def damage(folder: Path, fault: str, moment: random.Random) -> Path:
    """Damages a random file below `folder`; locks, event files and programs are nobody's input."""
    left_out = ("tensorboard", "programs", ".cache", ".lock", "comparison")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not set(path.relative_to(folder).parts) & set(left_out)
    )
    path = moment.choice(files)
    content = bytearray(path.read_bytes())
    if fault == "remove" or not content:
        path.unlink()
    elif fault == "cut":
        path.write_bytes(content[: moment.randrange(len(content))])
    else:
        content[moment.randrange(len(content))] ^= 1 << moment.randrange(8)
        path.write_bytes(content)
    return path


def outcome(use: Callable[[Path], Any], folder: Path, whole: Any) -> tuple[str, str]:
    """One of `OUTCOMES`, and what was said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = use(folder)
    except UserError as error:
        return "refused", str(error)
    except Exception as error:
        return "traceback", repr(error)
    if found == whole:
        return "same", said.getvalue()
    text = said.getvalue()
    return ("said" if "note: " in text or "damaged" in text else "silent"), text


def inject(
    trials: int, scratch: Path, names: tuple[str, ...] = tuple(SUBJECTS)
) -> tuple[Counter[tuple[str, str, str]], list[str]]:
    """Makes trials; returns counts of (subject, fault, outcome), and the outcomes that are bad."""
    counts: Counter[tuple[str, str, str]] = Counter()
    bad: list[str] = []
    whole = {}
    for number, name in enumerate(names):
        quietly(SUBJECTS[name].make, scratch / f"{number}" / "whole")
        use = scratch / f"{number}" / "copy"
        shutil.copytree(scratch / f"{number}" / "whole", use)
        whole[name] = quietly(SUBJECTS[name].use, use)
        shutil.rmtree(use)
    for seed in range(trials):
        moment = random.Random(seed)
        name = moment.choices(names, [SUBJECTS[n].weight for n in names])[0]
        folder = scratch / f"{names.index(name)}" / "copy"
        shutil.copytree(scratch / f"{names.index(name)}" / "whole", folder)
        fault = moment.choice(FAULTS)
        path = damage(folder, fault, moment)
        result, text = outcome(SUBJECTS[name].use, folder, whole[name])
        counts[name, fault, result] += 1
        if result in ("silent", "traceback"):
            bad.append(f"seed {seed}: {name}, {fault} {path.relative_to(folder)}: {result} {text}")
        shutil.rmtree(folder)
    return counts, bad


def quietly(do: Callable[[Path], Any], folder: Path) -> Any:
    """Calls without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return do(folder)


def table(counts: Counter[tuple[str, str, str]]) -> str:
    """The counts as Markdown."""
    lines = [f"| what was damaged, and how it was used | fault | trials | {' | '.join(OUTCOMES)} |"]
    lines.append("|---|---|--:|" + "--:|" * len(OUTCOMES))
    for name in SUBJECTS:
        for fault in FAULTS:
            cells = [counts[name, fault, result] for result in OUTCOMES]
            if sum(cells):
                row = [name, fault, str(sum(cells)), *map(str, cells)]
                lines.append(f"| {' | '.join(row)} |")
    cells = [sum(n for key, n in counts.items() if key[2] == result) for result in OUTCOMES]
    lines.append(f"| all | | {sum(cells)} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(trials: int) -> int:
    """Prints the table and what is bad; returns the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        loading.open_cache(Path(scratch))
        counts, bad = inject(trials, Path(scratch))
    print(table(counts))
    for line in bad:
        print(line[:600])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
