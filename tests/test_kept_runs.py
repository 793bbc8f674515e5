"""What results/ keeps, the arithmetic of its tables, and the script that adds runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import kept, questions, rows, run_rows
from benchmarks.tables import PACKED, PUBLISHED, RESULTS
from configs import cifar10_lt, cifar10_lt_resnet32, cifar10_lt_small, cifar10_lt_tenth, digits
from osed_jax.comparison.finished_runs import FinishedRun
from osed_jax.config.build import as_plain, from_plain, run_as_plain
from osed_jax.config.compare import changed_fields
from osed_jax.errors import UserError
from tests.command_line import SMALL, environment
from tests.conftest import ROOT

# Of the settings of one net: its name in the names of the runs, and the config file.
CONFIGS = {
    ("few_images", ""): cifar10_lt_tenth,
    ("forty_epochs", ""): cifar10_lt_small,
    ("full_size", "wrn_28_10"): cifar10_lt,
    ("full_size", "resnet32"): cifar10_lt_resnet32,
    ("digits", ""): digits,
}
# What the command on the card of a setting overrides, beside places.
GIVEN = (
    *("dataset.name", "dataset.image_size", "dataset.imbalance_ratio"),
    *("train.feeder", "train.eval_every_epochs", "model.dtype"),
)
PLACES = ("dataset.data_dir", "oversampling.generated_dir", "init.fork_from")


def setting(module):
    config = module.get_config()
    config.oversampling.generated_dir = "made"
    return from_plain(config.to_dict())


def planned(folder, *names, module=cifar10_lt_small, seeds=(3,)):
    runs = run_rows.planned(setting(module), folder, names or rows.ROWS, seeds)
    return {path.name: run for path, run in runs}


@pytest.mark.parametrize(("folder", "net"), CONFIGS)
def test_kept_runs_are_those_of_the_rows_they_are_named_after(tmp_path, folder, net):
    config = setting(CONFIGS[folder, net])
    for name, (run, _) in kept.read(RESULTS / folder).items():
        if name.rpartition("/")[0] == net:
            row, _, seed = run.directory.name.partition(".seed_")
            today = run_as_plain(rows.config_of(config, row, int(seed), tmp_path))
            changed = changed_fields(run.summary["config"], today)
            assert set(changed) <= {*GIVEN, *PLACES}, name
            was, now = changed.get("init.fork_from", ("", ""))
            assert Path(was).name == Path(now).name == (f"erm.seed_{seed}" if was else "")


@pytest.mark.parametrize("folder", PACKED)
def test_summaries_are_those_of_the_predictions(folder):
    for name, (run, _) in kept.read(RESULTS / folder).items():
        assert run.correct.mean() == pytest.approx(run.summary["top1"], abs=1e-12), name
        right = [run.correct[run.label == c].mean() for c in np.unique(run.label)]
        assert right == pytest.approx(list(run.summary["per_class"].values())), name


@pytest.mark.parametrize("card", sorted(RESULTS.glob("*/README.md")), ids=lambda p: p.parent.name)
def test_figures_in_the_tables_of_a_card_stand_in_the_written_tables(card):
    figure = r"[+-]?\d+\.\d+(?: ± \d+\.\d+| \(\d\))?"
    written = set(re.findall(figure, (card.parent / "tables.md").read_text()))
    lines = [line for line in card.read_text().splitlines() if line.startswith("| ")]
    shown = {f for line in lines for f in re.findall(figure, line.replace("**", ""))}
    assert shown - written <= {paper for pair in PUBLISHED.values() for paper in pair}
    assert shown


def test_rank_correlation():
    # By hand: with 1 - 6 * 2 / 60 = 0.8, and of the 24 orders of four, one has 1, three 0.8.
    found = questions.rank_correlation([1, 2, 3, 4], [1, 3, 2, 4])
    assert found == pytest.approx((0.8, 2 * 4 / 24))
    x, y = np.random.default_rng(0).random((2, 9))
    statistic, p_value = questions.rank_correlation(x, y)
    usual = spearmanr(x, y)
    assert statistic == pytest.approx(usual.statistic)
    assert p_value == pytest.approx(usual.pvalue, abs=0.02)


def test_changes_of_classes_are_ranked_by_the_distance_of_their_images():
    measures = {"test_frechet_distance": 0.012, "generated_precision": 0.5, "generated_recall": 0.2}
    classes = [
        {"class": name, "generated_frechet_distance": distance, **measures}
        for name, distance in (("cat", 0.3), ("sea_lion", 0.1), ("dog", 0.2))
    ]
    head, lines = questions.gap_table(classes, [50, 20, 5], {"fill": (0.3, 0.1, -0.05)})
    assert head[-1] == "fill"
    assert lines[0] == ["cat", "50", "0.30", "0.01", "50.0", "20.0", "+30.00"]
    # The cat is the most frequent class; of the other two the farther one loses.
    assert lines[3][-1].startswith("-1.00")


def one(name, top1, **changes):
    """A kept run that takes class 0 right and a part of class 1."""
    label = np.repeat([0, 1], 10)
    prediction = label * (np.arange(20) % 10 < round(20 * top1 - 10))
    accuracy = {"a": 1.0, "b": 2 * top1 - 1}
    summary = {
        "method": "erm",
        "seed": int(name[-1]),
        "top1": top1,
        "balanced_accuracy": top1,
        "groups": {"few": {"classes": ["b"], "accuracy": accuracy["b"]}},
        "worst_class": {"name": "b", "accuracy": accuracy["b"]},
        "per_class": accuracy,
        "validation": None,
        "ece": 0.1,
        "class_names": ["a", "b"],
        "class_counts": [50, 5],
        "config": {"seed": int(name[-1]), "init": {"fork_from": name}, **changes},
    }
    curves = {column: np.zeros(int(name[-1]), np.float32) for column in ("epoch", *kept.CURVES)}
    return kept.Kept(FinishedRun(Path(name), summary, prediction, label), curves)


def test_what_is_written_is_read_back(tmp_path):
    runs = [one("net/ros.seed_2", 0.8), one("net/erm.seed_1", 0.7)]
    kept.write(tmp_path, runs)
    back = kept.read(tmp_path)
    assert list(back) == ["net/erm.seed_1", "net/ros.seed_2"]
    for run, curves in runs:
        again = back[str(run.directory)]
        assert again.run.summary == run.summary and (again.run.prediction == run.prediction).all()
        assert [len(c) for c in again.curves.values()] == [len(c) for c in curves.values()]
    assert kept.read(tmp_path / "nowhere") == {}


def test_rows_of_a_question_are_shown_on_the_seeds_that_all_of_them_have():
    top1 = {"erm": (0.6, 0.7, 0.9), "drs": (0.8, 0.9), "ros": (0.6, 0.8, 1.0)}
    runs = [one(f"{n}.seed_{s}", t) for n, values in top1.items() for s, t in enumerate(values)]
    (title, (overall, paired)), *_ = questions.answers(kept.variants(runs))
    assert title == "1. Reproduction"
    assert {row[0]: row[1:3] for row in overall[1]} == {
        "ERM": ["2", "65.00 ± 7.07"],
        "resampling from epoch 0": ["2", "70.00 ± 14.14"],
        "deferred resampling (DRS)": ["2", "85.00 ± 7.07"],
    }
    assert paired[1][1][:3] == ["deferred resampling (DRS) vs ERM", "2", "+20.00 ± 0.00"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (one("em.seed_1", 0.6), "is not a run of a row; its name must be ROW.seed_1"),
        (one("drs.seed_1", 0.6, train={"num_epochs": 8}), "different settings .train.num_epochs"),
        (one("erm.seed_1", 0.6, loss={"tau": 0.5}), "different settings .loss.tau: 1.0 -> 0.5"),
    ],
)
def test_runs_are_averaged_by_what_they_are_not_by_their_names(run, message):
    first = one("erm.seed_0", 0.6, train={"num_epochs": 4}, loss={"tau": 1.0})
    with pytest.raises(UserError, match=message):
        kept.variants([first, run])


@pytest.mark.parametrize("module", [cifar10_lt, cifar10_lt_small, cifar10_lt_tenth])
def test_every_row_can_be_planned_and_no_two_are_the_same(tmp_path, module):
    runs = planned(tmp_path, module=module, seeds=(0, 1))
    assert len({json.dumps(as_plain(run)) for run in runs.values()}) == 2 * len(rows.ROWS)
    named = {name for names in questions.QUESTIONS.values() for name in names}
    assert named == set(rows.ROWS)


def test_deferred_rows_are_forked(tmp_path):
    runs = planned(tmp_path)
    forks = {n.removesuffix(".seed_3"): run.init.fork_from for n, run in runs.items()}
    assert {n for n, source in forks.items() if not source and not n.startswith("fill_")} == {
        *("erm", "ros", "open_from_0", "osed_from_0", "osed_balanced_softmax"),
        *("la", "ldam_drw", "mixup_drw"),
    }
    assert {source for source in forks.values() if source} == {str(tmp_path / "erm.seed_3")}


def test_what_cannot_be_run_is_said_before_anything_is_trained(tmp_path):
    assert list(planned(tmp_path, "drs", "erm")) == ["erm.seed_3", "drs.seed_3"]
    with pytest.raises(UserError, match="there is no row osd; use some of erm, ros"):
        planned(tmp_path, "osd")
    with pytest.raises(UserError, match="--seeds is 0,one; give whole numbers"):
        run_rows.numbers(["0", "one"])
    runs = run_rows.planned(setting(digits), tmp_path, ["erm", "osed_shared_one"], [0])
    with pytest.raises(UserError, match=r"no folder of generated images made; give one in"):
        run_rows.train_all(runs)
    assert not list(tmp_path.iterdir())


def test_a_row_with_few_images_shows_the_first_ones_of_each_class(tmp_path):
    for name, number in (("cat", 3), ("dog", 150)):
        (tmp_path / "made" / name).mkdir(parents=True)
        for index in range(number):
            (tmp_path / "made" / name / f"{index:04}.png").write_bytes(bytes([index]))
    config = cifar10_lt_small.get_config()
    config.oversampling.generated_dir = str(tmp_path / "made")
    config = from_plain(config.to_dict())
    for _ in range(2):  # the second time it is there
        run_rows.copy_first_images(config, ["fill_100_images", "erm"], tmp_path / "runs")
    (store,) = (tmp_path / "runs").iterdir()
    run = rows.config_of(config, "fill_100_images", 0, tmp_path / "runs")
    assert run.oversampling.generated_dir == str(store)
    assert sorted(p.name for p in (store / "cat").iterdir()) == [f"{i:04}.png" for i in range(3)]
    assert sorted(p.read_bytes()[0] for p in (store / "dog").iterdir()) == list(range(100))
    (store / "dog" / "0007.png").unlink()
    with pytest.raises(UserError, match=r"made\.first_100 does not hold the first 100 images"):
        run_rows.copy_first_images(config, ["fill_100_images"], tmp_path / "runs")


def test_the_script_trains_what_is_missing_and_keeps_it(tmp_path):
    command = [
        *(sys.executable, "-m", "benchmarks.run_rows", "--config=configs/digits.py"),
        *(f"--workdir={tmp_path / 'runs'}", f"--keep={tmp_path / 'kept'}", "--seeds=0"),
        "--rows=drs,osed_filtered",
        f"--config.oversampling.generated_dir={ROOT / 'demo' / 'generated'}",
        # Enough for a judge that recognises some of each class.
        *(*SMALL, "--config.train.num_epochs=10", "--config.dataset.imbalance_ratio=2"),
    ]
    environ = environment(many_steps=True)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = {"erm.seed_0", "drs.seed_0", "osed_filtered.seed_0", "generated.filtered"}
    assert {p.name for p in (tmp_path / "runs").iterdir() if p.name[0] != "."} == folders
    runs = kept.read(tmp_path / "kept")
    assert set(kept.variants(runs.values())) == {"erm", "drs", "osed_filtered"}
    filtered = runs["osed_filtered.seed_0"].run.summary
    images = filtered["filter"]["images"]
    assert filtered["generated_counts"] == [
        images[name].get("kept", 0) for name in filtered["class_names"]
    ]
    for run, curves in runs.values():
        assert run.correct.mean() == pytest.approx(run.summary["top1"])
        assert curves["epoch"][-1] == 9 and np.isfinite(curves["loss"]).all()
        assert str(tmp_path) not in json.dumps(run.summary)
