"""Sets given as lists of images: what is read from them, and every line that is wrong."""

import numpy as np
import pytest
from PIL import Image

from osed_jax.config.build import check, get_config
from osed_jax.data.lists import check_lists, load_list
from osed_jax.errors import UserError
from osed_jax.experiment import loading

IMAGES = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    """A folder of images: photo/0.png ... photo/11.png."""
    (tmp_path / "photo").mkdir()
    for i, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(tmp_path / "photo" / f"{i}.png")
    return tmp_path


def write(root, name, *lines):
    (root / name).write_text("\n".join(lines) + "\n")
    return str(root / name)


def load(root, split="train", **lists):
    settings = {"image_size": 8, "cache_dir": root / "cache", "max_decoded_gib": 1.0}
    return load_list(lists, split, root=str(root), **settings)


@pytest.mark.parametrize(
    "name, lines",
    [
        ("a.txt", ["photo/3.png 10", "", "photo/1.png  9", "photo/0.png\t10", "photo/2.png 2 "]),
        (
            "a.csv",
            ["label,path", "10,photo/3.png", '9,"photo/1.png"', "10,photo/0.png", "2,photo/2.png"],
        ),
    ],
)
def test_images_keep_their_order_and_numbers_are_sorted_as_numbers(root, name, lines):
    data = load(root, train=write(root, name, *lines))
    assert data.class_names == ("2", "9", "10")
    assert data.label.tolist() == [2, 1, 2, 0]
    np.testing.assert_array_equal(data.images.take(np.arange(4)), IMAGES[[3, 1, 0, 2]])


def test_labels_may_be_names_and_paths_may_have_spaces(root):
    (root / "photo" / "5.png").rename(root / "photo" / "5 of May.png")
    train = write(root, "train.csv", "path,label", "photo/5 of May.png,red fox", "photo/0.png,2")
    data = load(root, train=train)
    assert data.class_names == ("2", "red fox") and data.label.tolist() == [1, 0]
    train = write(root, "train.txt", "photo/5 of May.png fox", "photo/0.png cat")
    assert load(root, train=train).class_names == ("cat", "fox")


def test_paths_begin_where_the_list_is_unless_a_folder_is_given(root):
    train = write(root / "photo", "train.txt", "0.png a", f"{root}/photo/1.png b")
    check_lists({"train": train}, "")
    with pytest.raises(UserError, match=r"1 of 2 images of .*line 1 \(.*/0\.png\)"):
        check_lists({"train": train}, str(root))


def test_all_bad_lines_are_named_at_once(root):
    train = write(root, "train.txt", "photo/0.png 1", "photo/1.png", "", "photo/0.png 2")
    with pytest.raises(UserError) as error:
        load(root, train=train)
    said = str(error.value)
    assert said.startswith(f"2 lines of {train} cannot be used: ")
    assert "line 2 (no label behind photo/1.png), line 4 (the image of line 1)" in said
    train = write(root, "train.csv", "path,label", "photo/0.png", ",3")
    with pytest.raises(UserError, match=r"line 2 \(no label behind .*\), line 3 \(no path\)"):
        load(root, train=train)
    one = write(root, "ONE.CSV", "path,label", "photo/0.png,1", "photo/1.png")
    with pytest.raises(UserError, match=r"^1 line of .*line 3 \(no label"):
        load(root, train=one)
    many = write(root, "many.txt", *(f"{i}.png" for i in range(50)))
    with pytest.raises(UserError, match=r"50 lines of .*line 20 \(.*\) and 30 more"):
        load(root, train=many)


def test_other_faults_of_a_list_are_one_line(root):
    train = write(root, "train.txt", "photo/0.png 0", "photo/1.png 1")
    test = write(root, "test.txt", "photo/2.png 1", "photo/3.png 7", "photo/4.png x")
    with pytest.raises(UserError, match=r"2 lines of .*line 2 \(7\), line 3 \(x\)"):
        load(root, "test", train=train, test=test)
    with pytest.raises(UserError, match="has only one class, '0'"):
        load(root, train=write(root, "one.txt", "photo/0.png 0"))
    with pytest.raises(UserError, match="names no images"):
        load(root, train=write(root, "none.txt", ""))
    with pytest.raises(UserError, match=r"the header of .* is file,label"):
        load(root, train=write(root, "a.csv", "file,label", "photo/0.png,1"))
    with pytest.raises(UserError, match=r"cannot read the list .*no\.txt \(No such file"):
        load(root, train=str(root / "no.txt"))


def test_what_is_left_out_is_said(root, capsys):
    train = write(root, "a.csv", "path,label,place", "photo/0.png,a,x", "photo/1.png,b,y")
    load(root, "test", train=train, test=write(root, "test.txt", "photo/2.png b"))
    said = capsys.readouterr().out
    assert "only the columns path and label of" in said and "are used, not place" in said
    assert "test.txt has no images of 1 of the 2 classes (a)" in said


def test_a_run_takes_its_images_from_three_lists(root):
    config = get_config("erm")
    config.dataset.update(
        name="list",
        image_size=8,
        imbalance_profile="none",
        data_dir=str(root),
        train_list=write(root, "train.txt", *(f"photo/{i}.png {i % 2}" for i in range(5))),
        validation_list=write(root, "val.txt", "photo/6.png 1", "photo/5.png 0"),
        test_list=write(root, "test.txt", "photo/7.png 0", "photo/8.png 1"),
    )
    data = loading.load_data(check(config), root / "cache")
    assert data.train.class_counts == (3, 2) and data.test.label.tolist() == [0, 1]
    assert data.facts["num_validation_images"] == 2
    np.testing.assert_array_equal(data.validation.images.take(np.arange(2)), IMAGES[[6, 5]])
    assert data.facts["content_sha256"]["validation"] == data.validation.content_sha256()
    (root / "photo" / "8.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images of .*test\.txt do not exist: line 2"):
        loading.load_data(check(config), root / "elsewhere")
    assert not (root / "elsewhere").exists(), "no image was decoded before the lists were looked at"
