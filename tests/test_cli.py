"""The real command line: training, resuming, forking, evaluating, comparing."""

import json

import numpy as np
import pytest
from PIL import Image

from osed_jax.experiment.workdir import checkpoint_epochs, read_json
from osed_jax.files.records import KEY
from tests.command_line import SMALL, run_killed, run_well

DIGITS = "--config=configs/digits.py:"


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def metrics(workdir):
    """The lines of metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k and k != KEY} for line in lines]


def logits(workdir):
    return np.load(workdir / "predictions.npz")["logits"]


def assert_same_run(one, other):
    np.testing.assert_array_equal(logits(one), logits(other))
    assert metrics(one) == metrics(other)


@pytest.fixture(scope="module")
def erm(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "erm"
    run_well(DIGITS + "erm", f"--workdir={workdir}", *SMALL)
    return workdir


def test_a_run_leaves_its_figures_and_facts(erm):
    facts = summary(erm)
    assert facts["class_counts"] == [40, 31, 25, 20, 15, 12, 10, 7, 6, 5]
    assert facts["num_train_images"] == 171 and facts["num_test_images"] == 500
    predicted = np.load(erm / "predictions.npz")
    accuracy = (predicted["logits"].argmax(1) == predicted["label"]).mean()
    assert facts["top1"] == pytest.approx(accuracy) == facts["balanced_accuracy"]
    assert np.sum(facts["confusion_matrix"]) == 500
    assert facts["num_parameters"] == 77_850 and facts["method"] == "erm"
    assert [m["epoch"] for m in metrics(erm)] == [0, 1, 2, 3]
    assert [m.get("test_accuracy") is not None for m in metrics(erm)] == [False, True] * 2
    assert metrics(erm)[-1]["test_accuracy"] == pytest.approx(facts["top1"])
    assert metrics(erm)[-1]["loss"] < metrics(erm)[0]["loss"]
    assert read_json(erm / "config.json") == facts["config"]
    assert list((erm / "tensorboard").glob("events*"))
    assert {p.name for p in (erm / "checkpoints").iterdir()} == {"1", "2", "3", "4"}


def test_a_finished_run_is_only_reported(erm):
    before = (erm / "summary.json").stat().st_mtime_ns
    assert "finished already" in run_well(DIGITS + "erm", f"--workdir={erm}", *SMALL)
    assert (erm / "summary.json").stat().st_mtime_ns == before


def test_evaluation_gives_the_same_figures(erm):
    run_well(DIGITS + "erm", f"--workdir={erm}", "--mode=evaluate", *SMALL)
    evaluated, trained = json.loads((erm / "evaluation.json").read_text()), summary(erm)
    for name in ("top1", "nll", "ece", "per_class", "groups", "confusion_matrix"):
        assert evaluated[name] == trained[name]


def test_evaluation_on_another_set_of_the_same_classes(erm, tmp_path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(100):
        target = tmp_path / "test" / str(digits.target[i]) / f"{i:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[i] * 255 / 16).astype(np.uint8)).save(target)
    other = ["--config.dataset.name=folder", f"--config.dataset.data_dir={tmp_path}"]
    other.append("--config.dataset.image_size=8")
    run_well(DIGITS + "erm", f"--workdir={erm}", "--mode=evaluate", *SMALL, *other)
    evaluated = json.loads((erm / "evaluation.json").read_text())
    assert evaluated["num_test_images"] == 100
    assert evaluated["per_class"].keys() == summary(erm)["per_class"].keys()
    # Most of these hundred are training images of the run, so it does about as well on them.
    assert evaluated["top1"] == pytest.approx(summary(erm)["top1"], abs=0.15)


def test_a_fork_equals_the_run_in_full(erm, tmp_path):
    method, road = "open", ["--config.oversampling.noise_norm=aux"]
    fork = f"--config.init.fork_from={erm}"
    run_well(DIGITS + method, f"--workdir={tmp_path / 'full'}", *SMALL, *road)
    run_well(DIGITS + method, f"--workdir={tmp_path / 'fork'}", *SMALL, *road, fork)
    np.testing.assert_array_equal(logits(tmp_path / "full"), logits(tmp_path / "fork"))
    assert metrics(tmp_path / "full")[3:] == metrics(tmp_path / "fork")
    assert metrics(tmp_path / "full")[:3] == metrics(erm)[:3]
    assert (logits(tmp_path / "fork") != logits(erm)).any()
    last = metrics(tmp_path / "fork")[-1]
    assert last["noise"] > 0 and last["natural"] + last["noise"] == 171
    # The last checkpoint of an auxiliary road has parameters that ERM's has not.
    run_well(
        DIGITS + method, f"--workdir={tmp_path / 'fork'}", "--mode=evaluate", *SMALL, *road, fork
    )
    evaluated = json.loads((tmp_path / "fork" / "evaluation.json").read_text())
    assert evaluated["top1"] == summary(tmp_path / "fork")["top1"]


def test_choices_can_be_made_on_images_that_are_held_out(tmp_path):
    said = run_well(
        DIGITS + "open",
        f"--workdir={tmp_path / 'run'}",
        *SMALL,
        "--config.dataset.validation_fraction=0.2",
        "--config.oversampling.start_epoch=2",
        "--config.oversampling.real_only_epochs=1",
    )
    facts = summary(tmp_path / "run")
    held_out = facts["validation"]
    # The digits' training images, a class each, are 130 and a few more or fewer.
    assert held_out["num_images"] == facts["num_validation_images"] > 200
    assert f"{held_out['num_images']} validation images, subset sha256" in said
    assert f"{held_out['num_images']} validation images: top-1 {held_out['top1']:.2%}" in said
    assert np.sum(held_out["confusion_matrix"]) == held_out["num_images"]
    assert facts["num_test_images"] == 500 == np.sum(facts["confusion_matrix"])
    assert all("test_accuracy" not in m for m in metrics(tmp_path / "run")), "it is used once"
    last = metrics(tmp_path / "run")[-1]
    assert last["validation_accuracy"] == pytest.approx(held_out["top1"]) != facts["top1"]
    noise = [m["noise"] > 0 for m in metrics(tmp_path / "run")]
    assert noise == [False, False, True, False], "the last epoch shows real images only"


def test_generated_images_and_noise_in_one_run_on_four_devices(erm, tmp_path):
    random = np.random.RandomState(0)
    for c in range(1, 10):
        (tmp_path / "generated" / str(c)).mkdir(parents=True)
        for i in range(4):
            image = Image.fromarray(random.randint(0, 256, (16, 16), np.uint8))
            image.save(tmp_path / "generated" / str(c) / f"{i}.jpg")
    mixed = (
        DIGITS + "osed",
        *SMALL,
        f"--config.init.fork_from={erm}",
        f"--config.oversampling.generated_dir={tmp_path / 'generated'}",
        "--config.oversampling.noise_share=0.5",
        "--config.oversampling.replace_ratio=1.0",
        "--config.oversampling.generated_norm=dar_grad",
    )
    said = run_well(*mixed, f"--workdir={tmp_path / 'one'}")
    assert "16x16" in said and "repeat: 1 (4 of 9)" in said
    run_well(*mixed, f"--workdir={tmp_path / 'four'}", "--config.train.feeder=tfdata", devices=4)
    np.testing.assert_allclose(logits(tmp_path / "one"), logits(tmp_path / "four"), atol=0.05)
    (one,), (four,) = metrics(tmp_path / "one"), metrics(tmp_path / "four")
    assert one["noise"] == four["noise"] > 20 and one["generated"] == four["generated"] > 20
    assert one["loss"] == pytest.approx(four["loss"], rel=1e-3)
    used = summary(tmp_path / "one")["generated_used"]
    assert used["slots"] == one["generated"] and 20 < used["different"] <= 36
    assert len(summary(tmp_path / "four")["devices"]) == 4


def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    arguments = [DIGITS + "open", *SMALL, "--config.oversampling.noise_norm=aux"]
    run_well(*arguments, f"--workdir={tmp_path / 'whole'}")
    workdir = tmp_path / "killed"
    log, saved = workdir / "metrics.jsonl", "osed_jax.experiment.checkpoint:"
    # In the first save, between two epochs, in a later save (when the method has started).
    moments = [("write_digests", 1, []), ("Checkpoints.save", 3, [1]), ("write_digests", 2, [2])]
    for function, call, at_least in moments:
        run_killed(*arguments, f"--workdir={workdir}", at=saved + function, call=call)
        assert checkpoint_epochs(workdir)[-1:] >= at_least
    assert not (workdir / "summary.json").exists()
    with open(log, "a") as file:
        file.write('{"epoch": 3, "lo')  # a line that the dying process did not finish
    run_well(*arguments, f"--workdir={workdir}")
    assert_same_run(tmp_path / "whole", workdir)


def test_runs_are_compared(erm):
    printed = run_well("--mode=compare", f"--workdir={erm.parent}")
    assert f"| erm    |     1 | {100 * summary(erm)['top1']:.2f} " in printed
    assert (erm.parent / "comparison" / "comparison.html").is_file()
