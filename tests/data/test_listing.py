"""Which files of a folder are images of which class, and what is said of the others."""

import os

import numpy as np
import pytest
from PIL import Image

from osed_jax.data.folder import check_folder, load_folder
from osed_jax.data.listing import class_folders, files_of_classes
from osed_jax.errors import UserError
from osed_jax.store.reading import load_generated
from tests.data.test_folder import load, make_folder, write

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path)


def test_nested_folders_links_and_any_ending_count(root, capsys):
    write(root / "train" / "dog" / "day" / "one" / "0.bmp")
    write(root / "train" / "dog" / "cat.1", format="GIF")
    (root / "train" / "dog" / "linked.png").symlink_to(root / "train" / "cat" / "0.png")
    elsewhere = write(root / "elsewhere" / "0.png").parent
    (root / "train" / "dog" / "more").symlink_to(elsewhere)
    (root / "train" / "dog" / "loop").symlink_to(root / "train" / "dog")
    assert load(root).class_counts == (3, 7)
    assert "2 images of" in (out := capsys.readouterr().out) and "(dog 2)" in out


def test_what_is_no_image_is_counted(root, capsys):
    for i in range(4):
        (root / "train" / "cat" / f"{i}.xml").write_text("<box/>")
    (root / "train" / "dog" / "LICENSE").write_text("of the images")
    write(root / "train" / "stray.png")
    assert load(root).class_counts == (3, 3)
    out = capsys.readouterr().out
    assert "5 files of" in out and "left out (cat 4, dog 1; .xml 4, no ending 1)" in out
    assert "1 images are directly in" in out and "stray.png" in out


def test_what_operating_systems_leave_is_no_class_and_no_image(root, capsys):
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found"):
        write(root / "train" / name / "0.png")
        write(root / "train" / "cat" / name / "0.png")
    for name in ("Thumbs.db", "desktop.ini", "._0.png", ".DS_Store"):
        (root / "train" / "cat" / name).write_text("anything")
    data = load(root)
    assert data.class_names == ("cat", "dog") and data.class_counts == (3, 3)
    assert capsys.readouterr().out == ""


def test_images_that_cannot_be_read_are_refused_all_at_once(root):
    (root / "train" / "cat" / "IMG_1.HEIC").write_bytes(b"ftypheic")
    (root / "train" / "dog" / "raw.nef").write_bytes(b"II*\0")
    (root / "train" / "dog" / "gone.jpg").symlink_to("/not/mounted/gone.jpg")
    os.mkfifo(root / "train" / "dog" / "pipe.png")
    with pytest.raises(UserError) as refused:
        load(root)
    said = str(refused.value)
    assert said.startswith("4 files cannot be read: ")
    for part in ("IMG_1.HEIC (.heic", "raw.nef (.nef", "to /not/mounted/gone.jpg", "pipe.png (no"):
        assert part in said


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_that_is_a_link_to_nothing_is_refused(root, split):
    (root / split / "eel").symlink_to("/not/mounted/eel")
    with pytest.raises(UserError, match=rf"{split}/eel \(a link to /not/mounted/eel.*mount"):
        load(root)


def test_a_name_in_two_unicode_forms_is_one_class(root, tmp_path):
    write(root / "train" / DECOMPOSED / "0.png")
    write(root / "test" / COMPOSED / "0.png")
    assert load(root).class_names == (COMPOSED, "cat", "dog")
    write(tmp_path / "made" / DECOMPOSED / "0.png")
    made = load_generated(
        str(tmp_path / "made"),
        class_names=(COMPOSED, "cat"),
        image_size=12,
        cache_dir=tmp_path / "cache",
        max_decoded_gib=1.0,
    )
    assert made.class_counts == (1, 0)
    write(root / "train" / COMPOSED / "0.png")
    with pytest.raises(UserError, match="two folders named 'caf\u00e9', in two forms"):
        load(root)


def test_a_missing_split_is_noticed_before_decoding_and_its_other_name_told(root):
    (root / "test").rename(root / "valid")
    with pytest.raises(
        UserError,
        match=r"no folder .*/test; .*there is .*/valid: if this is the folder, rename it to test",
    ):
        check_folder(str(root))
    (root / "valid").rename(root / "test")
    check_folder(str(root))
    for path in (root / "test" / "cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"class 'cat' has no images in .*test/cat"):
        check_folder(str(root))


def test_a_deep_set_has_one_white(root, capsys):
    values = np.tile(np.linspace(0, 1, 12), (12, 1))
    for i, high in enumerate((4000, 900, 100)):
        Image.fromarray((values * high).astype(np.uint16)).save(root / "train" / "cat" / f"{i}.png")
    for gib in (1.0, 0.0):
        data = load(root, gib=gib)
        assert data.images.white == 4095
        for i, high in enumerate((4000, 900, 100)):
            want = np.floor(values * high) / 4095 * 255
            np.testing.assert_allclose(data.images.take(np.array([i]))[0, ..., 0], want, atol=0.51)
        assert "3 images of" in (out := capsys.readouterr().out) and "4,095 is taken" in out


def test_all_broken_images_are_named_at_once_also_when_streaming(root):
    for name in ("cat/0.png", "dog/1.png", "dog/2.png"):
        path = root / "train" / name
        path.write_bytes(path.read_bytes()[:80])
    for gib in (1.0, 0.0):
        with pytest.raises(UserError) as refused:
            load_folder(
                str(root), "train", image_size=12, cache_dir=root / "c", max_decoded_gib=gib
            )
        said = str(refused.value)
        assert "cannot read 3 images" in said
        assert all(name in said for name in ("cat/0.png", "dog/1.png", "dog/2.png"))
        assert not list((root / "c").iterdir())


def test_names_that_are_not_utf8(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    for path in (odd, tmp_path / "dog"):
        path.mkdir()
        (path / os.fsdecode(b"\xff.png")).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"caf.*: class names must be in UTF-8; rename"):
        class_folders(tmp_path)
    odd.rename(tmp_path / "cafe")
    found = files_of_classes(class_folders(tmp_path))
    assert [len(found[name].images) for name in ("cafe", "dog")] == [1, 1], "files may have any"
