"""--mode=sweep: trains every method with every seed, then compares them."""

import copy
from pathlib import Path
from typing import Any

from osed_jax.commands.compare import compare
from osed_jax.commands.train import train
from osed_jax.config.build import check_fields, defaults, method_name, plain
from osed_jax.config.methods import METHODS, set_others
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.experiment.loading import Config
from osed_jax.experiment.workdir import read_facts
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say


def sweep(config: Config, directory: Path) -> list[dict[str, Any]]:
    """Trains `config.sweep.methods` with `config.sweep.seeds` in `directory`/METHOD/seed_N.

    ERM is trained once per seed, and deferred methods are forked from it. Finished runs are
    skipped; interrupted runs continue.

    Args:
      config: as `config.check` returns it; each run gets the fields of its own method.
      directory: of the whole sweep.

    Returns:
      The summaries of all finished runs below `directory`, after comparing them; in the first
      process alone.

    Raises:
      UserError: if one of the runs cannot be trained. If the config shows this, it is raised before
        any training.
    """
    runs = planned(config, directory)
    with cluster.first_goes_first("images of the sweep"):
        _check_finished(runs, directory)
    for number, (path, run) in enumerate(runs):
        say(f"run {number + 1} of {len(runs)}: {path}")
        train(run, path)
    return compare(directory) if cluster.is_first() else []


def _check_finished(runs: list[tuple[Path, Config]], directory: Path) -> None:
    """Raises UserError if finished runs saw other images than the next runs would see."""
    finished = [path for path, _ in runs if (path / "summary.json").exists()]
    coming = [run for path, run in runs if path not in finished]
    if not finished or not coming:
        return
    shows_generated = (run for run in coming if run["oversampling"]["mode"] == "generated")
    data = loading.load_data(next(shows_generated, coming[0]), loading.open_cache(directory))
    now = data.facts["content_sha256"]
    for path in finished:
        known = read_facts(path)["content_sha256"]
        changed = [k for k, digest in known.items() if digest and now[k] and digest != now[k]]
        if changed:
            raise UserError(
                f"{path} is finished, but was trained or tested on other {' and '.join(changed)} "
                "images than there are now, so the runs of this sweep could not be compared; "
                "restore those images, or give another --workdir"
            )


def planned(config: Config, directory: Path) -> list[tuple[Path, Config]]:
    """The work directory and config of every run, in the order of their training."""
    methods = config["sweep"]["methods"].split(",")
    if "drs" in methods and not config["oversampling"]["start_epoch"]:
        raise UserError(
            "config.oversampling.start_epoch is 0, so drs would be the same as ros; give the "
            "epoch at which deferred methods start, or leave drs out of config.sweep.methods"
        )
    if any(is_deferred(config, method) for method in methods):
        methods = ["erm", *(m for m in methods if m != "erm")]
    runs = []
    for seed in config["sweep"]["seeds"]:
        for method in methods:
            run = _of_method(config, method, seed)
            if is_deferred(config, method):
                run["init"]["fork_from"] = str(_workdir(directory, "erm", seed))
            check_fields(run)
            if run["oversampling"]["mode"] == "generated":
                loading.generated_dir(run)
            runs.append((_workdir(directory, method, seed), run))
    return runs


def _of_method(config: Config, method: str, seed: int) -> Config:
    run = copy.deepcopy(config)
    run["seed"] = seed
    chosen, usual = config["oversampling"], defaults()
    prefers = METHODS[method].prefers.items()
    run["oversampling"] |= {k: v for k, v in prefers if chosen[k] == usual["oversampling"][k]}
    run["oversampling"] |= plain(METHODS[method].sets)
    if run["oversampling"]["mode"] != "generated":
        run["loss"]["generated_weight"] = usual["loss"]["generated_weight"]
    run["init"]["fork_from"] = ""
    set_others(run, method)
    if (made := method_name(run)) != method and METHODS[made].others:
        fields = " and ".join(f"config.{f}={v}" for f, v in METHODS[made].others.items())
        raise UserError(
            f"with {fields} the method {method} would be {made}; remove that (a sweep sets "
            f"the fields of each method), or leave {method} out of config.sweep.methods"
        )
    return run


def is_deferred(config: Config, method: str) -> bool:
    """Whether the method's first epochs are those of ERM, so that it can be forked from it."""
    may_be = METHODS[method].deferred is not False
    return may_be and config["oversampling"]["start_epoch"] > 0


def _workdir(directory: Path, method: str, seed: int) -> Path:
    return directory / method / f"seed_{seed}"
