"""The runs of --mode=tune: the candidates, the config of each, and the number of epochs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from osed_jax.config.build import checked
from osed_jax.config.by_method import MethodConfigs, value_at, without_surplus
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import FIELDS, Config, default_of, get, with_values
from osed_jax.config.stages import common_start, num_epochs
from osed_jax.errors import UserError
from osed_jax.store.reading import report_path

_KEPT_SHARE = 1 / 3
_KEPT_AT_LEAST = 2


class Candidate(NamedTuple):
    """A setting that may be chosen.

    Attributes:
      method: the method, or the one that it is a variant of.
      about: what it does, for the page.
      config: of a run of all epochs on all images.
    """

    method: str
    about: str
    config: Config


class _Known(NamedTuple):
    """A candidate by its name: a method, and fields that it sets besides."""

    method: str
    about: str
    sets: Mapping[str, Any]


def candidates(configs: MethodConfigs) -> tuple[dict[str, Candidate], list[str]]:
    """The candidates by name, the simplest first; and what to say, such as those left out.

    Raises:
      UserError: if a name is unknown, a candidate sets what is not allowed, or fewer than two are
        left.
    """
    settings = checked(configs.of("erm"), ("tune",)).tune
    known = {
        **{name: _Known(name, method.about, {}) for name, method in METHODS.items()},
        **_from_file(settings.candidates_file),
    }
    asked = [name.strip() for name in settings.candidates.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in known]:
        raise UserError(
            f"config.tune.candidates names {', '.join(unknown)}; use some of "
            f"{', '.join(known)}, or define others in config.tune.candidates_file"
        )
    of_name = {n: _config(configs, known[n]) for n in known if not asked or n in asked}
    missing = {name: why for name, config in of_name.items() if (why := _lacks(config))}
    left = {name: config for name, config in of_name.items() if name not in missing}
    different, notes = without_surplus(left, configs.given) if left else ({}, [])
    if len(different) < 2:
        raise UserError(
            "there are fewer than two candidates to choose from"
            + "".join(f"; {name} needs {why}" for name, why in missing.items())
        )
    notes += [
        f"left out: {', '.join(n for n in missing if missing[n] == why)}, which need {why}"
        for why in dict.fromkeys(missing.values())
    ]
    return {
        name: Candidate(known[name].method, known[name].about, checked(config))
        for name, config in different.items()
    }, notes


def doubts_about_length(epochs: int, num_epochs: int) -> list[str]:
    """What to say if runs have fewer than half of the epochs of a full training."""
    if 2 * epochs >= num_epochs:
        return []
    return [
        f"the runs have {epochs} of {num_epochs} epochs, after which the candidates may rank "
        "otherwise than after all; to train longer, give fewer config.tune.candidates or a larger "
        "config.tune.budget"
    ]


def shortened(config: Config, epochs: int) -> Config:
    """The config of a run of `epochs` epochs. All that counts epochs becomes less in proportion."""
    before = config.train.num_epochs
    short = with_values(config, {"train.num_epochs": epochs})
    changed = {}
    for name, field in FIELDS.items():
        if field.unit != "epochs" or name == "train.num_epochs":
            continue
        value = get(config, name)
        usual = value == default_of(name, config)
        changed[name] = default_of(name, short) if usual else round(value * epochs / before)
    return checked(with_values(short, changed))


def num_kept(count: int) -> int:
    """How many of `candidates` are kept for the next fold, besides the baseline."""
    return min(count, max(math.ceil(count * _KEPT_SHARE), _KEPT_AT_LEAST))


def epochs_within_budget(configs: Sequence[Config]) -> int:
    """Epochs of each run, so that all of them together cost at most `tune.budget` training runs.

    A training run has `train.num_epochs` epochs on all training images. Epochs that a candidate
    has in common with an earlier one are trained once; of the later folds it is not yet known
    which candidates they train, so each of these counts in full.
    """
    full, tune = configs[0].train.num_epochs, configs[0].tune
    cost = 0.0
    for i, config in enumerate(configs):
        common = max((common_start(other, config) for other in configs[:i]), default=0)
        cost += (num_epochs(config) - common) / full
    count = len(configs)
    for _ in range(1, tune.folds):
        count = min(count, num_kept(count) + 1)
        cost += count
    cost *= (tune.folds - 1) / tune.folds  # an epoch has the images that are not held out
    return max(min(full, int(full * tune.budget / cost)), 1)


def best_start(config: Config, finished: Mapping[Path, Config]) -> tuple[Path | None, int]:
    """The finished run that has the most first epochs in common with a run, and their number."""
    starts = {path: common_start(other, config) for path, other in finished.items()}
    common = {path: epochs for path, epochs in starts.items() if epochs}
    path = max(common, key=lambda p: common[p], default=None)
    return (path, common[path]) if path else (None, 0)


def _config(configs: MethodConfigs, known: "_Known") -> Config:
    """The config of a candidate; what the command line gives stays."""
    config = configs.of(known.method)
    epochs = config.train.num_epochs
    sets = {f: value_at(v, epochs) for f, v in known.sets.items() if f not in configs.given}
    return with_values(config, {**sets, "init.fork_from": ""})


def _from_file(path: str) -> dict[str, _Known]:
    if not path:
        return {}
    try:
        content = json.loads(Path(path).read_text())
        return {name: _as_known(name, dict(given)) for name, given in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"config.tune.candidates_file is {path}, which cannot be read ({error}); it must be "
            f'JSON such as {{"gentle": {{"method": "fill", "loss.generated_weight": 0.3}}}}'
        ) from error


def _as_known(name: str, given: dict[str, Any]) -> _Known:
    method, about = given.pop("method", None), given.pop("about", name)
    if method not in METHODS:
        raise UserError(
            f"candidate {name!r} of config.tune.candidates_file has method {method!r}; use "
            f"one of {', '.join(METHODS)}"
        )
    if unknown := [field for field in given if field not in FIELDS]:
        raise UserError(
            f"candidate {name!r} of config.tune.candidates_file: there is no field "
            f"config.{unknown[0]}; docs/reference/configuration.md lists all fields"
        )
    values = {f: tuple(v) if isinstance(v, list) else v for f, v in given.items()}
    return _Known(method, str(about), values)


def _lacks(config: Config) -> str:
    """What a candidate needs and does not have; empty if nothing is missing."""
    over = config.oversampling
    if over.mode == "generated" and not over.generated_dir:
        return "config.oversampling.generated_dir"
    distances = report_path(Path(over.generated_dir)) / "gap.json"
    if over.mode == "generated" and over.max_gap and not distances.exists():
        return f"{distances}, which --mode=gap writes"
    return ""
