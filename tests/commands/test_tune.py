"""Choosing a setting on held-out images."""

import importlib.util
import json
import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import cifar10_lt, digits
from osed_jax.config.build import as_config_file, check
from osed_jax.config.by_method import MethodConfigs
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import with_values
from osed_jax.config.stages import num_epochs
from osed_jax.errors import UserError
from osed_jax.tuning.configs import (
    best_start,
    candidates,
    doubts_about_length,
    epochs_within_budget,
    num_kept,
    shortened,
)
from osed_jax.tuning.selection import Score, best, score, simplest_good
from tests.command_line import run, run_together, run_well
from tests.conftest import ROOT
from tests.store.test_origins import write_store

STORE = ROOT / "demo" / "generated"


def test_the_score_of_held_out_images():
    label = np.array([0, 0, 0, 0, 2, 2, 3])
    prediction = np.array([0, 0, 0, 1, 2, 0, 3])
    found = score(label, prediction, 4)
    assert found.accuracy == [0.75, None, 0.5, 1.0] and found.num_images == [4, 0, 2, 1]
    assert found.balanced_accuracy == pytest.approx((0.75 + 0.5 + 1) / 3)
    # With one right and one wrong image added: 4 of 6, 2 of 4, 2 of 3.
    variance = 4 / 6 * 2 / 6 / 4 + 0.25 / 2 + 2 / 3 * 1 / 3 / 1
    assert found.standard_error == pytest.approx(math.sqrt(variance) / 3)


def test_the_simplest_within_one_standard_error_of_the_best():
    scores = [Score(a, e, [], []) for a, e in ((0.5, 0.5), (0.81, 0.01), (0.8, 0.2), (0.9, 0.08))]
    assert best(scores) == 3 and simplest_good(scores) == 3
    scores[3] = Score(0.9, 0.095, [], [])
    assert simplest_good(scores) == 1, "0.81 is within 0.095 of 0.9; its own error is of no account"
    assert best([scores[0], scores[0]]) == 0


def asked(get_config=digits.get_config, **given):
    """What a config file and flags of these fields ask for; __ for the dots."""
    flags = {name.replace("__", "."): value for name, value in given.items()}
    return MethodConfigs(get_config, {"oversampling.generated_dir": str(STORE), **flags})


def config(name, **given):
    """The config of one candidate."""
    return candidates(asked(tune__candidates=f"{name},ros,erm", **given))[0][name].config


def test_candidates_are_chosen_by_name_or_left_out_with_the_reason(tmp_path):
    found, notes = candidates(asked())
    assert [n for n in METHODS if n not in found] == ["fill_near"]
    assert "fill_near, which need" in notes[0] and "gap.json, which --mode=gap writes" in notes[0]
    found, notes = candidates(asked(tune__candidates="fill, ros"))
    assert list(found) == ["ros", "fill"] and not notes, "from the simplest on"
    found, notes = candidates(asked(oversampling__generated_dir=""))
    assert list(found) == [
        *("erm", "ros", "drs", "noise", "open"),
        *("la", "ldam_drw", "mixup_drw"),
    ]
    assert "osed" in notes[0] and "need config.oversampling.generated_dir" in notes[0]
    with pytest.raises(UserError, match="names fil; use some of erm, ros"):
        candidates(asked(tune__candidates="fil,ros"))
    with pytest.raises(UserError, match="fewer than two candidates"):
        candidates(asked(tune__candidates="ros"))


def test_a_person_names_candidates_in_a_file(tmp_path):
    path = tmp_path / "mine.json"

    def with_file(content, name="gentle"):
        path.write_text(content)
        given = {"tune__candidates": f"ros,{name}", "tune__candidates_file": str(path)}
        return candidates(asked(**given))[0][name]

    gentle = with_file('{"gentle": {"method": "fill", "loss.generated_weight": 0.3}}')
    assert (gentle.method, gentle.about) == ("fill", "gentle")
    assert gentle.config.loss.generated_weight == 0.3
    for content, said in (
        ("[]", "cannot be read"),
        ('{"a": {"method": "filled"}}', "has method 'filled'; use one of erm"),
        ('{"a": {"method": "fill", "loss.weight": 1}}', "no field config.loss.weight"),
        ('{"a": {"method": "fill", "lost.weight": 1}}', "no field config.lost.weight"),
        ('{"a": {"method": "fill", "loss.beta": 2.0}}', "loss.beta is 2.0"),
    ):
        with pytest.raises(UserError, match=said):
            with_file(content, "a")


def test_what_is_given_holds_for_the_candidates_that_use_it():
    found, notes = candidates(
        asked(tune__candidates="erm,la,mixup_drw", augment__mix_alpha=0.2, loss__tau=0.5)
    )
    assert found["mixup_drw"].config.augment.mix_alpha == 0.2
    assert found["la"].config.loss.tau == 0.5
    assert found["erm"].config.loss.tau == 1.0 and found["erm"].config.augment.mix_alpha == 1.0
    assert "config.augment.mix_alpha=0.2 is used by mixup_drw alone" in notes
    found, notes = candidates(
        asked(tune__candidates="ros,fill_third,fill", oversampling__replace_ratio=0.5)
    )
    assert list(found) == ["ros", "fill_third"]
    assert found["fill_third"].config.oversampling.replace_ratio == 0.5
    assert "fill is left out: with what is given it is the same as fill_third" in notes


