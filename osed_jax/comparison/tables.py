"""A comparison as tables: Markdown, LaTeX, CSV."""

import csv
import io
import re
from collections.abc import Sequence

from osed_jax.comparison.finished_runs import Variant
from osed_jax.comparison.paired_tests import Pair
from osed_jax.comparison.statistics import Spread, over_seeds

Table = tuple[list[str], list[list[str]]]

# Characters that LaTeX reads as commands, and what to write instead.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "—": "--",
    "<": "$<$",
    ">": "$>$",
    "\n": " ",
    "\r": " ",
}
# A signed number alone, with its deviation, or at the start of an interval is not a formula.
_NUMBER = r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?"
_FIGURE = re.compile(rf"{_NUMBER}( (±|to) {_NUMBER})?")

VALIDATION, _BALANCED = "validation", "balanced_accuracy"  # keys of summary.json


def overall(variants: Sequence[Variant]) -> Table:
    """A row for each variant; accuracies in %, mean ± sd over seeds, 95 % interval of top-1.

    `validation` is the balanced accuracy on the images held out of training, which may be
    long-tailed too; the other figures are those of the test set.
    """
    groups = group_names(variants)
    held_out = [VALIDATION] if any(v.values(VALIDATION, _BALANCED) for v in variants) else []
    figures = ["top-1", "95 % interval", "balanced", *groups, "worst class", "ECE"]
    head = ["method", "seeds", *held_out, *figures]
    rows = []
    for variant in variants:
        top1 = over_seeds(variant.values("top1"), lowest=0.0)
        rows.append(
            [
                variant.name,
                str(len(variant.runs)),
                *(_figure(variant, name, _BALANCED) for name in held_out),
                written(top1),
                interval(top1.interval),
                _figure(variant, _BALANCED),
                *(_figure(variant, "groups", name, "accuracy") for name in groups),
                _figure(variant, "worst_class", "accuracy"),
                _figure(variant, "ece"),
            ]
        )
    return head, rows


def classes(variants: Sequence[Variant]) -> Table:
    """A row for each class, in the data set's order; accuracies in %, mean ± sd over seeds."""
    facts = variants[0].runs[0].summary
    head = ["class", "training images", *(variant.name for variant in variants)]
    rows = [
        [name, f"{count:,}", *(_figure(variant, "per_class", name) for variant in variants)]
        for name, count in zip(facts["class_names"], facts["class_counts"])
    ]
    return head, rows


def paired(pairs: Sequence[Pair]) -> Table:
    """A row for each pair; differences in percentage points."""
    head = [
        "pair",
        "seeds",
        "top-1",
        "95 % interval",
        "95 % over images",
        "balanced",
        "95 % over classes",
        "McNemar p by seed",
    ]
    rows = [
        [
            f"{pair.second} vs {pair.first}",
            str(len(pair.seeds)),
            written(pair.top1, sign=True),
            interval(pair.top1.interval, sign=True),
            interval(pair.over_images, sign=True),
            f"{100 * pair.balanced:+.2f}",
            interval(pair.over_classes, sign=True),
            ", ".join(p_value(test.p_value) for test in pair.tests),
        ]
        for pair in pairs
    ]
    return head, rows


def group_names(variants: Sequence[Variant]) -> list[str]:
    """Names of the groups that have classes, in their order."""
    named = (name for v in variants for run in v.runs for name in run.summary["groups"])
    return list(dict.fromkeys(named))


def written(spread: Spread, *, sign: bool = False) -> str:
    """Mean ± standard deviation, in %."""
    mean = f"{100 * spread.mean:{'+' if sign else ''}.2f}"
    return mean if spread.sd is None else f"{mean} ± {100 * spread.sd:.2f}"


def interval(between: tuple[float, float] | None, *, sign: bool = False) -> str:
    """An interval, in %; a dash if there is none."""
    form = "+.2f" if sign else ".2f"
    return "—" if between is None else f"{100 * between[0]:{form}} to {100 * between[1]:{form}}"


def p_value(value: float) -> str:
    """A p-value with two digits; a very small one as a bound."""
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def markdown(table: Table) -> str:
    """A Markdown table: first column aligned left, the others right, all of equal width."""
    head, *rows = ([_one_line(cell) for cell in row] for row in (table[0], *table[1]))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [head, rule, *rows]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths))
        )
        + " |"
        for line in lines
    )


def latex(table: Table) -> str:
    """A `tabular` for the package booktabs."""
    head, rows = table
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (head, *rows)]
    columns = "l" + "r" * (len(head) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
    return "\n".join([*body, r"\bottomrule", r"\end{tabular}"])


def as_csv(table: Table) -> str:
    """Comma-separated; a cell that a spreadsheet could read as a formula gets a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_inert(cell) for cell in row] for row in (table[0], *table[1]))
    return out.getvalue()


def _figure(variant: Variant, *keys: str) -> str:
    values = variant.values(*keys)
    return written(over_seeds(values)) if values else "—"


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in cell)


def _one_line(cell: str) -> str:
    """The text with line breaks and bars escaped, for one cell of a Markdown table."""
    return " ".join(cell.replace("\\", r"\\").replace("|", r"\|").split())


def _inert(cell: str) -> str:
    """The text with a quote before it if a spreadsheet could read it as a formula."""
    begins = cell.lstrip()[:1] or cell[:1]
    return f"'{cell}" if begins in tuple("=+-@") and not _FIGURE.fullmatch(cell) else cell
