"""Bad input through the command line: one clear line, a non-zero exit, no traceback, no harm."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from osed_jax.files.lock import locked
from osed_jax.files.records import read_json, write_json
from tests.command_line import SMALL, command, environment, run, run_well
from tests.conftest import ROOT

DIGITS = "--config=configs/digits.py:"
FOLDER = "--config=configs/folder.py:erm"
TINY = ("--config.model.depth=10", "--config.model.widen_factor=1", "--config.train.num_epochs=1")


def refused(*arguments, devices=1):
    """The one line that the command says as it fails."""
    done = run(*arguments, devices=devices)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    # Reading a cached program back, jaxlib 0.12 may log that processor features are unknown to it.
    said = [line for line in done.stderr.splitlines() if "cpu_aot_loader" not in line]
    lines = [line for line in said if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to fork from, evaluate and quarrel with."""
    workdir = tmp_path_factory.mktemp("runs") / "erm"
    run_well(DIGITS + "erm", f"--workdir={workdir}", *SMALL, "--config.train.num_epochs=2")
    return workdir


@pytest.fixture
def images(tmp_path):
    """A good image folder of two classes, to be spoilt."""
    random = np.random.RandomState(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                image = Image.fromarray(random.randint(0, 256, (8, 8, 3), np.uint8))
                image.save(tmp_path / "data" / split / name / f"{i}.png")
    return tmp_path / "data"


def folder(images, *more):
    tail = ("--config.dataset.imbalance_profile=exp", "--config.dataset.imbalance_ratio=2")
    small = ("--config.dataset.image_size=8", *tail, *TINY)
    where = (f"--workdir={images.parent / 'run'}", f"--config.dataset.data_dir={images}")
    return (FOLDER, *where, *small, *more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([DIGITS + "erm"], "--workdir is missing"),
        (["--workdir=w"], "--config is missing"),
        (
            ["--workdir=w", "--mode=fly"],
            "use one of train, sweep, tune, evaluate, compare, diagnose",
        ),
        (["--workdir=w", "--wrkdir=w", DIGITS + "erm"], "wrkdir"),
        (["--workdir=w", "extra", DIGITS + "erm"], "unexpected argument 'extra'"),
        (["--workdir=w", "--config=configs/none.py:erm"], "none.py"),
        (["--workdir=w", DIGITS + "oped"], "unknown method 'oped'"),
        (["--workdir=w", DIGITS + "erm", "--config.train.epochs=3"], "num_epochs"),
        (["--workdir=w", DIGITS + "erm", "--config.seed=abc"], "'abc'"),
        (["--workdir=w", DIGITS + "erm", "--config.train.batch_size=0"], "at least 1"),
        (
            ["--workdir=w", DIGITS + "open", "--config.oversampling.replace_ratio=2"],
            "between 0 and 1",
        ),
        (["--workdir=w", DIGITS + "erm", "--config.dataset.name=mnist"], "digits, cifar10"),
        (["--workdir=w", DIGITS + "erm", "--config.model.depth=11"], "6n+4"),
        (
            ["--workdir=w", DIGITS + "osed", "--config.oversampling.generated_dir="],
            "generated_dir is empty",
        ),
        (["--workdir=w", FOLDER], "config.dataset.data_dir is ''"),
        (["--workdir=nowhere", "--mode=compare"], "there is no folder"),
        (["--workdir=w", "--mode=sweep", DIGITS + "erm", "--config.sweep.methods=erm,all"], "drs"),
        (
            ["--workdir=w", "--mode=sweep", DIGITS + "erm"],
            "there is no folder runs/digits/generated",
        ),
        (["--workdir=w", "--mode=diagnose", DIGITS + "erm"], "a work directory?"),
        (["--workdir=caf\udce9", DIGITS + "erm"], "is not in UTF-8; give another name"),
        (
            ["--workdir=w", "--mode=gap", DIGITS + "erm", "--config.oversampling.generated_dir="],
            "generated_dir is empty",
        ),
    ],
)
def test_the_command_line_itself(tmp_path, arguments, said):
    where = [a.replace("--workdir=", f"--workdir={tmp_path}/") for a in arguments]
    assert said in refused(*where)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dataset.image_size", 32, "digits are 8x8"),
        ("dataset.num_max", 1000, "'0' has"),
        ("dataset.imbalance_ratio", 101, "without an image"),
        ("dataset.data_dir", "nowhere", "is not a folder"),
        ("dataset.name", "tfds:none_such", "has no set"),
        ("optimizer.learning_rate", 1e30, "loss is"),
    ],
)
def test_values_that_only_the_data_can_refute(tmp_path, field, value, said):
    config = FOLDER if field == "dataset.data_dir" else DIGITS + "erm"
    line = refused(config, f"--workdir={tmp_path / 'w'}", f"--config.{field}={value}", *TINY)
    assert said in line
    assert not (tmp_path / "w" / "summary.json").exists()


