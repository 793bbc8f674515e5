"""What is kept for later is checked when it is read: digests of images, records, checkpoints."""

import itertools
import os
import shutil
import time

import numpy as np
import pytest

from configs import digits
from osed_jax.commands.compare import compare
from osed_jax.commands.evaluate import evaluate
from osed_jax.commands.filter import filter as filter_store
from osed_jax.commands.gap import gap
from osed_jax.commands.train import train
from osed_jax.config.build import check
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages, FileImages
from osed_jax.errors import DamageError, UserError
from osed_jax.experiment import loading, workdir
from osed_jax.files import records
from osed_jax.files.atomic import partial_folder, whole_file
from osed_jax.files.digests import check_digests, write_digests
from osed_jax.files.records import as_line, read_json, unsealed


def tiny(method="erm", **train_fields):
    """Two epochs of a small net on a part of the digits."""
    config = digits.get_config(method)
    config.train.update({"num_epochs": 2, "eval_every_epochs": 0, "checkpoint_every_epochs": 1})
    config.train.update({"batch_size": 32, **train_fields})
    config.dataset.update({"num_max": 12, "imbalance_ratio": 4.0, "validation_fraction": 0.1})
    config.report.update({"enabled": False, "map_images": 0})
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, never changed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(check(tiny()), directory)
    return directory


