"""--mode=sweep: trains every method with every seed, then compares them."""

from pathlib import Path
from typing import Any

from osed_jax.commands.compare import compare
from osed_jax.commands.train import train
from osed_jax.config.build import checked, without_unused
from osed_jax.config.by_method import MethodConfigs, without_surplus
from osed_jax.config.schema import Config, with_values
from osed_jax.config.stages import common_start
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.experiment.workdir import read_facts
from osed_jax.runtime import cluster
from osed_jax.runtime.console import say


def sweep(configs: MethodConfigs, directory: Path) -> list[dict[str, Any]]:
    """Trains `config.sweep.methods` with `config.sweep.seeds` in `directory`/METHOD/seed_N.

    ERM is trained once per seed, and methods that begin like it are forked from it. Finished runs
    are skipped; interrupted runs continue.

    Args:
      configs: the config of each method.
      directory: of the whole sweep.

    Returns:
      The summaries of all finished runs below `directory`, after comparing them; in the first
      process alone.

    Raises:
      UserError: if one of the runs cannot be trained. If configs and images show this, it is raised
        before any training.
    """
    runs, notes = planned(configs, directory)
    for note in notes:
        say(f"note: {note}")
    with cluster.first_goes_first("images of the sweep"):
        _check_images(runs, directory)
    for number, (path, config) in enumerate(runs):
        say(f"run {number + 1} of {len(runs)}: {path}")
        train(config, path)
    return compare(directory) if cluster.is_first() else []


def planned(configs: MethodConfigs, directory: Path) -> tuple[list[tuple[Path, Config]], list[str]]:
    """Work directory and config of every run, in the order of training; and what to say."""
    settings = checked(configs.of("erm"), ("sweep",)).sweep
    methods = settings.methods.split(",")
    by_method = {name: configs.of(name) for name in dict.fromkeys(["erm", *methods])}
    erm = without_unused(by_method["erm"])
    starts = {name: common_start(erm, without_unused(by_method[name])) for name in methods}
    if "erm" not in methods and not any(starts.values()):
        del by_method["erm"]
    by_method, notes = without_surplus(by_method, configs.given)
    runs = []
    for seed in settings.seeds:
        for method, config in by_method.items():
            source = _workdir(directory, "erm", seed) if starts.get(method) else ""
            changes = {"seed": seed, "init.fork_from": str(source) if method != "erm" else ""}
            runs.append((_workdir(directory, method, seed), with_values(config, changes)))
            checked(runs[-1][1])
    return runs, notes


def _check_images(runs: list[tuple[Path, Config]], directory: Path) -> None:
    """Loads what the runs will need, before the first one is trained.

    Raises:
      UserError: if images are missing, or finished runs saw others than the next runs would see.
    """
    coming = [config for path, config in runs if not (path / "summary.json").exists()]
    if not coming:
        return
    shows_generated = (c for c in coming if c.oversampling.mode == "generated")
    data = loading.load_data(next(shows_generated, coming[0]), loading.open_cache(directory))
    now = data.facts["content_sha256"]
    for path, _ in runs:
        if not (path / "summary.json").exists():
            continue
        known = read_facts(path)["content_sha256"]
        changed = [k for k, digest in known.items() if digest and now[k] and digest != now[k]]
        if changed:
            raise UserError(
                f"{path} is finished, but was trained or tested on other {' and '.join(changed)} "
                "images than there are now, so the runs of this sweep could not be compared; "
                "restore those images, or give another --workdir"
            )


def _workdir(directory: Path, method: str, seed: int) -> Path:
    return directory / method / f"seed_{seed}"
