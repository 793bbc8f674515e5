"""A work directory belongs to one run; what else a person has in it stays as it is."""

import pytest

from osed_jax.errors import UserError
from osed_jax.experiment.workdir import claimed

CONFIG = {"seed": 0, "train": {"num_epochs": 2}}


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "dataset.json",
        "predictions.npz",
        "report/thesis.tex",
        "tensorboard/events",
        "checkpoints/epoch_3.pt",
        "diagnose/notes.txt",
        "unet/weights.bin",
    ],
)
@pytest.mark.parametrize("text", ["{}", '{"seed": 0, "train": {"num_epochs": 2}}'])
def test_files_that_a_run_would_write_over_are_refused(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    first = name.partition("/")[0]
    message = rf"{tmp_path} has {first}, which no run .* give another --place, or move this away"
    with (
        pytest.raises(UserError, match=message),
        claimed(tmp_path, CONFIG, "--place", also=("unet",)),
    ):
        pass
    assert tree(tmp_path) == {name: text, ".lock": ""}


def test_other_files_of_a_person_stay(tmp_path):
    foreign = ("notes.txt", "film.mp4.partial", ".report.abcd", "photos.partial/a.txt", ".lock")
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    left = tmp_path / ".summary.json.0123456789abcdef.osed-jax-partial"
    left.write_text("half")
    for _ in range(2):
        with claimed(tmp_path, CONFIG):
            now = tree(tmp_path)
    assert now.pop("config.json") and now == dict.fromkeys(foreign, "mine")


def test_a_try_that_saved_no_result_binds_nobody_and_refuses_no_file_of_its_own(tmp_path):
    with claimed(tmp_path, {"seed": 3}):
        (tmp_path / "dataset.json").write_text("{}")
        (tmp_path / "tensorboard").mkdir()
    with claimed(tmp_path, CONFIG):
        assert '"num_epochs": 2' in (tmp_path / "config.json").read_text()
        (tmp_path / "metrics.jsonl").write_text("{}\n")
    with (
        pytest.raises(UserError, match=r"another config \(seed: 0 -> 3; train.num_epochs: 2 -> '"),
        claimed(tmp_path, {"seed": 3}),
    ):
        pass


def test_one_process_at_a_time(tmp_path):
    with (
        claimed(tmp_path, CONFIG),
        pytest.raises(UserError, match="another process is training in"),
        claimed(tmp_path, CONFIG),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write to the work directory .*/file"),
        claimed(tmp_path / "file", CONFIG),
    ):
        pass
