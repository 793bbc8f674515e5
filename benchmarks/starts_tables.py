"""The table of results/starting_from_real_images: `fill` from noise and from real images."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.when_it_pays_tables import FIGURES, read_csv
from osed_jax.comparison.statistics import over_seeds
from osed_jax.comparison.tables import Table, written

STEPS = {500: "half-trained", 1500: "good"}  # of the generators
STRENGTHS = (0.3, 0.6, 0.9)
NOISE, OTHER = "noise", "other_class"
OTHER_STRENGTHS = (0.5, 0.7, 0.9)  # Diff-Mix's


def stores() -> Iterator[tuple[int, str]]:
    """What is drawn: a generator's steps, and what its images start from."""
    for steps in STEPS:
        yield from ((steps, start) for start in (NOISE, *map(str, STRENGTHS), OTHER))


def table(kept: Path) -> Table:
    """Accuracies of `fill` with each store, and what starting from real images gains over noise.

    Rows of which no run is finished have dashes.
    """
    lines = {(int(r["steps"]), r["start"], r["seed"]): r for r in read_csv(kept / "runs.csv")}
    shares = {(int(r["steps"]), r["start"]): r for r in read_csv(kept / "stores.csv")}

    def values(steps: int, start: str, figure: str) -> dict[str, float]:
        of_row = ((key[2], line) for key, line in lines.items() if key[:2] == (steps, start))
        return {seed: float(line[figure]) for seed, line in of_row}

    header = ["generator", "images start from", "recognised (%)", "seeds"]
    for words in FIGURES.values():
        header += [words, f"{words}: over noise"]
    rows = []
    for steps, start in ((0, "none"), *stores()):
        recognised = shares[steps, start]["recognised"] if steps else ""
        in_turn = ", ".join(map(str, OTHER_STRENGTHS))
        from_what = {
            NOISE: NOISE,
            "none": "none",
            OTHER: f"other classes, strengths {in_turn} in turn",
        }.get(start, f"real images, strength {start}")
        share = f"{100 * float(recognised):.1f}" if recognised else ""
        row = [STEPS.get(steps, "none (resampling)"), from_what, share]
        row.append(str(len(values(steps, start, "top1"))))
        for figure in FIGURES:
            shown, noise = values(steps, start, figure), values(steps, NOISE, figure)
            gain = [shown[s] - noise[s] for s in shown if s in noise and start != NOISE]
            row.append(written(over_seeds(list(shown.values()))) if shown else "—")
            row.append(written(over_seeds(gain), sign=True) if gain else "")
        rows.append(row)
    return header, rows
