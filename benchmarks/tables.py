"""Writes tables.md and runs.csv of every setting of results/, from what is kept of its runs.

python -m benchmarks.tables              # all settings; git shows what has changed
python -m benchmarks.tables --figures    # the pictures of the cards, too
"""

import argparse
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kept, questions, starts_tables, when_it_pays_tables
from benchmarks.kept import Kept
from benchmarks.questions import Section
from osed_jax.comparison import tables
from osed_jax.comparison.finished_runs import Variant
from osed_jax.files import atomic

RESULTS = Path(__file__).resolve().parent.parent / "results"
# Settings whose runs are packed: the nets of each, folders in the names of its runs, and titles.
PACKED = {
    "few_images": {"": ""},
    "forty_epochs": {"": ""},
    "full_size": {"wrn_28_10": "WideResNet-28-10", "resnet32": "ResNet-32"},
    "nets": {
        "wrn_16_1": "WideResNet-16-1",
        "resnet32": "ResNet-32",
        "wrn_16_2": "WideResNet-16-2",
        "wrn_28_10": "WideResNet-28-10",
        "wrn_16_2_cpu": "WideResNet-16-2, on a CPU",
        "resnet32_bfloat16": "ResNet-32 in bfloat16",
    },
    "digits": {"": ""},
}
# Top-1, %, of MLRC (Lee and Lee 2023) and Zada et al. 2022.
PUBLISHED = {
    ("wrn_28_10", "erm"): ("81.18", "79.6"),
    ("wrn_28_10", "drs"): ("83.22", "83.0"),
    ("wrn_28_10", "open"): ("85.04", "84.6"),
    ("resnet32", "erm"): ("71.70", ""),
    ("resnet32", "ros"): ("70.09", ""),
    ("resnet32", "drs"): ("75.78", ""),
    ("resnet32", "open"): ("77.52", ""),
    ("resnet32", "open_shared"): ("74.37", ""),
}
_COMPARED = ("wrn_16_1", "resnet32", "wrn_16_2", "wrn_28_10")  # nets on the same machine
_ROWS = ("erm", "ros", "drs", "open", "fill_shared_two_thirds")
_FIGURE = (
    *("erm", "ros", "drs", "la", "open", "osed_dar_third"),
    *("fill_shared_third", "fill_shared_two_thirds"),
)
_ABOUT = (
    "Written by `python -m benchmarks.tables` from what is kept of the runs; [README.md](README.md)"
    " says what was run, and [how to read the tables](../README.md#how-to-read-the-tables) explains"
    " the columns."
)

Rows = Mapping[str, Variant]