def test_what_follows_from_the_number_of_epochs_moves_along():
    def of(method):
        file = cifar10_lt.get_config(method)  # of 200 epochs
        file.oversampling.generated_dir = str(STORE)
        return check(file)

    short = shortened(with_values(of("osed"), {"train.eval_every_epochs": 20}), 50)
    assert short.train.num_epochs == 50 and short.train.eval_every_epochs == 5
    assert short.oversampling.start_epoch == 40 and short.optimizer.warmup_epochs == 1
    assert short.oversampling.generated_norm == "dar"
    head = shortened(of("fill_head"), 50)
    assert num_epochs(head) == 55 and head.oversampling.generated_norm == "shared"


def test_all_trainings_together_keep_to_the_budget():
    names = ("erm", "ros", "drs", "fill_third", "fill_head")

    def epochs(budget):
        given = {"tune__budget": budget, "tune__folds": 2, "train__num_epochs": 100}
        found, _ = candidates(asked(tune__candidates=",".join(names), **given))
        assert tuple(found) == names
        return epochs_within_budget([c.config for c in found.values()])

    # The first fold: erm 1, ros 1, drs 0.2, fill_third 1, its head 0.1; the second: 2 and ros.
    assert num_kept(5) == 2 and num_kept(14) == 5 and num_kept(2) == 2
    assert epochs(2.0) == int(100 * 2.0 / ((3.3 + 3) / 2))
    assert epochs(1000.0) == 100 and epochs(0.001) == 1
    assert doubts_about_length(49, 100) and not doubts_about_length(50, 100)


def test_a_run_starts_from_the_one_it_has_most_in_common_with():
    names = ("erm", "ros", "la", "mixup_drw", "fill_third", "osed", "fill_head")
    found, _ = candidates(asked(tune__candidates=",".join(names)))
    runs = {name: shortened(found[name].config, 10) for name in names}
    finished = {Path(name): runs[name] for name in ("erm", "ros", "fill_third")}
    assert best_start(runs["osed"], finished) == (Path("erm"), 8)
    assert best_start(runs["fill_head"], finished) == (Path("fill_third"), 10)
    assert best_start(runs["ros"], {Path("erm"): runs["erm"]}) == (None, 0)
    for name in ("la", "mixup_drw"):
        assert best_start(runs[name], {Path("erm"): runs["erm"]}) == (None, 0)


def test_the_chosen_config_file_gives_the_chosen_config(tmp_path):
    for name in ("fill_head", "fill_dar_grad", "open", "ldam_drw"):
        wanted = config(name)
        path = tmp_path / f"{name}.py"
        path.write_text(as_config_file(wanted, 'Chosen, "as it says": {wanted}.'))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert check(module.get_config()) == wanted


# Given, not measured on each fold's images, so that the folds share compiled programs.
STATISTICS = (
    "--config.dataset.mean=(0.3,0.3,0.3)",
    "--config.dataset.std=(0.4,0.4,0.4)",
)
SMALL = (
    "--mode=tune",
    f"--config={ROOT}/configs/digits.py",
    "--workdir=tune",
    "--config.tune.candidates=ros,fill,fill_whole",
    "--config.oversampling.generated_dir=generated",  # in the folder that it is started in
    "--config.dataset.num_max=40",  # so few that good generated images are worth very much
    "--config.dataset.imbalance_ratio=40",
    "--config.tune.folds=2",
    "--config.tune.budget=1000",
    "--config.train.num_epochs=24",
    "--config.train.batch_size=16",
    "--config.train.eval_every_epochs=8",
    "--config.optimizer.warmup_epochs=1",
    *STATISTICS,
)


