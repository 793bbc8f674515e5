"""--mode=tune: chooses a setting on held-out training images; opens no test image."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.config.build import as_config_file, as_plain, run_as_plain
from osed_jax.config.by_method import MethodConfigs
from osed_jax.config.schema import Config, with_values
from osed_jax.errors import DamageError, UserError
from osed_jax.evaluation.summary import read_predictions, write_predictions
from osed_jax.experiment import loading, workdir
from osed_jax.experiment.trainer import Trainer
from osed_jax.files import atomic, records
from osed_jax.files.records import read_lines
from osed_jax.runtime.console import muted, say
from osed_jax.runtime.sharding import check_batch_size, make_mesh
from osed_jax.tuning.configs import (
    Candidate,
    best_start,
    candidates,
    doubts_about_length,
    epochs_within_budget,
    num_kept,
    shortened,
)
from osed_jax.tuning.selection import Score, best, score, simplest_good

_WRITTEN = ("tune.json", "tune.html", "chosen.py", "scores.png", "curves.png")
_BASELINES = ("ros", "erm")  # the first one that is a candidate is the baseline


@dataclasses.dataclass
class _Tried:
    """A candidate and its results.

    Attributes:
      name: of the candidate.
      candidate: its setting.
      config: of its runs, which differ from it in fold and seed.
      held_out: of each fold so far, labels and predictions of its held-out images.
      epochs: number of epochs trained so far, without those of the run it was forked from.
      curves: of each fold so far, validation accuracy by epoch.
    """

    name: str
    candidate: Candidate
    config: Config
    held_out: list[tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)
    epochs: int = 0
    curves: list[dict[int, float]] = dataclasses.field(default_factory=list)

    def score(self, num_classes: int) -> Score:
        """Over all folds so far."""
        label, prediction = (np.concatenate(part) for part in zip(*self.held_out))
        return score(label, prediction, num_classes)


def tune(configs: MethodConfigs, directory: Path) -> dict[str, Any]:
    """Chooses among the candidates for the configured images; returns what `tune.json` says.

    The training images are split into folds. Every candidate is trained without the first fold
    and evaluated on it, by balanced accuracy. The best third, and resampling, are trained without
    the second fold and evaluated on it, and so on (successive halving; Jamieson & Talwalkar 2016).
    The last ones have been evaluated on all images that can be held out. Of them, the simplest one
    within one standard error of the best is chosen. Finished runs are not trained again.

    Args:
      configs: the config of each method.
      directory: folder of the runs, `tune.json`, `tune.html` and the config file `chosen.py`.

    Raises:
      UserError: for an unknown candidate, or if no image can be held out.
    """
    to_try, notes = candidates(configs)
    full = [candidate.config for candidate in to_try.values()]
    epochs, base = epochs_within_budget(full), full[0]
    notes += doubts_about_length(epochs, base.train.num_epochs)
    for note in notes:
        say(f"note: {note}")
    say(
        f"{len(to_try)} candidates, {base.tune.folds} folds, {epochs} of "
        f"{base.train.num_epochs} epochs a run, at most {base.tune.budget:g} times "
        f"the cost of one training run"
    )
    tried = [_Tried(n, c, shortened(c.config, epochs)) for n, c in to_try.items()]
    plain = as_plain(base)
    ours = {name: plain[name] for name in ("seed", "dataset")}
    with workdir.claimed(directory, ours, also=_WRITTEN):
        facts = _try_all(base, tried, directory)
        result = _result(base, tried, facts, notes)
        chosen = to_try[result["chosen"]]
        about = f"Chosen by --mode=tune: {result['chosen']}, {chosen.about}."
        atomic.write_atomically(directory / "chosen.py", as_config_file(chosen.config, about))
        given = shlex.quote(f"--config={directory / 'chosen.py'}")
        result["command"] = f"python main.py {given} --workdir=..."
        _write(result, tried, directory)
    say(result["why"])
    say(f"train it on all images: {result['command']}")
    say(f"written to {directory / 'tune.html'}")
    return result


def _try_all(config: Config, tried: list[_Tried], directory: Path) -> dict[str, Any]:
    """Trains fold by fold, dropping candidates; returns the facts of the whole training set."""
    check_batch_size("config.train.batch_size", config.train.batch_size, make_mesh())
    loading.check_weights(config)
    folds, remaining = config.tune.folds, list(tried)
    cache = loading.open_cache(directory)
    shows_generated = (t.config for t in tried if t.config.oversampling.mode == "generated")
    with_images = next(shows_generated, config)  # what is missing is said before any training
    whole = loading.load_training_data(with_images, cache).facts
    if max(whole["class_counts"]) < 2:
        raise UserError(
            "--mode=tune holds out images of each class in turn, but no class has two "
            "images; give more images"
        )
    num_classes = len(whole["class_names"])
    for fold in range(folds):
        finished: dict[Path, Config] = {}
        said = ""  # the same for all runs of a fold that show generated images
        for each in remaining:
            path = directory / f"fold_{fold + 1}" / each.name
            config_of_run = _of_fold(each.config, fold, finished)
            with muted():
                left_out = _train(config_of_run, path, each)
            if left_out not in ("", said):
                say(f"note: in fold {fold + 1} of {folds}, {left_out}")
                said = left_out
            finished[path] = config_of_run
            result = each.score(num_classes)
            say(
                f"fold {fold + 1} of {folds}, {each.name}: balanced accuracy "
                f"{_percent(result.balanced_accuracy)} ± {_percent(result.standard_error)}"
            )
        if fold + 1 < folds:
            remaining = _kept(remaining, num_classes)
            say(f"candidates for the next fold: {', '.join(t.name for t in remaining)}")
    return whole


def _kept(tried: list[_Tried], num_classes: int) -> list[_Tried]:
    """The best ones, and the baseline, in the same order."""
    by_score = sorted(tried, key=lambda t: -t.score(num_classes).balanced_accuracy)
    names = {t.name for t in by_score[: num_kept(len(tried))]}
    names |= {baseline(tried).name}
    return [t for t in tried if t.name in names]


def baseline(tried: list[_Tried]) -> _Tried:
    """The baseline: resampling, else ERM, else the first candidate."""
    by_name = {t.name: t for t in tried}
    return next((by_name[n] for n in _BASELINES if n in by_name), tried[0])


def _of_fold(config: Config, fold: int, finished: Mapping[Path, Config]) -> Config:
    """The config of a candidate's run in a fold; it starts from a finished run where it can."""
    changes = {
        "seed": config.seed + fold,
        "dataset.validation_folds": config.tune.folds,
        "dataset.validation_fold": fold,
        "dataset.validation_list": "",
    }
    of_fold = with_values(config, changes)
    start, _ = best_start(of_fold, finished)
    return with_values(of_fold, {"init.fork_from": str(start) if start else ""})


