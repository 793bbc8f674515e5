"""Choosing a setting on held-out images."""

import importlib.util
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import cifar10_lt, digits
from osed_jax.config.build import as_config_file, check
from osed_jax.config.candidates import CANDIDATES, Candidate
from osed_jax.config.stages import num_epochs
from osed_jax.errors import UserError
from osed_jax.tuning.configs import (
    best_start,
    doubts_about_length,
    epochs_within_budget,
    named,
    num_kept,
    of_candidate,
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


def config_of(**tune):
    config = digits.get_config()
    config.oversampling.generated_dir = str(STORE)
    config.tune.update(tune)
    return check(config)


def test_candidates_are_chosen_by_name_or_left_out_with_the_reason(tmp_path):
    found, notes = named(config_of())
    assert [n for n in CANDIDATES if n not in found] == ["fill_near"]
    assert "fill_near, which need" in notes[0] and "gap.json, which --mode=gap writes" in notes[0]
    found, notes = named(config_of(candidates="fill, ros"))
    assert list(found) == ["ros", "fill"] and not notes, "from the simplest on"
    bare = config_of()
    bare["oversampling"]["generated_dir"] = ""
    found, notes = named(bare)
    assert list(found) == [
        *("erm", "ros", "drs", "noise", "open"),
        *("la", "ldam_drw", "mixup_drw"),
    ]
    assert "osed" in notes[0] and "need config.oversampling.generated_dir" in notes[0]
    with pytest.raises(UserError, match="names fil; use some of erm, ros"):
        named(config_of(candidates="fil,ros"))
    with pytest.raises(UserError, match="fewer than two candidates"):
        named(config_of(candidates="ros"))


def test_a_person_names_candidates_in_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"gentle": {"method": "fill", "loss.generated_weight": 0.3}}')
    found, _ = named(config_of(candidates="ros,gentle", candidates_file=str(path)))
    assert found["gentle"] == Candidate("fill", "gentle", {"loss.generated_weight": 0.3})
    made = of_candidate(config_of(), found["gentle"], 6)
    assert made["loss"]["generated_weight"] == 0.3
    for content, said in (
        ("[]", "cannot be read"),
        ('{"a": {"method": "filled"}}', "has method 'filled'; use one of erm"),
        ('{"a": {"method": "fill", "loss.weight": 1}}', "no field config.loss.weight"),
        ('{"a": {"method": "fill", "lost.weight": 1}}', "no field config.lost.weight"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=said):
            chosen, _ = named(config_of(candidates="ros,a", candidates_file=str(path)))
            of_candidate(config_of(), chosen["a"], 6)


def test_what_follows_from_the_number_of_epochs_moves_along():
    config = check(cifar10_lt.get_config("fill"))  # of 200 epochs, from epoch 0
    config["train"]["eval_every_epochs"] = 20
    short = of_candidate(config, CANDIDATES["osed"], 50)
    assert short["train"]["num_epochs"] == 50 and short["train"]["eval_every_epochs"] == 5
    assert short["oversampling"]["start_epoch"] == 40, "of the candidate, not of the given method"
    assert short["oversampling"]["generated_norm"] == "dar"
    assert short["optimizer"]["warmup_epochs"] == 1
    head = of_candidate(config, CANDIDATES["fill_head"], 50)
    assert num_epochs(head) == 55 and head["oversampling"]["generated_norm"] == "shared"


def test_all_trainings_together_keep_to_the_budget():
    config = config_of(budget=2.0, folds=2)
    config["train"]["num_epochs"] = 100
    chosen = [CANDIDATES[n] for n in ("erm", "ros", "drs", "fill_third", "fill_head")]
    # The first fold: erm 1, ros 1, drs 0.2, fill_third 1, its head 0.1; the second: 2 and ros.
    assert num_kept(5) == 2 and num_kept(14) == 5 and num_kept(2) == 2
    assert epochs_within_budget(config, chosen) == int(100 * 2.0 / ((3.3 + 3) / 2))
    config["tune"]["budget"] = 1000.0
    assert epochs_within_budget(config, chosen) == 100
    config["tune"]["budget"] = 0.001
    assert epochs_within_budget(config, chosen) == 1
    assert doubts_about_length(49, 100) and not doubts_about_length(50, 100)


def test_a_run_starts_from_the_one_it_has_most_in_common_with():
    runs = {n: of_candidate(config_of(), CANDIDATES[n], 10) for n in ("erm", "ros", "fill_third")}
    finished = {Path(name): config for name, config in runs.items()}
    osed = of_candidate(config_of(), CANDIDATES["osed"], 10)
    assert best_start(osed, finished) == (Path("erm"), 8)
    head = of_candidate(config_of(), CANDIDATES["fill_head"], 10)
    assert best_start(head, finished) == (Path("fill_third"), 10)
    assert best_start(runs["ros"], {Path("erm"): runs["erm"]}) == (None, 0)


def test_what_the_given_method_sets_has_no_effect_on_candidates_nor_is_la_started_from_erm():
    config = digits.get_config("ldam_drw")
    config.oversampling.generated_dir = str(STORE)
    given = check(config)
    runs = {n: of_candidate(given, CANDIDATES[n], 10) for n in ("erm", "osed", "la", "mixup_drw")}
    assert runs["erm"] == of_candidate(config_of(), CANDIDATES["erm"], 10)
    assert (
        runs["la"]["loss"]["name"] == "logit_adjustment" and not runs["la"]["model"]["cosine_scale"]
    )
    finished = {Path("erm"): runs["erm"]}
    assert best_start(runs["osed"], finished) == (Path("erm"), 8)
    for name in ("la", "mixup_drw"):
        assert best_start(runs[name], finished) == (None, 0)


def test_the_chosen_config_file_gives_the_chosen_config(tmp_path):
    for name in ("fill_head", "fill_dar_grad", "open", "ldam_drw"):
        wanted = of_candidate(config_of(), CANDIDATES[name], 60)
        path = tmp_path / f"{name}.py"
        path.write_text(as_config_file(wanted, "Chosen."))
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
    "--config.tune.candidates=ros,fill",
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
    """Work directory of a choice among resampling and filling up with the demo's images."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "generated").symlink_to(STORE)
    run_in(folder, *SMALL)
    return folder / "tune"


def test_good_generated_images_are_chosen(tuned):
    result = json.loads((tuned / "tune.json").read_text())
    assert result["chosen"] == "fill"
    assert result["why"].startswith(f"{result['chosen']} is chosen")
    by_name = {c["name"]: c for c in result["candidates"]}
    assert by_name["ros"]["folds"] == by_name[result["chosen"]]["folds"] == 2
    assert sum(by_name["ros"]["num_images"]) == sum(result["class_counts"]) - 2
    assert result["not_judged"] == ["8", "9"], "their only images are needed for training"
    page = (tuned / "tune.html").read_text()
    assert "Not judged: 8, 9" in page and "fewer than 10 images each: 4 (7)" in page
    assert result["command"] in page.replace("&#x27;", "'")


def test_a_finished_choice_is_not_trained_again_and_its_command_trains(tuned, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in tuned.rglob("held_out.npz")}
    assert len(before) >= 4
    kept = (tuned / "tune.json").read_text()
    run_in(tuned.parent, *SMALL)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (tuned / "tune.json").read_text() == kept
    command = json.loads(kept)["command"].split()[2:]
    command[-1] = f"--workdir={tmp_path / 'final'}"
    few = ("--config.train.num_epochs=2", "--config.train.eval_every_epochs=2")
    run_in(tuned.parent, *command, *few, "--config.report.enabled=False")
    summary = json.loads((tmp_path / "final" / "summary.json").read_text())
    assert summary["method"] == "fill" and summary["num_validation_images"] == 0


def test_images_of_wrong_classes_are_not_chosen(tuned, wrong_store, tmp_path):
    for fold in ("fold_1", "fold_2"):  # resampling shows no generated image: it is trained already
        shutil.copytree(tuned / fold / "ros", tmp_path / "tune" / fold / "ros")
    (tmp_path / "generated").symlink_to(wrong_store)
    said = run_in(tmp_path, *SMALL)
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