def main() -> None:
    """Writes all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", action="store_true", help="draw the pictures of the cards")
    figures = parser.parse_args().figures
    for setting, nets in PACKED.items():
        write_packed(RESULTS / setting, nets, figures=figures)
    folder = RESULTS / "when_it_pays"
    write_tables(folder, when_it_pays_tables.sections(folder))
    if figures:
        from benchmarks.when_it_pays_map import draw_map

        draw_map(folder / "map.png", when_it_pays_tables.read(folder))
    folder = RESULTS / "starting_from_real_images"
    write_tables(folder, [("Results", [starts_tables.table(folder)])])
    write_tables(RESULTS / "tune", choices(RESULTS / "tune"))


def write_packed(folder: Path, nets: Mapping[str, str], *, figures: bool) -> None:
    """The tables, and on request the picture, of a setting whose runs are packed."""
    runs = kept.read(folder)
    atomic.write_atomically(folder / "runs.csv", as_csv(runs))
    of_nets = {
        net: kept.variants(run for name, run in runs.items() if name.rpartition("/")[0] == net)
        for net in nets
    }
    found: list[Section] = []
    if folder.name == "full_size":
        found.append(("Beside the published figures", [beside_published(of_nets, nets)]))
    if folder.name == "nets":
        found += between_nets(of_nets, nets, runs)
    for net, title in nets.items():
        begins = f"{title}: " if title else ""
        rows = of_nets[net]
        found.append((f"{begins}All rows", [tables.overall(list(rows.values()))]))
        answered = [*questions.answers(rows), *questions.distances(folder, rows)]
        found += ((f"{begins}{question}", shown) for question, shown in answered)
    if (folder / "gradients.csv").exists():
        found.append(("6. Gradients", [questions.gradients(folder / "gradients.csv")]))
    write_tables(folder, found)
    if figures and folder.name in ("few_images", "forty_epochs"):
        draw_groups(folder / "groups.png", of_nets[""])


def write_tables(folder: Path, found: Iterable[Section]) -> None:
    """Writes tables.md."""
    parts = [f"# Tables of {folder.name}", _ABOUT]
    for title, shown in found:
        parts += [f"## {title}", *map(tables.markdown, shown)]
    atomic.write_atomically(folder / "tables.md", "\n\n".join(parts) + "\n")


def draw_groups(path: Path, rows: Rows) -> None:
    """Accuracy of groups of classes, of the main rows."""
    # Here, since the plotting library takes seconds to import.
    from osed_jax.reports.bars import draw_groups
    from osed_jax.reports.comparison_page import group_bars

    draw_groups(path, group_bars(questions.on_shared_seeds(rows[n] for n in _FIGURE if n in rows)))


def as_csv(runs: Mapping[str, Kept]) -> str:
    """A line for each run with the figures of its summary that tables show."""
    lines = [_line(name, run) for name, run in runs.items()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(name: str, kept_run: Kept) -> dict[str, Any]:
    summary, held_out = kept_run.run.summary, kept_run.run.summary["validation"] or {}
    figures = ("top1", "balanced_accuracy", "macro_f1", "g_mean", "nll", "ece")
    facts = ("epochs", "num_train_images", "num_parameters", "wall_seconds", "machine")
    return {
        "run": name,
        "method": summary["method"],
        "seed": summary["seed"],
        **{figure: summary[figure] for figure in figures},
        "worst_class": summary["worst_class"]["accuracy"],
        **{group: found["accuracy"] for group, found in summary["groups"].items()},
        **summary["per_class"],
        "validation_balanced_accuracy": held_out.get("balanced_accuracy"),
        **{fact: summary[fact] for fact in facts},
        "device": summary["devices"][0],
        "jax": summary["versions"]["jax"],
    }


def beside_published(of_nets: Mapping[str, Rows], titles: Mapping[str, str]) -> tables.Table:
    """Top-1 of each row, mean over its seeds, beside the papers'."""
    lines = []
    for net, rows in of_nets.items():
        for name, row in rows.items():
            papers = PUBLISHED.get((net, name), ("", ""))
            lines.append([titles[net], row.name, str(len(row.runs)), _mean(row, "top1"), *papers])
    return ["net", "row", "seeds", "here", "MLRC", "Zada"], lines


def between_nets(
    of_nets: Mapping[str, Rows], titles: Mapping[str, str], runs: Mapping[str, Kept]
) -> Iterator[Section]:
    """The main rows of every net, with the number of seeds in brackets; and the choice of one."""
    for title, keys in {
        "All classes": ("top1",),
        "The two rarest classes": ("groups", "group_1", "accuracy"),
    }.items():
        head = ["net", *(of_nets[_COMPARED[0]][name].name for name in _ROWS)]
        lines = [
            [
                titles[net],
                *(
                    f"{_mean(row, *keys)} ({len(row.runs)})"
                    for row in (of_nets[net][name] for name in _ROWS)
                ),
            ]
            for net in _COMPARED
        ]
        yield title, [(head, lines)]
    head = ["net of ERM", "parameters", "seeds", "validation", "training", "test"]
    lines = []
    for net in _COMPARED:
        erm = of_nets[net]["erm"]
        curves = [runs[str(run.directory)].curves for run in erm.runs]
        last = [
            100 * np.mean([c[f"{name}_accuracy"][-1] for c in curves])
            for name in ("validation", "train")
        ]
        parameters = f"{erm.runs[0].summary['num_parameters']:,}"
        figures = [f"{last[0]:.2f}", f"{last[1]:.1f}", _mean(erm, "top1")]
        lines.append([titles[net], parameters, str(len(erm.runs)), *figures])
    yield "The choice of the net", [(head, lines)]


def _mean(row: Variant, *keys: str) -> str:
    return f"{100 * np.mean(row.values(*keys)):.2f}"


def choices(folder: Path) -> Iterator[Section]:
    """What --mode=tune found in each trial, as its tune.json says."""
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        lines = [
            [
                f"{c['name']}, chosen" if c["name"] == found["chosen"] else c["name"],
                str(c["folds"]),
                str(sum(c["num_images"])),
                f"{100 * c['balanced_accuracy']:.1f} ± {100 * c['standard_error']:.1f}",
            ]
            for c in found["candidates"]
        ]
        yield path.stem, [(["candidate", "folds", "images", "balanced accuracy"], lines)]


if __name__ == "__main__":
    main()