def _train(config: Config, directory: Path, tried: _Tried) -> str:
    """Trains a run that is not finished yet, and adds its predictions and curve.

    Returns:
      Which generated images it left out, see `Data.left_out`; "" if it was finished.
    """
    done, left_out = directory / "held_out.npz", ""
    with workdir.claimed(directory, run_as_plain(config)):
        if not done.exists():
            data = loading.load_training_data(config, loading.open_cache(directory.parent))
            data = loading.with_weights_digest(config, data)
            workdir.keep_facts(directory, data.facts)
            left_out = data.left_out
            trainer = Trainer(config, directory, make_mesh(), data)
            logits = trainer.evaluate(trainer.train(), data.validation)
            write_predictions(done, logits, data.validation.label)
        try:
            logits, label = read_predictions(done)
        except DamageError as error:
            raise UserError(f"{error}; remove it and start the same command again") from error
    tried.held_out.append((label, logits.argmax(axis=1)))
    records, damaged = read_lines(directory / "metrics.jsonl")
    if damaged or not records:
        raise UserError(
            f"{directory / 'metrics.jsonl'} is missing or has damaged lines ({damaged}), and "
            f"the setting is chosen by it; remove {directory} and start the same command again"
        )
    tried.epochs += len(records)
    tried.curves.append(
        {r["epoch"] + 1: r["validation_accuracy"] for r in records if "validation_accuracy" in r}
    )
    return left_out


def _result(
    config: Config, tried: list[_Tried], facts: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    folds, num_classes = config.tune.folds, len(facts["class_names"])
    scores = {t.name: t.score(num_classes) for t in tried}
    finalists = [t for t in tried if len(t.held_out) == folds]
    of_finalists = [scores[t.name] for t in finalists]
    chosen, top = finalists[simplest_good(of_finalists)], finalists[best(of_finalists)]
    held_against = baseline(tried)
    share = (folds - 1) / folds
    return {
        "chosen": chosen.name,
        "best": top.name,
        "baseline": held_against.name,
        "why": _why(chosen, top, held_against, scores),
        "dataset": facts["dataset"],
        "class_names": facts["class_names"],
        "class_counts": facts["class_counts"],
        "not_judged": [
            name for name, n in zip(facts["class_names"], facts["class_counts"]) if n < 2
        ],
        "folds": folds,
        "epochs": chosen.config.train.num_epochs,
        "full_epochs": config.train.num_epochs,
        "budget": config.tune.budget,
        "cost": sum(t.epochs for t in tried) * share / config.train.num_epochs,
        "notes": notes,
        "candidates": [
            {
                "name": t.name,
                "method": t.candidate.method,
                "about": t.candidate.about,
                "folds": len(t.held_out),
                **scores[t.name]._asdict(),
            }
            for t in tried
        ],
    }


def _why(chosen: _Tried, top: _Tried, against: _Tried, scores: Mapping[str, Score]) -> str:
    """The choice in plain words."""

    def figure(tried: _Tried) -> str:
        its = scores[tried.name]
        return f"{_percent(its.balanced_accuracy)} ± {_percent(its.standard_error)} %"

    if chosen is top:
        text = f"{chosen.name} is chosen: it has the best balanced accuracy, {figure(chosen)}"
    else:
        text = (
            f"{chosen.name} is chosen: its balanced accuracy, {figure(chosen)}, is within one "
            f"standard error of the best, {top.name} with {figure(top)}, and it is simpler"
        )
    if chosen is against:
        return f"{text}. No setting beats {against.name} by more than one standard error here."
    return f"{text}. {against.name} has {figure(against)}."


def _write(result: dict[str, Any], tried: list[_Tried], directory: Path) -> None:
    from osed_jax.reports.tune_page import draw_curves, draw_scores, tune_page

    records.write_json(directory / "tune.json", result)
    draw_scores(directory / "scores.png", result["candidates"], result["chosen"])
    curves = {t.name: _mean_curve(t.curves) for t in tried if len(t.held_out) == result["folds"]}
    draw_curves(directory / "curves.png", curves)
    atomic.write_atomically(directory / "tune.html", tune_page(directory, result))


def _mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """Mean over the folds, at the epochs that all of them have."""
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {epoch: float(np.mean([curve[epoch] for curve in curves])) for epoch in epochs}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
