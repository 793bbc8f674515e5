"""The page of --mode=compare: tables and figures of many runs."""

from collections.abc import Sequence
from pathlib import Path

from osed_jax.comparison import tables
from osed_jax.comparison.finished_runs import Variant
from osed_jax.comparison.statistics import over_seeds, share_interval
from osed_jax.files import atomic
from osed_jax.reports import page
from osed_jax.reports.bars import Bar, draw_groups, draw_overall

FOLDER, PAGE = "comparison", "comparison.html"


def _write(
    folder: Path, rows: Sequence[Variant], notes: Sequence[str], found: dict[str, tables.Table]
) -> None:
    folder.mkdir(exist_ok=True)
    for name, table in found.items():
        for ending, form in ("md", tables.markdown), ("tex", tables.latex), ("csv", tables.as_csv):
            atomic.write_atomically(folder / f"{name}.{ending}", form(table).rstrip() + "\n")
    draw_overall(folder / "top1.png", [_bar(v, "top1") for v in rows], "Top-1 accuracy")
    draw_groups(folder / "groups.png", group_bars(rows))
    content = _page(rows, notes, found["methods"], found["classes"], found["pairs"], folder)
    atomic.write_atomically(folder / PAGE, content)


def _bar(variant: Variant, *keys: str) -> Bar:
    """A bar with its interval: over seeds, or over test images if there is only one seed."""
    values = variant.values(*keys)
    spread = over_seeds(values, lowest=0.0)
    between = spread.interval
    if between is None:
        total = variant.runs[0].summary["num_test_images"]
        if keys[0] == "groups":
            members = variant.runs[0].summary["groups"][keys[1]]["classes"]
            names = variant.runs[0].summary["class_names"]
            label = variant.runs[0].label
            total = int(sum((label == names.index(name)).sum() for name in members))
        between = share_interval(round(spread.mean * total), total)
    return Bar(variant.name, spread.mean, between, values)


def group_bars(rows: Sequence[Variant]) -> list[tuple[str, list[Bar]]]:
    """Input of `draw_groups`: all classes, then each group with test images; a bar per variant."""
    found = [("all classes", [_bar(v, "top1") for v in rows])]
    for name in tables.group_names(rows):
        if not rows[0].values("groups", name, "accuracy"):
            continue
        found.append((name, [_bar(v, "groups", name, "accuracy") for v in rows]))
    return found


def _page(
    rows: Sequence[Variant],
    notes: Sequence[str],
    overall: tables.Table,
    classes: tables.Table,
    paired: tables.Table,
    folder: Path,
) -> str:
    first = rows[0].runs[0].summary
    counts = first["class_counts"]
    single = any(len(v.runs) == 1 for v in rows)
    intro = page.text(
        f"{first['dataset']}: {first['num_train_images']:,} training images of {len(counts)} "
        f"classes, {max(counts):,} of the most frequent and {min(counts):,} of the rarest (subset "
        f"sha256 {first['subset_sha256'][:12]}…); {first['num_test_images']:,} test images. "
        f"Accuracies of the last epoch.",
        *notes,
    )
    about = "Intervals are Student's t over seeds, at 95 %." + (
        " A method with one seed has Wilson's interval of its test images." if single else ""
    )
    if tables.VALIDATION in overall[0]:
        about += (
            " The column validation is the balanced accuracy of images held out of training, to "
            "choose on; all others are of the test set."
        )
    sections = [
        ("Methods", page.table(*overall) + page.text(f"Mean ± standard deviation, in %. {about}")),
        ("Top-1 accuracy", page.picture(folder / "top1.png", "top-1 accuracy of each method")),
        (
            "Groups of classes",
            page.picture(folder / "groups.png", "accuracy of groups of classes, each method")
            + page.details("each class", page.table(*classes)),
        ),
    ]
    if paired[1]:
        explained = page.text(
            "Differences in percentage points, the second method less the first, paired by seed. "
            "The first interval is over seeds; the one over images is of these very nets on other "
            "test images. The interval over classes is a bootstrap of the classes: it says whether "
            "a difference rests on a few of them. McNemar's exact test compares both on the same "
            "test images, one p-value for each seed; p-values are not corrected for the number of "
            "pairs."
        )
        sections.append(("Paired differences", page.table(*paired) + explained))
    where = [[v.name, str(run.seed), str(run.directory)] for v in rows for run in v.runs]
    sections.append(("Runs", page.table(("method", "seed", "work directory"), where, texts=True)))
    return page.page("OSeD-JAX: comparison of methods", intro, sections)
