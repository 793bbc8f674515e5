"""Selecting among images of any tool: what is kept, why, and that nothing is half there."""

import errno
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import digits
from osed_jax.commands.filter import filter as filter_store
from osed_jax.config.build import check
from osed_jax.errors import UserError
from tests.command_line import run_well
from tests.conftest import ROOT


def config_of(tmp_path, **generation):
    config = digits.get_config("osed")
    config.oversampling.generated_dir = str(tmp_path / "source")
    config.generation.update({"filtered_dir": str(tmp_path / "kept"), **generation})
    return config


@pytest.fixture
def source(tmp_path):
    """Class 3: one image twice, in files that differ, a constant one, a good one; class 5: one."""
    random = np.random.default_rng(0)
    first, second, third = random.integers(0, 256, (3, 8, 8, 3), np.uint8)
    for name, pixels in (
        ("3/a.png", first),
        ("3/b.bmp", first),
        ("3/c.png", np.full_like(first, 7)),
        ("3/d.png", second),
        ("5/a.png", third),
        ("5/b.png", first),
    ):
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "source"


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_what_passes_is_linked_and_every_verdict_counted(tmp_path, source):
    said = run_well(
        "--config=configs/digits.py:osed",
        "--mode=filter",
        f"--config.oversampling.generated_dir={source}",
        f"--config.generation.filtered_dir={tmp_path / 'kept'}",
    )
    assert "3: 2 kept, 1 duplicate, 1 constant" in said and "0: no images" in said
    kept = tmp_path / "kept"
    # An image of another class is no duplicate.
    assert files(kept) == ["3/a.png", "3/d.png", "5/a.png", "5/b.png", "filter.json", "sha256.json"]
    assert (kept / "3" / "a.png").samefile(source / "3" / "a.png")
    told = json.loads((kept / "filter.json").read_text())
    assert told["images"]["3"] == {"kept": 2, "duplicate": 1, "constant": 1}
    assert told["settings"]["min_deviation"] == 0.02 and told["settings"]["drop_duplicates"]
    assert len(files(source)) == 6


def test_links_are_followed_and_files_copied_where_they_cannot_be_linked(
    tmp_path, source, monkeypatch
):
    good = source / "3" / "d.png"
    good.rename(tmp_path / "elsewhere.png")
    good.symlink_to("../../elsewhere.png")
    filter_store(check(config_of(tmp_path)))
    assert (tmp_path / "kept" / "3" / "d.png").samefile(tmp_path / "elsewhere.png")
    assert not (tmp_path / "kept" / "3" / "d.png").is_symlink()
    assert not (tmp_path / "kept" / "0").exists(), "no folder for a class without images"

    def refused(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refused)
    filter_store(check(config_of(tmp_path, filtered_dir=str(tmp_path / "copied"))))
    assert files(tmp_path / "copied") == files(tmp_path / "kept")
    copy = tmp_path / "copied" / "3" / "d.png"
    assert copy.read_bytes() == good.read_bytes() and not copy.samefile(good)


def test_a_source_without_images_is_refused(tmp_path):
    (tmp_path / "source" / "3").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"there is no image in .*source; .* must contain a folder for"
    ):
        filter_store(check(config_of(tmp_path)))
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filtered_dir": ""}, "filtered_dir is empty"),
        ({"filtered_dir": "source/kept"}, "inside .*source, where each folder is a class"),
        ({"filtered_dir": "source"}, "which exists already; give a new folder"),
        ({"min_deviation": 0.0, "drop_duplicates": False}, "all filters are off"),
        ({"safety_checker": True}, "belongs to the generator"),
        (
            {"min_deviation": 0.5},
            r"leave no image of class '3' \(4 constant\); make them less strict",
        ),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    tmp_path, source, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        filter_store(check(config_of(tmp_path, **changes)))
    assert not (tmp_path / "kept").exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"source", ".cache"}, "no half-filled folder"


KILLED = """
import os, signal, sys
from osed_jax.commands import filter as module
from osed_jax.config.build import check
from tests.commands.test_filter import config_of
from pathlib import Path
module.write_digests = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
module.filter(check(config_of(Path(sys.argv[1]))))
"""


def test_what_a_kill_left_goes_with_the_next_call(tmp_path, source):
    mine = tmp_path / ".kept.abcdefgh"  # a person's folder with a name like that
    mine.mkdir()
    (mine / "a.txt").write_text("mine")
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".kept.*partial")
    assert files(left) == ["3/a.png", "3/d.png", "5/a.png", "5/b.png", "filter.json"]
    assert not (tmp_path / "kept").exists()
    filter_store(check(config_of(tmp_path)))
    assert (tmp_path / "kept" / "sha256.json").exists()
    names = {path.name for path in tmp_path.iterdir()} - {".cache"}
    assert names == {"source", "kept", mine.name} and files(mine) == ["a.txt"]
    assert len(files(source)) == 6
