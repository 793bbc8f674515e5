"""The tables of results/when_it_pays: gains by cell, their end, the gap."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from osed_jax.comparison.statistics import Spread, over_seeds
from osed_jax.comparison.tables import Table
from osed_jax.errors import UserError

OPPONENTS = {"ros": "resampling", "open": "noise"}
FIGURES = {"top1": "all classes", "group_1": "the two rarest classes"}
# From a line of runs.csv: a measure of gap, the mean of the classes. Distances of other nets and
# other counts of images are on other scales, so the first, which was chosen before the runs, is in
# multiples of what real test images have in the same net, from the same training images.
MULTIPLE = "distance, in multiples of real test images'"
PREDICTORS: dict[str, Callable[[Mapping[str, str]], float]] = {
    MULTIPLE: lambda line: (
        float(line["generated_frechet_distance"]) / float(line["test_frechet_distance"])
    ),
    "distance": lambda line: float(line["generated_frechet_distance"]),
    "precision": lambda line: float(line["generated_precision"]),
    "recall": lambda line: float(line["generated_recall"]),
}
_RESAMPLES = 10_000


class Cell(NamedTuple):
    """A generator and a long tail.

    Attributes:
      steps: of the generator.
      rarest: real images of the rarest class.
      gain: figure and opponent (`ros`, `open`) -> difference for each seed, shares.
      gap: for each predictor, its mean over the seeds.
    """

    steps: int
    rarest: int
    gain: Mapping[tuple[str, str], Sequence[float]]
    gap: Mapping[str, float]


class Results(NamedTuple):
    """What was kept.

    Attributes:
      accuracy: method, rarest, figure -> value for each seed, of the methods without generator.
      recognised: of each generator, the share of its images that the judge reads as their class.
      cells: every generator with every long tail, of seeds that all of a long tail's runs have.
    """

    accuracy: Mapping[tuple[str, int, str], Sequence[float]]
    recognised: Mapping[int, float]
    cells: Sequence[Cell]

    @property
    def rarest(self) -> list[int]:
        """Of the long tails, ascending."""
        return sorted({cell.rarest for cell in self.cells})

    def better(self, rarest: int, figure: str) -> str:
        """Which opponent is ahead, in the mean over seeds."""
        return max(OPPONENTS, key=lambda name: float(np.mean(self.accuracy[name, rarest, figure])))

    def gain(self, cell: Cell, figure: str, against: str = "better") -> Spread:
        """Of `fill` over an opponent, paired by seed."""
        name = self.better(cell.rarest, figure) if against == "better" else against
        return over_seeds(cell.gain[figure, name])

    def cell(self, steps: int, rarest: int) -> Cell:
        """The cell of a generator and a long tail."""
        return next(c for c in self.cells if (c.steps, c.rarest) == (steps, rarest))


Lines = dict[tuple[str, int, int, int], dict[str, str]]  # by method, steps, rarest and seed


def read(folder: Path) -> Results:
    """Reads `runs.csv` and `generators.csv`.

    Raises:
      UserError: if they are not there.
    """
    lines: Lines = {}
    for line in read_csv(folder / "runs.csv"):
        number = [int(line[name] or 0) for name in ("steps", "rarest", "seed")]
        lines[line["method"], number[0], number[1], number[2]] = line
    generators = read_csv(folder / "generators.csv")
    recognised = {int(line["steps"]): float(line["recognised"]) for line in generators}
    accuracy: dict[tuple[str, int, str], Sequence[float]] = {}
    cells: list[Cell] = []
    for rarest in sorted({key[2] for key in lines}):
        rows = [(name, 0) for name in OPPONENTS] + [("fill", steps) for steps in recognised]
        seeds = sorted({key[3] for key in lines})
        seeds = [s for s in seeds if all((*row, rarest, s) in lines for row in rows)]
        if seeds:
            tail = {row: [lines[(*row, rarest, s)] for s in seeds] for row in rows}
            accuracy |= {
                (name, rarest, figure): _values(tail[name, 0], figure)
                for name in OPPONENTS
                for figure in FIGURES
            }
            cells += [_cell(steps, rarest, tail) for steps in recognised]
    return Results(accuracy, recognised, cells)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a kept file, by column.

    Raises:
      UserError: where it is not there.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; make it with benchmarks/when_it_pays.py --workdir")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _values(lines: Sequence[Mapping[str, str]], figure: str) -> list[float]:
    return [float(line[figure]) for line in lines]


def _cell(
    steps: int, rarest: int, tail: Mapping[tuple[str, int], Sequence[Mapping[str, str]]]
) -> Cell:
    shown = tail["fill", steps]
    gain = {
        (figure, name): np.subtract(_values(shown, figure), _values(tail[name, 0], figure)).tolist()
        for figure in FIGURES
        for name in OPPONENTS
    }
    gap = {name: float(np.mean([of(line) for line in shown])) for name, of in PREDICTORS.items()}
    return Cell(steps, rarest, gain, gap)


def sections(folder: Path) -> Iterator[tuple[str, list[Table]]]:
    """Every table of a folder's runs, with its title."""
    return ((title, [table]) for title, table in _tables(read(folder)))


def _tables(results: Results) -> Iterator[tuple[str, Table]]:
    yield "Accuracy without a generator", _opponents(results)
    for figure, words in FIGURES.items():
        title = f"Gain of fill over the better of resampling and noise, {words}"
        yield title, _map(results, figure, "better")
    yield "Gain of fill over resampling, all classes", _map(results, "top1", "ros")
    yield "Where the gain ends", _ends(results)
    yield "Does gap predict the gain?", _correlations(results)
    yield "Gap of each cell, in multiples of real test images' distance", _gaps(results)