def run_in(folder, *arguments) -> str:
    """Runs main.py in a folder; returns what it printed."""
    (done,) = run_together([arguments], folders=[folder], many_steps=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wrong_store(tmp_path_factory) -> Path:
    """The demo's images, each under the name of another class."""
    folder = tmp_path_factory.mktemp("wrong") / "generated"
    for c in range(10):
        shutil.copytree(STORE / str(1 + c % 9), folder / str(c))
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """Work directory of a choice among resampling and two shares of the demo's images."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "generated").symlink_to(STORE)
    run_in(folder, *SMALL)
    return folder / "tune"


def test_good_generated_images_are_chosen(tuned):
    result = json.loads((tuned / "tune.json").read_text())
    assert result["chosen"] == "fill_whole"
    assert result["why"].startswith(f"{result['chosen']} is chosen")
    by_name = {c["name"]: c for c in result["candidates"]}
    assert by_name["ros"]["folds"] == by_name[result["chosen"]]["folds"] == 2
    assert sum(by_name["ros"]["num_images"]) == sum(result["class_counts"]) - 2
    assert result["not_judged"] == ["8", "9"], "their only images are needed for training"
    page = (tuned / "tune.html").read_text()
    assert "Not judged: 8, 9" in page and "fewer than 10 images each: 4 (7)" in page
    assert result["command"] in page.replace("&#x27;", "'")


def test_the_worst_candidate_stays_in_every_fold_if_it_is_the_baseline(tuned):
    assert num_kept(3) == 2, "the other two would be enough"
    by_name = {c["name"]: c for c in json.loads((tuned / "tune.json").read_text())["candidates"]}
    first_fold = {}
    for name in by_name:
        with np.load(tuned / "fold_1" / name / "held_out.npz") as file:
            right = file["logits"].argmax(axis=1) == file["label"]
            of_class = [right[file["label"] == c].mean() for c in np.unique(file["label"])]
        first_fold[name] = np.mean(of_class)
    assert min(first_fold, key=first_fold.get) == "ros"
    assert by_name["ros"]["folds"] == 2 and (tuned / "fold_2" / "ros" / "held_out.npz").exists()


def test_each_fold_is_a_training_with_a_seed_of_its_own(tuned):
    for name in ("ros", "fill"):
        files = [tuned / f"fold_{n}" / name / "config.json" for n in (1, 2)]
        configs = [json.loads(file.read_text()) for file in files]
        assert [c["dataset"]["validation_fold"] for c in configs] == [0, 1]
        assert [c["seed"] for c in configs] == [0, 1]


def test_a_finished_choice_is_not_trained_again_and_its_command_trains(tuned, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in tuned.rglob("held_out.npz")}
    assert len(before) >= 4
    kept = (tuned / "tune.json").read_text()
    run_in(tuned.parent, *SMALL)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (tuned / "tune.json").read_text() == kept
    command = shlex.split(json.loads(kept)["command"])[2:]
    command[-1] = f"--workdir={tmp_path / 'final'}"
    few = ("--config.train.num_epochs=2", "--config.train.eval_every_epochs=2")
    run_in(tuned.parent, *command, *few, "--config.report.enabled=False")
    summary = json.loads((tmp_path / "final" / "summary.json").read_text())
    assert summary["method"] == "fill" and summary["num_validation_images"] == 0


def test_images_of_wrong_classes_are_not_chosen(tuned, wrong_store, tmp_path):
    for fold in ("fold_1", "fold_2"):  # resampling shows no generated image: it is trained already
        shutil.copytree(tuned / fold / "ros", tmp_path / "tune" / fold / "ros")
    (tmp_path / "generated").symlink_to(wrong_store)
    said = run_in(tmp_path, *SMALL, "--config.tune.candidates=ros,fill")
    result = json.loads((tmp_path / "tune" / "tune.json").read_text())
    assert result["chosen"] == "ros"
    assert "No setting beats ros by more than one standard error" in said


def test_own_images_with_a_natural_tail_and_no_look_at_the_test_images(tmp_path):
    for c, count in enumerate((9, 6, 3)):
        folder = tmp_path / "images" / "train" / f"class_{c}"
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng([c, i]).integers(80, size=(8, 8, 3)) + 80 * c
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        test = tmp_path / "images" / "test" / f"class_{c}"
        test.mkdir(parents=True)
        (test / "0.png").write_bytes(b"whoever opens this fails")
    classes = [f"class_{c}" for c in range(3)]
    started = [("class_1", i) for i in range(6)] + [("class_2", i) for i in range(3)]
    starts = [(name, f"/elsewhere/train/{name}/{i}.png") for name, i in started]
    store = write_store(tmp_path / "store", classes, starts)
    arguments = (
        "--config=configs/folder.py",
        f"--config.dataset.data_dir={tmp_path / 'images'}",
        "--config.dataset.image_size=8",
        "--config.dataset.imbalance_profile=none",
        "--config.model.depth=10",
        "--config.model.widen_factor=1",
        "--config.train.num_epochs=4",
        "--config.train.batch_size=8",
        "--config.tune.candidates=ros,fill",
        "--config.tune.budget=1",
        f"--config.oversampling.generated_dir={store}",
        *STATISTICS,
    )
    said = run_well("--mode=tune", *arguments, f"--workdir={tmp_path / 'tune'}")
    for fold in (1, 2, 3):
        assert f"note: in fold {fold} of 3, 3 of 9 images of {store} are left out: 3" in said
    result = json.loads((tmp_path / "tune" / "tune.json").read_text())
    judged = result["candidates"][0]["num_images"]
    assert judged == [9, 6, 3] and result["folds"] == 3
    page = (tmp_path / "tune" / "tune.html").read_text()
    assert "note: the runs have 1 of 4 epochs, after which the candidates may rank" in said
    assert "The runs have 1 of 4 epochs, after which the candidates may rank" in page
    assert "fewer than 10 images each: class_0 (9), class_1 (6), class_2 (3)" in page
    refused = run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert refused.returncode == 2, "training would have opened the test images"