def test_a_batch_that_the_devices_cannot_share(tmp_path):
    line = refused(
        DIGITS + "erm", f"--workdir={tmp_path}", "--config.train.batch_size=30", devices=4
    )
    assert "multiple of 4" in line


def no_test_images(root):
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    return "class 'dog' has no images"


def one_class(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "dog")
    return "only one class, 'cat'"


def other_names(root):
    (root / "test" / "dog").rename(root / "test" / "wolf")
    return "class 'dog' is in"


def no_train_folder(root):
    shutil.rmtree(root / "train")
    return "there is no folder"


def empty_file(root):
    (root / "train" / "cat" / "2.png").write_bytes(b"")
    return "cat/2.png: the file is empty"


def broken_file(root):
    path = root / "test" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    return "dog/3.png"


@pytest.mark.parametrize(
    "spoil", [no_test_images, one_class, other_names, no_train_folder, empty_file, broken_file]
)
def test_image_folders(images, spoil):
    said = spoil(images)
    assert said in refused(*folder(images))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([], "no folder"),
        (["cat", "wolf"], "class 'wolf'"),
        (["cat"], "no generated images of class"),
    ],
)
def test_generated_images(images, classes, said):
    store = images.parent / "store"
    for name in classes:
        shutil.copytree(images / "train" / "cat", store / name)
    # With the profile `exp`, dog is the class that lacks images.
    osed = [f"--config.oversampling.generated_dir={store}", "--config.oversampling.mode=generated"]
    assert said in refused(*folder(images, *osed, "--config.oversampling.start_epoch=0"))


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(DIGITS + "erm", f"--workdir={tmp_path / 'file'}")


def test_a_workdir_of_another_config(finished):
    before = (finished / "config.json").read_bytes()
    line = refused(DIGITS + "erm", f"--workdir={finished}", *SMALL, "--config.seed=1")
    assert "seed: 0 -> 1" in line and "train.num_epochs: 2 -> 4" in line
    assert (finished / "config.json").read_bytes() == before


def test_a_workdir_that_another_process_uses(tmp_path):
    with locked(tmp_path / ".lock"):
        assert "another process" in refused(DIGITS + "erm", f"--workdir={tmp_path}")


def test_a_workdir_with_a_broken_config(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}')
    (tmp_path / "config.json").write_text('{"seed": ')
    assert "not valid JSON" in refused(DIGITS + "erm", f"--workdir={tmp_path}")


def fork(source, *more):
    return (
        DIGITS + "open",
        *SMALL,
        "--config.train.num_epochs=2",
        f"--config.init.fork_from={source}",
        *more,
    )


def test_forks(finished, tmp_path):
    line = refused(*fork(tmp_path), f"--workdir={tmp_path / 'fork'}")
    assert f"there is no {tmp_path / 'config.json'}; is {tmp_path} a work directory?" in line
    line = refused(*fork(finished, "--config.seed=3"), f"--workdir={tmp_path / 'seed'}")
    assert "differs in seed: 0 -> 3" in line
    shutil.copytree(finished, tmp_path / "late")
    shutil.rmtree(tmp_path / "late" / "checkpoints" / "1")
    line = refused(*fork(tmp_path / "late"), f"--workdir={tmp_path / 'checkpoint'}")
    assert "no checkpoint of epoch 1, only of [2]" in line
    facts = read_json(finished / "dataset.json")
    write_json(tmp_path / "late" / "dataset.json", {**facts, "class_counts": [9]})
    line = refused(*fork(tmp_path / "late"), f"--workdir={tmp_path / 'images'}")
    assert "differs in class_counts: [9] -> [40, " in line
    write_json(tmp_path / "late" / "dataset.json", facts)
    content = read_json(finished / "config.json")
    content["oversampling"].update(mode="resample", start_epoch=0)
    write_json(tmp_path / "late" / "config.json", content)
    line = refused(*fork(tmp_path / "late"), f"--workdir={tmp_path / 'early'}")
    assert "its method ros trains differently from the first epoch on" in line


