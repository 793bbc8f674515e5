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

OPEN = (
    "--config=configs/digits.py:open",
    *SMALL,
    "--config.train.num_epochs=3",
    "--config.dataset.validation_fraction=0.1",
    "--config.oversampling.start_epoch=0",  # one program to compile, that with noise rows
    "--config.train.batch_size=60",
)


def joined(count, *arguments):
    """The command lines of `count` processes that join each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = (f"--coordinator_address={address}", f"--num_processes={count}")
    return [(*arguments, *job, f"--process_id={index}") for index in range(count)]


def losses(workdir):
    return [
        json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


def logits(workdir):
    with np.load(workdir / "predictions.npz") as predictions:
        return predictions["logits"]


def assert_last_line(done, text):
    """Whether the process says at last, below a stack of JAX, what to do."""
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and text in last, done.stderr


def test_a_killed_process_ends_the_job_and_two_finish_it_as_one_with_two_devices(tmp_path):
    alone, workdir = tmp_path / "alone", tmp_path / "run"
    run_well(*OPEN, f"--workdir={alone}", devices=2)

    job = (*OPEN, f"--workdir={workdir}")
    dies = {1: ("osed_jax.experiment.checkpoint:Checkpoints.save", 3)}
    first, second = run_together(joined(2, *job), dies=dies)
    assert second.returncode == -signal.SIGKILL
    assert_last_line(first, "process 0 of 2 failed or lost the others")
    assert not (workdir / "summary.json").exists()

    first, second = run_together(joined(2, *job))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "continuing from the checkpoint of epoch" in first.stdout
    assert all(line.startswith("[Gloo]") for line in second.stdout.splitlines())
    assert losses(workdir) == losses(alone) and len(losses(alone)) == 3
    np.testing.assert_array_equal(logits(workdir), logits(alone))
    ours, theirs = (json.loads((w / "summary.json").read_text()) for w in (workdir, alone))
    assert ours["validation"] == theirs["validation"]

    evaluate = ("--mode=evaluate", *OPEN, f"--workdir={workdir}", "--config.report.enabled=True")
    done = run_together(joined(2, *evaluate))
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    figures = json.loads((workdir / "evaluation.json").read_text())
    assert figures["top1"] == ours["top1"]
    assert (workdir / "report" / "report.html").exists()


def test_when_the_first_process_is_killed_the_other_says_what_to_do(tmp_path):
    dies = {0: ("osed_jax.experiment.loading:load_data", 1)}
    first, second = run_together(joined(2, *OPEN, f"--workdir={tmp_path / 'run'}"), dies=dies)
    assert first.returncode == -signal.SIGKILL
    assert_last_line(second, "start all of them again")


def test_a_process_that_waits_in_vain_says_what_to_do(tmp_path):
    line, _ = joined(2, *OPEN, f"--workdir={tmp_path / 'run'}", "--join_timeout=1")
    assert_last_line(run(*line), "could not join the other processes within 1 s")
    assert not (tmp_path / "run").exists()


def test_a_process_with_another_config_is_refused(tmp_path):
    first, second = joined(2, *OPEN, f"--workdir={tmp_path / 'run'}")
    done = run_together([first, (*second, "--config.seed=4", "--mode=evaluate")])
    assert [d.returncode for d in done] == [2, 2]
    said = "process 1 of 2 has other settings than process 0 (mode: 'evaluate' instead of 'train'; "
    assert all(said + "seed: 4 instead of 0)" in d.stderr for d in done), done
    assert not (tmp_path / "run").exists()


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
    assert [d.returncode for d in done] == [2, 2]
    said = "process 1 of 2 has other images than process 0 (training: "
    assert all(said in d.stderr.splitlines()[-1] for d in done), done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_processes=2",), "must be given together"),
        (("--distributed",), "coordinator_address should be defined"),
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