def _opponents(results: Results) -> Table:
    head = ["real images of the rarest class"]
    head += [f"{OPPONENTS[m]}, {words}" for words in FIGURES.values() for m in OPPONENTS]
    rows = [
        [
            str(rarest),
            *(
                _written(over_seeds(results.accuracy[m, rarest, figure]), signed=False)
                for figure in FIGURES
                for m in OPPONENTS
            ),
        ]
        for rarest in results.rarest
    ]
    return head, rows


def _map(results: Results, figure: str, against: str) -> Table:
    """A row for each generator, a column for each long tail."""

    def gain(steps: int, rarest: int) -> str:
        return _written(results.gain(results.cell(steps, rarest), figure, against), signed=True)

    rows = [
        [str(steps), f"{100 * share:.1f}", *(gain(steps, rarest) for rarest in results.rarest)]
        for steps, share in results.recognised.items()
    ]
    return ["steps", "recognised (%)", *_columns(results)], rows


def _ends(results: Results) -> Table:
    """For each long tail, where the mean gain passes 0, and the gain of the best generator."""
    head = ["real images of the rarest class"]
    head += [f"{words}: {what}" for words in FIGURES.values() for what in ("ends at", "at most")]
    rows = []
    for rarest in results.rarest:
        row = [str(rarest)]
        for figure in FIGURES:
            gains = {s: results.gain(results.cell(s, rarest), figure) for s in results.recognised}
            best = max(gains.values(), key=lambda gain: gain.mean)
            row += [end_of_gain(results, rarest, figure)[1], _written(best, signed=True)]
        rows.append(row)
    return head, rows


def end_of_gain(results: Results, rarest: int, figure: str) -> tuple[float | None, str]:
    """The recognised share (in %) at which the mean gain passes 0 for good, and the same in words.

    Between the last generator that does not gain and the next better one, on a straight line. None
    where all gain, or where the best does not.
    """
    points = sorted(
        (100 * share, results.gain(results.cell(steps, rarest), figure).mean)
        for steps, share in results.recognised.items()
    )
    losing = [i for i, (_, gain) in enumerate(points) if gain <= 0]
    if not losing:
        return None, f"below {points[0][0]:.0f} %"
    if losing[-1] == len(points) - 1:
        return None, "no gain"
    (low, loss), (high, gain) = points[losing[-1]], points[losing[-1] + 1]
    end = low + (high - low) * loss / (loss - gain)
    return end, f"{end:.0f} %"


class Correlation(NamedTuple):
    """Spearman's, with 95 % intervals when cells are drawn anew, and when generators are."""

    value: float
    over_cells: tuple[float, float]
    over_generators: tuple[float, float]


def correlation(results: Results, predictor: str, figure: str) -> Correlation:
    """Of a measure of gap with the gain over the better opponent, over all cells."""
    x = np.array([cell.gap[predictor] for cell in results.cells])
    y = np.array([results.gain(cell, figure).mean for cell in results.cells])
    steps = np.array([cell.steps for cell in results.cells])
    random = np.random.default_rng(0)
    cells = random.integers(len(x), size=(_RESAMPLES, len(x)))
    members = np.stack([np.flatnonzero(steps == s) for s in results.recognised])
    drawn = random.integers(len(members), size=(_RESAMPLES, len(members)))
    generators = members[drawn].reshape(_RESAMPLES, -1)
    return Correlation(
        float(_spearman(x[None], y[None])[0]),
        *(_interval(_spearman(x[rows], y[rows])) for rows in (cells, generators)),
    )


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row by row, [R, N] each; NaN where all values of a row are equal."""
    ranks = [rankdata(v.round(9), axis=1) for v in (x, y)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def within(results: Results, predictor: str, figure: str) -> list[float]:
    """The same over the generators of each long tail alone."""
    found = []
    for rarest in results.rarest:
        cells = [cell for cell in results.cells if cell.rarest == rarest]
        x = np.array([[cell.gap[predictor] for cell in cells]])
        y = np.array([[results.gain(cell, figure).mean for cell in cells]])
        found.append(float(_spearman(x, y)[0]))
    return found


def _correlations(results: Results) -> Table:
    head = ["measure of gap", "gain of", "rank correlation", "95 % over cells"]
    head += ["95 % over generators", *(f"rarest {n} alone" for n in results.rarest)]
    rows = []
    for predictor in PREDICTORS:
        for figure, words in FIGURES.items():
            found = correlation(results, predictor, figure)
            spans = (f"{a:+.2f} to {b:+.2f}" for a, b in found[1:])
            alone = (f"{value:+.2f}" for value in within(results, predictor, figure))
            rows.append([predictor, words, f"{found.value:+.2f}", *spans, *alone])
    return head, rows


def _gaps(results: Results) -> Table:
    rows = [
        [
            str(steps),
            f"{100 * share:.1f}",
            *(f"{results.cell(steps, rarest).gap[MULTIPLE]:.1f}" for rarest in results.rarest),
        ]
        for steps, share in results.recognised.items()
    ]
    return ["steps", "recognised (%)", *_columns(results)], rows


def _columns(results: Results) -> list[str]:
    return [f"rarest class: {n} image{'s' if n > 1 else ''}" for n in results.rarest]


def _written(spread: Spread, *, signed: bool) -> str:
    """Mean ± standard deviation over seeds, in percentage points."""
    mean = f"{100 * spread.mean:{'+' if signed else ''}.1f}"
    return mean if spread.sd is None else f"{mean} ± {100 * spread.sd:.1f}"
