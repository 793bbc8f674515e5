"""Several processes of JAX's distributed runtime on one machine, through the command line."""

import itertools
import json
import signal
import socket

import numpy as np
import pytest
from PIL import Image

from tests.command_line import SMALL, run, run_together, run_well
from tests.conftest import ROOT

NUM_EPOCHS = 3
OPEN = (
    "--config=configs/digits.py:open",
    *SMALL,
    f"--config.train.num_epochs={NUM_EPOCHS}",
    "--config.dataset.validation_fraction=0.1",
    "--config.oversampling.start_epoch=0",  # one program to compile, that with noise rows
    "--config.train.batch_size=60",  # a multiple of two and three devices
    "--config.optimizer.learning_rate=0.01",  # so that rounding does not grow
)


def joined(count, *arguments):
    """The command lines of `count` processes that join each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = (f"--coordinator_address={address}", f"--num_processes={count}")
    return [(*arguments, *job, f"--process_id={index}") for index in range(count)]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def logits(workdir):
    with np.load(workdir / "predictions.npz") as predictions:
        return predictions["logits"]


def assert_same_training(workdir, other):
    assert [r["epoch"] for r in records(workdir)] == list(range(NUM_EPOCHS))
    for a, b in zip(records(workdir), records(other)):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["noise"] == b["noise"] > 0
    ours, theirs = (json.loads((w / "summary.json").read_text()) for w in (workdir, other))
    assert ours["validation"]["num_images"] == theirs["validation"]["num_images"] > 100
    assert ours["validation"]["nll"] == pytest.approx(theirs["validation"]["nll"], rel=1e-2)
    np.testing.assert_allclose(logits(workdir), logits(other), rtol=0, atol=1e-2)


def test_a_dead_process_ends_the_job_and_three_others_finish_it_as_one_would(tmp_path):
    alone, workdir = tmp_path / "alone", tmp_path / "run"
    run_well(*OPEN, f"--workdir={alone}", devices=2)

    job = (*OPEN, f"--workdir={workdir}", "--config.train.feeder=tfdata")
    dies = {1: ("osed_jax.experiment.checkpoint:Checkpoints.save", 3)}
    first, second = run_together(joined(2, *job), dies=dies)
    assert (first.returncode, second.returncode) == (2, -signal.SIGKILL), first.stderr
    *of_tensorflow, said = first.stderr.splitlines()
    assert said.startswith("error: process 0 of 2 lost the others (process 1 is gone)")
    assert "continues from its last checkpoint" in said
    assert all("absl::Init" in line or "oneDNN" in line for line in of_tensorflow)
    assert not (workdir / "summary.json").exists()

    done = run_together(joined(3, *job))
    assert [d.returncode for d in done] == [0] * 3, "".join(d.stderr for d in done)
    assert "continuing from the checkpoint of epoch" in done[0].stdout
    silent = [line for d in done[1:] for line in d.stdout.splitlines()]
    assert all(line.startswith("[Gloo]") for line in silent), "the first alone speaks"
    assert_same_training(workdir, alone)

    evaluate = ("--mode=evaluate", *OPEN, f"--workdir={workdir}", "--config.report.enabled=True")
    done = run_together(joined(2, *evaluate))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    found = json.loads((workdir / "evaluation.json").read_text())
    assert found["top1"] == json.loads((workdir / "summary.json").read_text())["top1"]
    assert (workdir / "report" / "report.html").exists()
    assert not list(workdir.glob(".report.*"))


def test_when_the_first_process_dies_the_other_says_one_line(tmp_path):
    dies = {0: ("osed_jax.experiment.loading:load_data", 1)}
    first, second = run_together(joined(2, *OPEN, f"--workdir={tmp_path / 'run'}"), dies=dies)
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 2)
    assert second.stderr.startswith("error: process 1 of 2 lost the others (process 0 is gone)")
    assert second.stderr.count("\n") == 1, "without the stack of JAX's own abort"


def test_processes_that_see_other_images_are_refused(tmp_path):
    machines = [tmp_path / "first", tmp_path / "second"]
    for i, machine in enumerate(machines):
        for split, name in itertools.product(("train", "test"), ("cat", "dog")):
            for grey in range(8):
                target = machine / "data" / split / name / f"{grey}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                colour = (grey, grey + i * (split == "train"), 30 * grey + len(split + name))
                Image.new("RGB", (8, 8), colour).save(target)
    settings = ("dataset.data_dir=data", "dataset.image_size=8", "train.batch_size=2")
    flags = (f"--config={ROOT}/configs/folder.py:erm", *(f"--config.{s}" for s in settings))
    lines = joined(2, *flags, f"--workdir={tmp_path / 'run'}")
    done = run_together(lines, folders=machines)
    said = [d.stderr for d in done]
    assert [d.returncode for d in done] == [2, 2] and "".join(said).count("\n") == 2, said
    assert any("process 1 of 2 has other images than process 0" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_processes=2",), "must be given together"),
        (("--distributed",), "the environment names no other process"),
        (
            ("--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=2"),
            "it must be from 0 to 1",
        ),
        (("--distributed", "--mode=diagnose"), "config.generation.process_index"),
    ],
)
def test_what_is_wrong_with_a_job_is_said(arguments, message, tmp_path):
    done = run(*OPEN, f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
