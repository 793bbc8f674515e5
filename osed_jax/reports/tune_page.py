"""The figures and the page of --mode=tune: what was chosen, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.reports import page, style

_HOW = (
    "The training images were split into {folds} folds. Every candidate was trained without the "
    "first fold and judged on it; the best third, and {baseline}, were trained without the next "
    "fold and judged on that one, and so on. Those with {folds} folds have been judged on every "
    "image that could be held out. No test image was opened.",
    "Balanced accuracy is the mean over classes of the share of held-out images that are "
    "recognised. The standard error says how far other images of the same kind might move it; it "
    "is large where classes have few images, since each of those images then counts for much. It "
    "does not tell what other random starts of the training would give.",
    "Of the candidates with all folds, the simplest within one standard error of the best is "
    "chosen. The list goes from the simplest to the most involved.",
    "Each run had {epochs} of {full_epochs} epochs, so that all of them together cost no more than "
    "{budget:g} training runs (they cost {cost:.1f}). A longer training may rank the candidates "
    "differently: raise --config.tune.budget to train longer.",
)


def draw_scores(path: Path, candidates: Sequence[Mapping[str, Any]], chosen: str) -> None:
    """Balanced accuracy of every candidate with its standard error, the simplest at the top.

    Args:
      path: of the PNG.
      candidates: each with name, folds, balanced_accuracy and standard_error.
      chosen: name of one of them.
    """
    most = max(c["folds"] for c in candidates)
    with style.figure(style.WIDTH, 1.2 + 0.32 * len(candidates), path) as drawn:
        ax = drawn.subplots()
        for y, c in enumerate(candidates):
            whole = c["folds"] == most
            colour = style.VERMILLION if c["name"] == chosen else style.BLUE
            ax.errorbar(
                c["balanced_accuracy"],
                y,
                xerr=c["standard_error"],
                fmt="o" if whole else "x",
                color=colour if whole else style.GREY,
            )
        style.name_classes(ax, [c["name"] for c in candidates], axis="y")
        ax.invert_yaxis()
        style.percent_axis(ax, axis="x")
        ax.set_xlabel("balanced accuracy on held-out images (%), ± one standard error")
        ax.set_title("Chosen in red; crosses were dropped early")


def draw_curves(path: Path, curves: Mapping[str, Mapping[int, float]]) -> None:
    """Accuracy on held-out images by epoch, mean over the folds.

    Args:
      path: of the PNG.
      curves: name of a candidate -> epoch -> accuracy.
    """
    with style.figure(style.WIDTH, 3.4, path) as drawn:
        ax = drawn.subplots()
        for (name, curve), colour in zip(curves.items(), np.resize(style.CYCLE, len(curves))):
            ax.plot(list(curve), list(curve.values()), "o-", markersize=4, color=colour, label=name)
        style.percent_axis(ax)
        ax.set_xlabel("epoch")
        ax.set_ylabel("top-1 on held-out images (%)")
        ax.set_title("Those that were judged on all folds")
        ax.legend()


def tune_page(folder: Path, result: Mapping[str, Any]) -> str:
    """The page of `tune.json`, whose figures are in `folder`."""
    counts = result["class_counts"]
    intro = page.text(
        result["why"],
        f"{result['dataset']}: {sum(counts):,} training images of {len(counts)} classes, "
        f"{max(counts):,} of the most frequent and {min(counts):,} of the rarest.",
        *_cautions(result),
        *(f"{note[0].upper()}{note[1:]}." for note in result["notes"]),
    )
    head = (
        "candidate",
        "what it does",
        "folds",
        "images",
        "balanced accuracy",
        *_rarest(result)[0],
    )
    sections = [
        ("Train the chosen setting on all images", page.code(result["command"])),
        (
            "Candidates",
            page.table(head, [_row(result, c) for c in result["candidates"]])
            + page.text("In %, ± one standard error. The last columns: the rarest classes.")
            + page.picture(folder / "scores.png", "balanced accuracy of every candidate"),
        ),
        ("Curves", page.picture(folder / "curves.png", "accuracy on held-out images by epoch")),
        ("How it was chosen", page.text(*(line.format(**result) for line in _HOW))),
    ]
    return page.page("OSeD-JAX: choice of a setting", intro, sections)


def _cautions(result: Mapping[str, Any]) -> list[str]:
    """Notes on the classes with few images."""
    found = []
    if result["not_judged"]:
        found.append(
            f"Not judged: {', '.join(result['not_judged'])}, of which there is one image, needed "
            f"for training. The choice says nothing of such a class."
        )
    few = [(n, c) for n, c in zip(result["class_names"], result["class_counts"]) if 1 < c < 10]
    if few:
        named = ", ".join(f"{name} ({count})" for name, count in few)
        found.append(
            f"Judged on fewer than 10 images each: {named}. One image more or less recognised "
            f"moves such a class's accuracy by 10 points or more."
        )
    return found


def _rarest(result: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Names and positions of the three rarest classes that were evaluated."""
    counts = np.asarray(result["class_counts"])
    order = [int(c) for c in np.argsort(counts, kind="stable") if counts[c] > 1][:3]
    return [f"{result['class_names'][c]} ({counts[c]} images)" for c in order], order


def _row(result: Mapping[str, Any], c: Mapping[str, Any]) -> list[str]:
    marks = [m for m in ("chosen", "best") if result[m] == c["name"]]
    name = f"{c['name']} ({', '.join(marks)})" if marks else c["name"]
    shares = [c["accuracy"][k] for k in _rarest(result)[1]]
    return [
        name,
        c["about"],
        str(c["folds"]),
        str(sum(c["num_images"])),
        f"{100 * c['balanced_accuracy']:.1f} ± {100 * c['standard_error']:.1f}",
        *("—" if share is None else f"{100 * share:.0f}" for share in shares),
    ]
