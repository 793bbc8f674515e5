"""Images that are the same in sets that must share none, found by their pixels."""

import numpy as np
import pytest

from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.data.overlap import check_sets
from osed_jax.errors import UserError
from tests.data.test_folder import load, make_folder, write

RANDOM = np.random.RandomState(0)


def images(count):
    return RANDOM.randint(0, 256, (count, 4, 4, 3), np.uint8)


def image_set(array, label=None, white=0.0):
    label = np.arange(len(array)) % 2 if label is None else np.asarray(label)
    return ImageSet(ArrayImages(array, white=white), label, ("cat", "dog"))


def test_sets_that_share_nothing_are_not_spoken_of(capsys):
    sets = {name: image_set(images(5)) for name in ("training", "test", "generated")}
    check_sets({**sets, "validation": image_set(images(1)).select(np.zeros(0, np.int64))})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("test", "training"),
        ("test", "generated"),
        ("validation", "training"),
        ("test", "validation"),
        ("validation", "generated"),
    ],
)
def test_shared_images_are_told_with_numbers(capsys, first, second):
    one, other = images(8), images(6)
    other[[1, 4]] = one[[6, 3]]
    check_sets({first: image_set(one, [0, 1, 0, 1, 0, 1, 0, 1]), second: image_set(other)})
    said = capsys.readouterr().out
    assert f"WARNING: 2 of 8 {first} images (25.0%) are also {second} images" in said
    assert f"they make the {first} figures too good" in said
    if second == "training":
        assert "image 3 of class 'dog' is the same image as image 4 of class 'cat'" in said


def test_an_image_under_two_classes_is_told(capsys):
    array = images(6)
    array[5] = array[0]
    check_sets({"training": image_set(array)})
    assert "1 of 6 training images are also under another class" in capsys.readouterr().out
    check_sets({"training": image_set(array, [0, 1, 0, 1, 0, 0])})
    assert capsys.readouterr().out == "", "twice in one class is no contradiction"


def test_copies_are_found_in_files_of_another_name_and_format(tmp_path, capsys):
    make_folder(tmp_path)
    pixels = load(tmp_path).images.take(np.array([4]))[0]
    write(tmp_path / "test" / "cat" / "copy.bmp", pixels)
    for gib in (1.0, 0.0):
        sets = {"training": load(tmp_path, gib=gib), "test": load(tmp_path, "test")}
        check_sets(sets)
        said = capsys.readouterr().out
        assert "1 of 7 test images (14.3%)" in said
        assert "test/cat/copy.bmp is the same image as " in said and "train/dog/1.png" in said


def test_sets_must_agree_in_white():
    deep = {"training": image_set(images(2), white=4095), "generated": image_set(images(2))}
    check_sets(deep)
    with pytest.raises(UserError, match=r"training 4,095, test 1,023.*8 bits"):
        check_sets({**deep, "test": image_set(images(2), white=1023)})
