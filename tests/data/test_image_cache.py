"""Decoded images that are kept: checked when read, made anew where damaged, removed when old."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from osed_jax.data import image_cache, images
from osed_jax.errors import UserError
from tests.conftest import ROOT
from tests.data.test_folder import RGB, load, make_folder, write


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path)


def entry(root, ending):
    (path,) = (root / "cache").glob(f"*.{ending}")
    return path


@pytest.mark.parametrize("gib", [1.0, 0.0])
def test_any_flipped_bit_is_noticed_and_the_entry_made_anew(root, capsys, gib):
    """In memory an entry is pixels and a record; of streamed images it is a record alone."""
    before = load(root, gib=gib)
    want, whole = before.images.take(np.arange(6)), {}
    for path in (root / "cache").iterdir():
        whole[path] = path.read_bytes()
    random, capsys_clear = np.random.default_rng(0), capsys.readouterr()
    assert "decoded again" not in capsys_clear.out
    for path, content in whole.items():
        for _ in range(25):
            damaged = bytearray(content)
            damaged[random.integers(len(content))] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            after = load(root, gib=gib)
            np.testing.assert_array_equal(after.images.take(np.arange(6)), want)
            np.testing.assert_array_equal(after.images.digests, before.images.digests)
            assert "decoded again" in capsys.readouterr().out
            assert path.read_bytes() == content


def test_digests_are_those_of_the_pixels_however_they_are_kept(root):
    cached, streamed = load(root).images, load(root, gib=0).images
    np.testing.assert_array_equal(cached.digests, streamed.digests)
    np.testing.assert_array_equal(cached.digests, images.ArrayImages(cached.array).digests)
    bare = images.FileImages(streamed.paths, 12)
    np.testing.assert_array_equal(bare.digests, streamed.digests)
    rows = np.array([4, 1])
    for kept in (cached, streamed, bare):
        np.testing.assert_array_equal(kept.select(rows).digests, cached.digests[rows])
    assert len({d.tobytes() for d in cached.digests}) == 6


def test_streamed_images_are_decoded_once_to_check_them(root, monkeypatch):
    load(root, gib=0)
    assert not list((root / "cache").glob("*.npy")), "their pixels stay in their files"
    with monkeypatch.context() as patched:
        patched.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
        assert len(load(root, gib=0).images) == 6
    path = root / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"cat/0\.png"):
        load(root, gib=0)


KILLED = """
import sys, time
from pathlib import Path
from osed_jax.data import images
from osed_jax.data.image_cache import read_files
real = images.decode
def slow(*given):
    print("at work", flush=True)
    time.sleep(0.2)
    return real(*given)
images.decode = slow
paths = sorted(Path(sys.argv[1], "train").rglob("*.png"))
read_files(paths, 12, cache_dir=Path(sys.argv[1], "cache"), max_decoded_gib=1.0, label="x")
"""


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(root):
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, root], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    killed.stdout.readline()
    left = {p.name for p in (root / "cache").glob("*partial")}
    load(root, "test")
    assert len(left) == 2 and left < {p.name for p in (root / "cache").iterdir()}
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    load(root)
    assert not list((root / "cache").glob("*partial"))


def test_a_file_removed_before_it_was_locked_is_made_again(root, monkeypatch):
    real, locked = fcntl.flock, []

    def slow(descriptor, how):
        locked.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if len(locked) == 1:
            os.unlink(locked[0])  # another process has just taken it for abandoned
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    assert load(root).class_counts == (3, 3) and len(set(locked)) == len(locked) == 3


def test_entries_go_with_their_folders_content_or_unused_for_long(root, capsys):
    load(root), load(root, "test")
    first = {p.name for p in (root / "cache").iterdir()}
    write(root / "train" / "cat" / "new.png", RGB)
    load(root)
    now = {p.name for p in (root / "cache").iterdir()}
    assert len(first) == len(now) == 4 and len(first & now) == 2, "the test images' entry stays"
    assert "that are no longer needed were removed" in capsys.readouterr().out
    long_ago = time.time() - 31 * 86400
    for path in (root / "cache").iterdir():
        os.utime(path, (long_ago, long_ago))
    load(root)  # used again, so it stays
    write(root / "elsewhere" / "train" / "cat" / "0.png")
    write(root / "elsewhere" / "train" / "dog" / "0.png")
    image_cache.read_files(
        sorted((root / "elsewhere").rglob("*.png")),
        12,
        cache_dir=root / "cache",
        max_decoded_gib=1.0,
        label=str(root / "elsewhere"),
    )
    left = {p.name for p in (root / "cache").iterdir()}
    assert len(left) == 4 and left & now < now


def test_files_of_a_person_in_the_cache_stay(root, capsys):
    """Old ones, whatever their names and contents; also a record that was given another name."""
    load(root)
    record = entry(root, "json")
    foreign = {
        "labels.json": b'{"folder": "x"}',
        "features.npy": b"numbers",
        "upload.partial": b"half",
        f"{'0' * 32}.json": b'{"key": "00000000000000000000000000000000", "folder": "x"}',
        f"{'0' * 32}.npy": b"numbers",
        f"{'1' * 32}.json": record.read_bytes(),
        f"{'1' * 32}.npy": b"numbers",
        f"{'2' * 32}.npy": b"numbers",
    }
    long_ago = time.time() - 60 * 86400
    for name, content in foreign.items():
        (root / "cache" / name).write_bytes(content)
        os.utime(root / "cache" / name, (long_ago, long_ago))
    write(root / "train" / "cat" / "new.png", RGB)
    load(root)
    assert "0.0 MiB of decoded images that are no longer needed" in capsys.readouterr().out
    assert not record.exists() and not record.with_suffix(".npy").exists()
    now = {p.name: p.read_bytes() for p in (root / "cache").iterdir()}
    assert now.items() >= foreign.items() and len(now) == len(foreign) + 2


@pytest.mark.parametrize("kind", ["file", "full"])
def test_a_cache_without_room_is_told_in_one_line(root, kind):
    limit = "ulimit -f 1; " if kind == "full" else ""
    cache = root / "cache"
    if kind == "file":
        cache.write_text("no folder")
    code = KILLED.replace("time.sleep(0.2)", "pass").replace("12, cache", "64, cache")
    done = subprocess.run(
        ["bash", "-c", f'{limit}exec "$@"', "limited", sys.executable, "-c", code, root],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert "UserError: cannot keep decoded images in" in said and "OSED_JAX_CACHE_DIR" in said
    assert kind == "file" or not list(cache.iterdir())
