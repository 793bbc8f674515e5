"""The runs of --mode=tune: the candidates, the config of each, and the number of epochs."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osed_jax.config.build import check_fields, method_name, plain
from osed_jax.config.candidates import CANDIDATES, Candidate
from osed_jax.config.methods import METHODS, set_others
from osed_jax.config.schema import fields
from osed_jax.config.stages import common_epochs, num_epochs, stages
from osed_jax.errors import UserError
from osed_jax.store.reading import report_path

_KEPT_SHARE = 1 / 3
_KEPT_AT_LEAST = 2
# Fields of the section oversampling that describe the data, so that candidates keep them.
_OF_THE_DATA = ("generated_dir", "noise_space", "soft_label_exponent")


def named(config: Mapping[str, Any]) -> tuple[dict[str, Candidate], list[str]]:
    """The candidates by name, the simplest first; and those that are left out, with the reason.

    Raises:
      UserError: if a name is unknown, or fewer than two candidates are left.
    """
    known = {**CANDIDATES, **_from_file(config["tune"]["candidates_file"])}
    asked = [name.strip() for name in config["tune"]["candidates"].split(",") if name.strip()]
    if unknown := [name for name in asked if name not in known]:
        raise UserError(
            f"config.tune.candidates names {', '.join(unknown)}; use some of "
            f"{', '.join(known)}, or define others in config.tune.candidates_file"
        )
    found = {name: known[name] for name in known if not asked or name in asked}
    missing = {name: why for name, c in found.items() if (why := _lacks(config, c))}
    kept = {name: c for name, c in found.items() if name not in missing}
    if len(kept) < 2:
        raise UserError(
            "there are fewer than two candidates to choose from"
            + "".join(f"; {name} needs {why}" for name, why in missing.items())
        )
    notes = [
        f"left out: {', '.join(n for n in missing if missing[n] == why)}, which need {why}"
        for why in dict.fromkeys(missing.values())
    ]
    return kept, notes


def doubts_about_length(epochs: int, num_epochs: int) -> list[str]:
    """What to say if runs have fewer than half of the epochs of a full training."""
    if 2 * epochs >= num_epochs:
        return []
    return [
        f"the runs have {epochs} of {num_epochs} epochs, after which the candidates may rank "
        "otherwise than after all; to train longer, give fewer config.tune.candidates or a larger "
        "config.tune.budget"
    ]


def of_candidate(config: Mapping[str, Any], candidate: Candidate, epochs: int) -> dict[str, Any]:
    """The config of a candidate's run of `epochs` epochs; defaults in epochs are scaled with it.

    Raises:
      UserError: if the candidate sets an unknown field or a value that is not allowed.
    """
    run = copy.deepcopy(dict(config))
    before = config["train"]["num_epochs"]
    flat = dict(fields())
    run["oversampling"] = {
        name.partition(".")[2]: field.default(epochs) if callable(field.default) else field.default
        for name, field in flat.items()
        if name.startswith("oversampling.")
    }
    run["oversampling"] |= {name: config["oversampling"][name] for name in _OF_THE_DATA}
    moving = [n for n, f in flat.items() if callable(f.default) and "oversampling." not in n]
    for name in moving:
        now = _get(config, name)
        usual = now == flat[name].default(before)
        _set(run, name, flat[name].default(epochs) if usual else round(now * epochs / before))
    method = METHODS[candidate.method]
    run["oversampling"] |= {**method.prefers, **method.sets}
    for name in METHODS[
        method_name(config)
    ].others:  # set by the method of the given config, not by the candidate's
        _set(run, name, flat[name].default)
    set_others(run, candidate.method)
    reset = {"loss.generated_weight": 1.0, "train.head_epochs": 0, "init.fork_from": ""}
    for name, value in {"train.num_epochs": epochs, **reset, **candidate.sets}.items():
        _set(run, name, value(epochs) if callable(value) else value)
    run = plain(run)
    check_fields(run)
    return run


def num_kept(count: int) -> int:
    """How many of `candidates` are kept for the next fold, besides the baseline."""
    return min(count, max(math.ceil(count * _KEPT_SHARE), _KEPT_AT_LEAST))


def epochs_within_budget(config: Mapping[str, Any], candidates: Sequence[Candidate]) -> int:
    """Epochs of each run, so that all of them together cost at most `tune.budget` training runs.

    A training run has `train.num_epochs` epochs on all training images. Epochs that a candidate
    has in common with an earlier one are trained once; of the later folds it is not yet known
    which candidates they train, so each of these counts in full.
    """
    full, tune = config["train"]["num_epochs"], config["tune"]
    runs = [of_candidate(config, c, full) for c in candidates]
    cost = 0.0
    for i, run in enumerate(runs):
        common = max((_common_epochs(run, other) for other in runs[:i]), default=0)
        cost += (num_epochs(run) - common) / full
    count = len(runs)
    for _ in range(1, tune["folds"]):
        count = min(count, num_kept(count) + 1)
        cost += count
    cost *= (tune["folds"] - 1) / tune["folds"]  # an epoch has the images that are not held out
    return max(min(full, int(full * tune["budget"] / cost)), 1)


def best_start(
    config: Mapping[str, Any], finished: Mapping[Path, Mapping[str, Any]]
) -> tuple[Path | None, int]:
    """The finished run that has the most first epochs in common with a run, and their number."""
    common = {p: _common_epochs(config, other) for p, other in finished.items()}
    common = {p: n for p, n in common.items() if 0 < n < num_epochs(config)}
    path = max(common, key=lambda p: common[p], default=None)
    return (path, common[path]) if path else (None, 0)


def _common_epochs(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """First epochs that two runs train alike: none if loss, net or augmentation differ."""
    losses = [{**run["loss"], "generated_weight": None} for run in (one, other)]  # in the stages
    if losses[0] != losses[1] or any(one[name] != other[name] for name in ("augment", "model")):
        return 0
    return common_epochs(stages(one), stages(other))


def _from_file(path: str) -> dict[str, Candidate]:
    if not path:
        return {}
    try:
        content = json.loads(Path(path).read_text())
        return {name: _as_candidate(name, dict(given)) for name, given in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"config.tune.candidates_file is {path}, which cannot be read ({error}); it must be "
            f'JSON such as {{"gentle": {{"method": "fill", "loss.generated_weight": 0.3}}}}'
        ) from error


def _as_candidate(name: str, given: dict[str, Any]) -> Candidate:
    method, about = given.pop("method", None), given.pop("about", name)
    if method not in METHODS:
        raise UserError(
            f"candidate {name!r} of config.tune.candidates_file has method {method!r}; use "
            f"one of {', '.join(METHODS)}"
        )
    return Candidate(method, str(about), given)


def _lacks(config: Mapping[str, Any], candidate: Candidate) -> str:
    """What a candidate needs and does not have; empty if nothing is missing."""
    store = config["oversampling"]["generated_dir"]
    if METHODS[candidate.method].sets["mode"] == "generated" and not store:
        return "config.oversampling.generated_dir"
    distances = report_path(Path(store)) / "gap.json"
    if candidate.sets.get("oversampling.max_gap") and not distances.exists():
        return f"{distances}, which --mode=gap writes"
    return ""


def _get(config: Mapping[str, Any], name: str) -> Any:
    section, _, field = name.rpartition(".")
    return config[section][field] if section else config[field]


def _set(config: dict[str, Any], name: str, value: Any) -> None:
    section, _, field = name.rpartition(".")
    if section not in config and section:
        raise UserError(f"there is no field config.{name}; docs/configuration.md lists all fields")
    (config[section] if section else config)[field] = value