def test_evaluation(finished, tmp_path, images):
    evaluate = ("--mode=evaluate", DIGITS + "erm", *SMALL, "--config.train.num_epochs=2")
    assert "config.json" in refused(*evaluate, f"--workdir={tmp_path}")
    line = refused(*evaluate, f"--workdir={finished}", "--config.model.widen_factor=2")
    assert "another net (model.widen_factor: 1 -> 2)" in line
    other = ["--config.dataset.name=folder", f"--config.dataset.data_dir={images}"]
    line = refused(*evaluate, f"--workdir={finished}", *other, "--config.dataset.image_size=8")
    assert "classes are cat, dog" in line
    shutil.copytree(finished, tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    assert "no checkpoint" in refused(*evaluate, f"--workdir={tmp_path / 'empty'}")


def test_damaged_checkpoints(finished, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    for path in (workdir / "checkpoints" / "2").rglob("*"):
        if path.is_file() and path.stat().st_size > 2000:
            path.write_bytes(path.read_bytes()[:100])
    again = (DIGITS + "erm", f"--workdir={workdir}", *SMALL, "--config.train.num_epochs=2")
    line = refused(*again, "--mode=evaluate")
    assert "checkpoint of epoch 2 is damaged" in line and "checkpoints/2/default/" in line
    assert "continuing from the checkpoint of epoch 1" in run_well(*again)
    assert (workdir / "checkpoints.damaged" / "2").is_dir()
    one, two = (np.load(d / "predictions.npz")["logits"] for d in (finished, workdir))
    np.testing.assert_array_equal(one, two)


def test_other_images_in_the_midst_of_a_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    kept = tmp_path / "run" / "dataset.json"
    facts = read_json(kept) | {"generated_counts": [3]}
    write_json(kept, facts)
    again = (DIGITS + "erm", f"--workdir={tmp_path / 'run'}", *SMALL)
    line = refused(*again, "--config.train.num_epochs=2")
    assert "images have changed since" in line and "(generated_counts: [3] -> None)" in line
    assert read_json(kept) == facts


def test_a_last_update_that_goes_astray(tmp_path):
    one_step = ("--config.train.num_epochs=1", "--config.train.eval_every_epochs=0")
    line = refused(
        *(DIGITS + "erm", f"--workdir={tmp_path / 'run'}", *SMALL, *one_step),
        "--config.train.batch_size=400",
        "--config.optimizer.learning_rate=1e38",
        "--config.optimizer.weight_decay=1e30",
    )
    assert "outputs are not finite after step" in line and "lower config.optimizer" in line
    assert not (tmp_path / "run" / "summary.json").exists()


def test_the_advice_on_a_value_can_be_followed_in_the_same_place(tmp_path):
    again = (DIGITS + "erm", f"--workdir={tmp_path / 'run'}", *SMALL, "--config.train.num_epochs=1")
    line = refused(*again, "--config.dataset.num_max=1000")
    assert "lower config.dataset.num_max" in line
    run_well(*again)
    assert "belongs to a run with another config" in refused(*again, "--config.dataset.num_max=30")


def test_a_folder_without_finished_runs(tmp_path):
    assert "no finished run" in refused("--mode=compare", f"--workdir={tmp_path}")


def test_a_disk_without_room(images):
    """A limit on file sizes stands for a full disk: the decoded images do not fit."""
    arguments = folder(images, "--config.dataset.image_size=64")
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20; exec "$@"', "limited", *command(*arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "error: " in done.stderr and "free some space" in done.stderr
    assert not list((images.parent / ".cache").rglob("*.npy"))
    assert not list((images.parent / ".cache").rglob("*partial"))