@pytest.fixture
def run(whole, tmp_path):
    """A copy to be damaged, unfinished."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run"


def flip(path, place=0.5):
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def figures(directory):
    """Everything in a summary that no clock and no path says."""
    clock = ("wall_seconds", "images_per_second")
    return {k: v for k, v in read_json(directory / "summary.json").items() if k not in clock}


def images(count=6, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, 4, 4, 3)).astype(np.uint8)


def image_set(array, label):
    return ImageSet(ArrayImages(array), np.asarray(label), ("cat", "dog"))


def test_a_set_is_known_by_its_pixels_and_labels_alone(tmp_path):
    from PIL import Image

    label = [0, 0, 0, 1, 1, 1]
    known = image_set(images(), label).content_sha256()
    names = [tmp_path / f"{name}.bmp" for name in "zyxwvu"]
    for path, pixels in zip(names, images()):
        Image.fromarray(pixels).save(path)
    files = ImageSet(FileImages(names, 4), np.asarray(label), ("cat", "dog"))
    assert files.content_sha256() == known
    exchanged = images()[[3, 1, 2, 0, 4, 5]]
    other = images()
    other[5, 3, 3, 2] ^= 1
    assert known not in (
        image_set(exchanged, label).content_sha256(),
        image_set(other, label).content_sha256(),
        image_set(images(), [0, 0, 1, 1, 1, 1]).content_sha256(),
    )
    assert image_set(images(0), []).content_sha256() is None


def test_a_record_is_refused_when_anything_in_it_changes():
    record = {"a": [1, 2.5], "b": {"c": None}, "d": "e"}
    text = as_line(record)
    assert unsealed(text) == record
    changes = (("2.5", "2.6"), ('"e"', '"f"'), ("null", "0"), ('"c"', '"d"'), ('"digest"', '"x"'))
    for old, new in (*changes, ("{", "["), (text, "[]"), (text, "")):
        assert old in text
        with pytest.raises(DamageError):
            unsealed(text.replace(old, new, 1))


def test_a_person_who_removes_the_digest_has_changed_a_file_on_purpose(tmp_path, capsys):
    path = tmp_path / "config.json"
    records.write_json(path, {"seed": 0, "epochs": 3})
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamageError, match=r"changed by hand: .*remove the line with the digest"):
        read_json(path)
    *lines, digest, end = path.read_text().splitlines()
    assert '"digest"' in digest
    path.write_text("\n".join([*lines[:-1], lines[-1].removesuffix(","), end]))
    assert not capsys.readouterr().out
    assert read_json(path) == {"seed": 1, "epochs": 3}
    assert f'note: {path} has no line with a "digest"' in capsys.readouterr().out


def test_a_folder_is_refused_when_a_file_changes_or_goes(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"1234")
    (tmp_path / "d" / "b").write_bytes(b"")
    assert not check_digests(tmp_path)
    write_digests(tmp_path)
    assert check_digests(tmp_path)
    (tmp_path / "a").write_bytes(b"1235")
    with pytest.raises(DamageError, match="/a has changed"):
        check_digests(tmp_path)
    (tmp_path / "a").write_bytes(b"1234")
    (tmp_path / "d" / "b").unlink()
    with pytest.raises(DamageError, match="/d/b is missing"):
        check_digests(tmp_path)
    (tmp_path / "d" / "b").write_bytes(b"")
    flip(tmp_path / "sha256.json", 0.4)
    with pytest.raises(DamageError, match=r"sha256.json is damaged"):
        check_digests(tmp_path)


def test_a_run_says_what_its_images_are(whole):
    facts = read_json(whole / "dataset.json")["content_sha256"]
    assert facts == read_json(whole / "summary.json")["content_sha256"]
    assert facts["generated"] is None
    data = loading.load_data(check(tiny()), whole)
    for part in ("train", "validation", "test"):
        name = {"train": "training"}.get(part, part)
        assert facts[name] == getattr(data, part).content_sha256()


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_a_run_does_not_go_on_with_other_images(run, part):
    facts = read_json(run / "dataset.json")
    facts["content_sha256"][part] = "0" * 64
    records.write_json(run / "dataset.json", facts)
    with pytest.raises(UserError, match=f"images have changed since .*other {part} images"):
        train(check(tiny()), run)


@pytest.mark.parametrize("part", ["training", "test"])
def test_a_fork_needs_the_same_images(run, tmp_path, part):
    config = tiny("drs")
    config.oversampling.start_epoch = 1
    config.init.fork_from = str(run)
    facts = read_json(run / "dataset.json")
    facts["content_sha256"]["generated"] = "1" * 64  # has no part in the epochs before
    records.write_json(run / "dataset.json", facts)
    facts["content_sha256"][part] = "0" * 64
    records.write_json(run / "dataset.json", facts)
    with pytest.raises(UserError, match=f"cannot fork from .*other {part} images"):
        train(check(config), tmp_path / "fork")


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9])
def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_found(run, place):
    for path in sorted((run / "checkpoints" / "2" / "default").rglob("*")):
        if path.is_file() and path.name != "commit_success.txt":  # which says nothing
            before = path.read_bytes()
            flip(path, place)
            with pytest.raises(UserError, match=rf"epoch 2 is damaged: .*{path.name}"):
                evaluate(check(tiny()), run)
            path.write_bytes(before)


@pytest.mark.parametrize("name", ["sha256.json", "about.json"])
def test_a_checkpoint_that_does_not_say_what_it_is_is_damaged(run, name):
    (run / "checkpoints" / "2" / "default" / name).unlink()
    with pytest.raises(UserError, match=rf"epoch 2 is damaged: .*{name} is missing"):
        evaluate(check(tiny()), run)


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(run, whole, capsys):
    data = max((run / "checkpoints" / "2").rglob("*"), key=lambda p: p.stat().st_size)
    flip(data)
    train(check(tiny()), run)
    said = capsys.readouterr().out
    assert "checkpoint of epoch 2 is damaged" in said and data.name in said
    assert "continuing from the checkpoint of epoch 1" in said
    assert figures(run) == figures(whole)
    assert (run / "checkpoints.damaged" / "2").is_dir()
    for epoch in (1, 2):
        for path in (run / "checkpoints" / str(epoch)).rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match=r"no complete one before it: restore it from a copy"):
        train(check(tiny()), run)
    assert workdir.checkpoint_epochs(run) == [1, 2], "nothing was moved"


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
    other = tiny()
    other.seed = 1
    train(check(other), tmp_path / "other")
    shutil.rmtree(run / "checkpoints" / "2")
    shutil.copytree(tmp_path / "other" / "checkpoints" / "2", run / "checkpoints" / "2")
    for do in (train, evaluate):
        with pytest.raises(UserError, match=r"checkpoints/2 belongs to another run .*seed: 1 -> 0"):
            do(check(tiny()), run)


@pytest.mark.parametrize("name", ["config.json", "dataset.json"])
@pytest.mark.parametrize("fault", ["gone", "flipped", "cut"])
def test_what_a_run_lacks_is_taken_from_its_checkpoint(run, whole, name, fault, capsys):
    path = run / name
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_text(path.read_text().replace("1", "2", 1))
    evaluate(check(tiny()), run)
    word = "missing" if fault == "gone" else "damaged"
    assert f"{path} is {word}; its content is taken from the" in capsys.readouterr().out
    assert read_json(run / "evaluation.json")["top1"] == figures(whole)["top1"]
    seed = tiny()
    seed.seed = 5
    with pytest.raises(UserError, match=r"another config .seed: 0 -> 5"):
        train(check(seed), run)
    train(check(tiny()), run)
    assert figures(run) == figures(whole)
    assert read_json(path) == read_json(whole / name)


def test_a_run_without_its_metrics_is_finished_and_bound_to_its_config(run, whole, capsys):
    (run / "metrics.jsonl").unlink()
    seed = tiny()
    seed.seed = 5
    with pytest.raises(UserError, match=r"another config .seed: 0 -> 5"):
        train(check(seed), run)
    train(check(tiny()), run)
    assert "metrics.jsonl lacks 2 of its epochs" in capsys.readouterr().out
    assert figures(run) == figures(whole)
    assert read_json(run / "summary.json")["wall_seconds"] is None
    compare(run.parent)


def test_damaged_lines_do_not_take_the_later_ones_along(run, capsys):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_text(lines[0].replace('"loss": ', '"loss": 9', 1) + lines[1] + '{"epoch": 2, "lo')
    train(check(tiny()), run)
    assert "1 damaged lines of" in (said := capsys.readouterr().out) and "(line 1)" in said
    assert path.read_text() == lines[1]
    assert "lacks 1 of its epochs" in said


def test_a_report_that_a_kill_prevented_is_made(run, whole, capsys):
    config = tiny()
    config.report.enabled = True
    shutil.copy(whole / "summary.json", run)
    before = read_json(run / "summary.json")
    train(check(config), run)
    assert (run / "report" / "report.html").is_file()
    assert read_json(run / "summary.json") == before
    shutil.rmtree(run / "report")
    (run / "predictions.npz").write_bytes(b"")
    train(check(config), run)
    assert "has no report, and none can be made" in capsys.readouterr().out


def test_what_killed_processes_left_in_a_run_is_removed_and_a_living_ones_is_not(run, whole):
    config = tiny()
    config.report.enabled = True
    shutil.copy(whole / "summary.json", run)
    left = {f".{name}.{'0' * 16}.osed-jax-partial" for name in ("summary.json", "report")}
    file, folder = (run / name for name in sorted(left, reverse=True))
    file.write_bytes(b"half")
    folder.mkdir()
    (folder / "x.png").write_bytes(b"half")
    with whole_file(run / "evaluation.json"), partial_folder(run / "samples"):
        living = {path.name for path in run.glob(".*partial")} - left
        train(check(config), run)
        assert {path.name for path in run.glob(".*partial")} == living and len(living) == 2
    assert (run / "report" / "report.html").is_file()


def test_a_run_notices_that_its_directory_is_gone(tmp_path, monkeypatch):
    seen = []
    from osed_jax.experiment import loop as driver

    def remove_then_say(record, num_epochs):
        seen.append(record)
        while not (tmp_path / "run" / "checkpoints" / "1").exists():
            time.sleep(0.01)
        (tmp_path / "run").rename(tmp_path / "moved")

    monkeypatch.setattr(driver, "_say_epoch", remove_then_say)
    with pytest.raises(UserError, match=r"run was removed or moved during the run"):
        train(check(tiny(num_epochs=4)), tmp_path / "run")
    assert len(seen) == 1


def test_the_report_of_another_test_set_is_kept_apart(run, whole, tmp_path, capsys):
    from PIL import Image
    from sklearn.datasets import load_digits

    shutil.copy(whole / "summary.json", run)
    config = tiny()
    config.report.enabled = True
    train(check(config), run)
    own = (run / "report" / "report.html").read_text()
    known = load_digits()
    for i in range(60):
        target = tmp_path / "sixty" / "test" / str(known.target[i]) / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(known.images[i] * 255 / 16).astype(np.uint8)).save(target)
    other = tiny()
    other.report.enabled = True
    other.dataset.update({"name": "folder", "data_dir": str(tmp_path / "sixty"), "image_size": 8})
    evaluate(check(other), run)
    assert "are not the test images of the run" in capsys.readouterr().out
    assert (run / "report" / "report.html").read_text() == own
    (page,) = run.glob("report.other_test_set.*/report.html")
    assert (
        f"another test set than the run&#x27;s own: the images of folder {tmp_path}"
        in page.read_text()
    )
    assert read_json(run / "evaluation.json")["other_test_set"]
    evaluate(check(config), run)
    assert not read_json(run / "evaluation.json")["other_test_set"]
    assert "another test set" not in (run / "report" / "report.html").read_text()


def test_how_many_images_are_predicted_at_once_makes_no_other_run(run, whole):
    config = tiny()
    config.evaluate.batch_size = 7
    train(check(config), run)
    assert figures(run)["top1"] == figures(whole)["top1"]
    config.seed = 9
    with pytest.raises(UserError, match=r"another config \(seed: 0 -> 9\)"):
        train(check(config), run)


def test_a_finished_run_that_can_only_be_read_is_looked_at(run, whole, monkeypatch, capsys):
    shutil.copy(whole / "summary.json", run)
    before = {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")}
    # As a disk mounted read-only answers; a folder's mode would not stop root.
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    config = tiny()
    config.report.enabled = True
    top1 = f"top-1 {figures(run)['top1']:.2%}"
    for look, said in (
        (lambda: train(check(config), run), f"none can be made: {run} is read-only"),
        (lambda: evaluate(check(config), run), f"{run} is read-only, so the figures"),
        (lambda: compare(run.parent), f"{run.parent} is read-only, so the comparison"),
    ):
        look()
        printed = capsys.readouterr().out
        assert said in printed and (top1 in printed or "| erm " in printed)
    assert {path: path.stat().st_mtime_ns for path in run.parent.rglob("*")} == before
    config.seed = 9
    with pytest.raises(UserError, match="another config"):
        train(check(config), run)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run whose only update has left no numbers: its checkpoint is whole, its outputs are not."""
    directory = tmp_path_factory.mktemp("diverged") / "run"
    config = tiny(num_epochs=1, batch_size=128)
    config.optimizer.learning_rate = config.optimizer.weight_decay = 1e38  # infinite weights
    with pytest.raises(UserError, match="outputs are not finite"):
        train(check(config), directory)
    assert workdir.checkpoint_epochs(directory) == [1]
    return config, directory


def by_gap(config, directory, store):
    return gap(check(config), directory)


def by_the_classifier_filter(config, directory, store):
    config.generation.classifier_workdir = str(directory)
    config.generation.classifier_top_k = 1
    config.generation.filtered_dir = str(store.parent / "filtered")
    return filter_store(check(config))


@pytest.mark.parametrize("judge", [by_gap, by_the_classifier_filter])
def test_a_net_that_diverged_judges_nothing(diverged, tmp_path, judge):
    from PIL import Image

    for name, seed in itertools.product(map(str, range(10)), (0, 1)):
        target = tmp_path / "store" / name / f"{seed}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8), np.uint8)).save(target)
    config = diverged[0].copy_and_resolve_references()
    config.oversampling.generated_dir = str(tmp_path / "store")
    with pytest.raises(UserError, match=r"not finite|diverged"):
        judge(config, diverged[1], tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"], "nothing is half-written"
