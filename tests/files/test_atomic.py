"""Files and folders are whole or not there; of what lies around, only leftovers are removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from osed_jax.files.atomic import (
    free_name,
    partial_folder,
    remove_abandoned,
    whole_file,
    whole_folder,
    write_atomically,
)
from osed_jax.files.digests import make_way, write_digests
from osed_jax.files.lock import is_locked, locked
from tests.conftest import ROOT

# Of a person, a browser, rsync, or this program's names cut short.
FOREIGN = (
    "film.mp4.partial",
    ".film.mp4.Xy12Ab",
    ".report.abcd1234",
    ".000012.png.partial",
    ".summary.json.4711.partial",
    "a.0123456789abcdef.osed-jax-partial",
    ".a.0123456789ABCDEF.osed-jax-partial",
    ".a.0123456789abcdef.osed-jax-partial.txt",
    ".0123456789abcdef.osed-jax-partial",
)
OWN = ".a.0123456789abcdef.osed-jax-partial"


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_file_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
        raise ZeroDivisionError
    assert content(tmp_path) == {"a": "old"}
    write_atomically(path, "new")
    assert content(tmp_path) == {"a": "new"}


def test_a_folder_that_fails_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "x" / "a") as folder:
        (folder / "b").write_text("half")
        raise ZeroDivisionError
    assert not list((tmp_path / "x").iterdir())
    with whole_folder(tmp_path / "x" / "a") as folder:
        (folder / "b").write_text("whole")
    assert content(tmp_path) == {"x/a/b": "whole"}


def test_files_and_folders_have_the_usual_modes(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", "")
        with whole_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o640, 0o750]


@pytest.mark.parametrize("name", [*FOREIGN, OWN])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_only_what_has_the_programs_own_names_is_removed(tmp_path, name, kind):
    path = tmp_path / name / "mine.txt" if kind == "folder" else tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    remove_abandoned(tmp_path)
    assert (tmp_path / name).exists() == path.exists() == (name != OWN)


def test_a_link_with_such_a_name_goes_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    (tmp_path / "b").write_text("mine")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / OWN).symlink_to(tmp_path / "mine")
    (tmp_path / "here" / OWN.replace("a", "b", 1)).symlink_to(tmp_path / "b")
    remove_abandoned(tmp_path / "here")
    assert content(tmp_path).keys() == {"mine/a", "b"}


AT_WORK = """
import sys, time
from pathlib import Path
from osed_jax.files.atomic import partial_folder, whole_file
target = Path(sys.argv[1], "a")
with whole_file(target) as file, partial_folder(Path(sys.argv[1], "b")) as folder:
    (folder / "half").write_text("half")
    print("at work", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path):
    killed = subprocess.Popen(
        [sys.executable, "-c", AT_WORK, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    killed.stdout.readline()
    both = set(tmp_path.iterdir())
    assert len(both) == 2 and all(map(is_locked, both))
    with whole_folder(tmp_path / "c"):
        assert both < set(tmp_path.iterdir()), "its process is at work"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with whole_folder(tmp_path / "d"):
        assert not both & set(tmp_path.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"c", "d"}


def test_a_lock_is_held_by_one(tmp_path):
    for path in (tmp_path, tmp_path / "lock"):
        with locked(path, wait=False):
            assert is_locked(path)
            with pytest.raises(BlockingIOError), locked(path, wait=False):
                pass
        assert not is_locked(path)
    (tmp_path / "lock").write_text("mine")
    with locked(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_text() == "mine"


def test_free_names(tmp_path):
    assert free_name(tmp_path / "a.png") == tmp_path / "a.png"
    (tmp_path / "a.png").write_text("")
    (tmp_path / "a.1.png").symlink_to("nowhere")
    assert free_name(tmp_path / "a.png") == tmp_path / "a.2.png"
    assert free_name(tmp_path) == tmp_path.with_name(f"{tmp_path.name}.1")


def add_file(folder):
    (folder / "notes.txt").write_text("mine")


def change_file(folder):
    (folder / "sub" / "b").write_text("mine")


def add_link(folder):
    (folder / "sub" / "link").symlink_to(Path("nowhere"))


def lose_the_digests(folder):
    (folder / "sha256.json").unlink()


@pytest.mark.parametrize("change", [None, add_file, change_file, add_link, lose_the_digests])
def test_a_folder_makes_way_and_takes_what_a_person_put_there_along(tmp_path, capsys, change):
    folder = tmp_path / "report"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    write_digests(folder)
    if change:
        change(folder)
    before = sorted(p.relative_to(folder) for p in folder.rglob("*")), content(folder)
    make_way(folder)
    said, aside = capsys.readouterr().out, tmp_path / "report.1"
    assert not folder.exists() and aside.exists() == bool(change)
    if change:
        assert f"it was moved to {aside}" in said
        assert (sorted(p.relative_to(aside) for p in aside.rglob("*")), content(aside)) == before
    make_way(folder)  # nothing is there


def test_a_partial_folder_is_gone_after_its_block(tmp_path):
    with partial_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("1")
        (folder / "a").replace(tmp_path / "a")
    assert content(tmp_path) == {"a": "1"} and len(list(tmp_path.iterdir())) == 1
