"""Several processes of JAX's distributed runtime on one machine, through the command line."""

import json
import socket
import subprocess
import time

import numpy as np
import pytest

from tests.command_line import SMALL, command, environment, run, run_together, run_well

NUM_EPOCHS = 6
OPEN = (
    "--config=configs/digits.py:open",
    *SMALL,
    f"--config.train.num_epochs={NUM_EPOCHS}",
    "--config.dataset.validation_fraction=0.1",
    "--config.oversampling.start_epoch=0",  # one program to compile, that with noise rows
    "--config.optimizer.learning_rate=0.01",  # so that rounding does not grow
)


def joined(count, *arguments):
    """The command lines of `count` processes that join each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = (f"--coordinator_address={address}", f"--num_processes={count}")
    return [(*arguments, *job, f"--process_id={index}") for index in range(count)]


def train(count, workdir, *arguments):
    done = run_together(joined(count, *OPEN, f"--workdir={workdir}", *arguments))
    assert [d.returncode for d in done] == [0] * count, "".join(d.stderr for d in done)
    assert done[0].stdout, "the first process speaks"
    others = [line for d in done[1:] for line in d.stdout.splitlines()]
    assert all(line.startswith("[Gloo]") for line in others), "the others do not"
    return done[0].stdout


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


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """Trained by one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    run_well(*OPEN, f"--workdir={workdir}", devices=2)
    return workdir


def test_two_processes_train_and_evaluate_as_one_with_two_devices(by_one, tmp_path):
    workdir = tmp_path / "run"
    train(2, workdir, "--config.train.feeder=tfdata", "--config.report.enabled=True")
    assert_same_training(workdir, by_one)
    assert (workdir / "report" / "report.html").exists()
    assert not list(workdir.glob(".report.*"))

    done = run_together(joined(2, "--mode=evaluate", *OPEN, f"--workdir={workdir}"))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    found = json.loads((workdir / "evaluation.json").read_text())
    assert found["top1"] == json.loads((workdir / "summary.json").read_text())["top1"]


def test_a_dead_process_ends_the_job_and_four_others_finish_it(by_one, tmp_path):
    workdir, pipe = tmp_path / "run", subprocess.PIPE
    first, second = (
        subprocess.Popen(command(*line), env=environment(), stdout=pipe, stderr=pipe, text=True)
        for line in joined(2, *OPEN, f"--workdir={workdir}")
    )
    with first, second:
        deadline = time.monotonic() + 200
        while not (workdir / "checkpoints" / "2").exists() and time.monotonic() < deadline:
            assert first.poll() is None and second.poll() is None
            time.sleep(0.02)
        second.kill()
        _, error = first.communicate(timeout=100)
    assert first.returncode == 2, error
    assert "error: process 0 of 2 lost the others" in error
    assert "goes on from its last checkpoint" in error
    assert not (workdir / "summary.json").exists()

    assert "going on from the checkpoint of epoch" in train(4, workdir)
    assert_same_training(workdir, by_one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_processes=2",), "belong together"),
        (("--distributed",), "could not join the others"),
        (
            ("--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=2"),
            "--process_id is less than --num_processes",
        ),
        (("--distributed", "--mode=diagnose"), "config.generation.process_index"),
    ],
)
def test_what_is_wrong_with_a_job_is_said(arguments, message, tmp_path):
    done = run(*OPEN, f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
