"""Generated images that started from real ones: those of images that are held out are not shown."""

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import digits
from configs import folder as folder_config
from osed_jax.commands.filter import filter as filter_store
from osed_jax.config.build import check
from osed_jax.data.datasets import load_digits
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.files.records import as_line, read_lines, write_json

OF_DIGIT = [np.flatnonzero(load_digits("train").label == c) for c in range(10)]
FOLDS = {"validation_folds": 3, "validation_fold": 1}


def write_store(folder: Path, class_names, starts, kind="train") -> Path:
    """A store with one image for each (class, start, further fields of its line)."""
    settings = {"start_from_noise": {}} if kind == "noise" else {f"start_from_{kind}": {}}
    lines, count = [], dict.fromkeys(class_names, 0)
    for name, start, *more in starts:
        content = io.BytesIO()
        random = np.random.default_rng(len(lines))
        Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(content, "PNG")
        file = folder / name / f"{count[name]:06d}.png"
        count[name] += 1
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
        line = {
            "file_name": f"{name}/{file.name}",
            "class": name,
            "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
            "start_image": start,
            "strength": 0.5,
        }
        lines.append({**line, **(more[0] if more else {})})
    about = {"class_names": list(class_names), "wanted": count, "settings": settings}
    write_json(folder / "store.json", about)
    write_lines(folder, lines)
    return folder


def write_lines(folder, lines):
    (folder / "metadata.jsonl").write_text("".join(map(as_line, lines)))


def of_digits(store, **dataset):
    config = digits.get_config("fill")
    config.dataset.update({"imbalance_profile": "none", "num_max": 0, **dataset})
    config.oversampling.update({"generated_dir": str(store)})
    return check(config)


def load(config, tmp_path):
    return loading.load_training_data(config, tmp_path / "cache")


def shown(data):
    """The shown images by their files, such as 3/000001."""
    return {f"{p.parent.name}/{p.stem}" for p in data.generated.images.paths}


def shuffled():
    """The positions of each digit as Cao's subset takes them: the long tail from the front."""
    random, found = np.random.RandomState(0), []
    for positions in OF_DIGIT:
        found.append(positions.copy())
        random.shuffle(found[-1])
    return found


@pytest.mark.parametrize("kind", ["train", "other_class"])
def test_of_a_fold_all_that_started_from_it_is_left_out(tmp_path, capsys, kind):
    """By hand: the fold with number 1 of 3 holds out the second, the fifth, ... of each class."""
    starts = []
    for c in range(10):
        of = c if kind == "train" else (c + 1) % 10
        more = {} if kind == "train" else {"start_class": str(of)}
        places = [0, 1, 2, 4, 3] if c else [4, 2]
        starts += [(str(c), int(OF_DIGIT[of][i]), more) for i in places]
    store = write_store(tmp_path / "store", list("0123456789"), starts, kind)
    data = load(of_digits(store, **FOLDS), tmp_path)
    want = {f"{c}/00000{i}" for c in range(1, 10) for i in (0, 2, 4)} | {"0/000001"}
    assert shown(data) == want
    text = f"19 of 47 images of {store} are left out: 19 started from images that this run holds"
    assert text in data.left_out and f"note: {data.left_out}" in capsys.readouterr().out
    assert data.facts["generated_counts"] == [1] + 9 * [3]

    # What is left out has no trace in the facts: they are those of a store that never had it.
    lines = read_lines(store / "metadata.jsonl")[0]
    (tmp_path / "pruned").mkdir()
    pruned = Path(shutil.copytree(store, tmp_path / "pruned" / "store"))
    kept = [line for line in lines if line["file_name"].removesuffix(".png") in want]
    for line in lines:
        if line not in kept:
            (pruned / line["file_name"]).unlink()
    write_lines(pruned, kept)
    alone = load(of_digits(pruned, **FOLDS), tmp_path)
    assert alone.facts == data.facts and alone.left_out == ""
    if kind == "other_class":
        np.testing.assert_array_equal(alone.started_from.label, data.started_from.label)
        assert len(data.started_from.strength) == 28

    whole = load(of_digits(store), tmp_path)
    assert len(shown(whole)) == 47 and whole.left_out == "", "nothing is held out"
    assert whole.facts["content_sha256"]["generated"] != data.facts["content_sha256"]["generated"]


def test_of_a_held_out_share_too_and_of_images_beside_the_long_tail(tmp_path):
    starts = []
    for c, positions in enumerate(shuffled()):
        share = len(positions) // 4
        starts += [(str(c), int(positions[i])) for i in (0, -1, -share, -share - 1)]
    store = write_store(tmp_path / "store", list("0123456789"), starts)
    data = load(of_digits(store, validation_fraction=0.25), tmp_path)
    assert shown(data) == {f"{c}/00000{i}" for c in range(10) for i in (0, 3)}
    tail = {"imbalance_profile": "exp", "imbalance_ratio": 3.0, "num_max": 12}
    data = load(of_digits(store, **tail), tmp_path)
    assert shown(data) == {f"{c}/000000" for c in range(10)}
    assert "30 of 40" in data.left_out
    assert "30 started from images that are not among its training images" in data.left_out


def test_stores_from_noise_are_shown_whole(tmp_path):
    """Whatever their lines say; and the images of other tools, which have none."""
    held_out = int(OF_DIGIT[3][1])
    starts = [(str(c), held_out) for c in range(10)]
    store = write_store(tmp_path / "store", list("0123456789"), starts, "noise")
    for _ in range(2):
        data = load(of_digits(store, **FOLDS), tmp_path)
        assert len(shown(data)) == 10 and data.left_out == ""
        for name in ("store.json", "metadata.jsonl"):
            (store / name).unlink(missing_ok=True)


@pytest.fixture
def photos(tmp_path):
    """Six cats, of which one is in a subfolder, and four dogs; as many of each to test on."""
    names = {"cat": ["0", "1", "2", "3", "4", "tom/5"], "dog": ["0", "1", "2", "3"]}
    for split in ("train", "test"):
        for c, (name, files) in enumerate(names.items()):
            for i, file in enumerate(files):
                path = tmp_path / "photos" / split / name / f"{file}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                random = np.random.default_rng([c, i, split == "test"])
                pixels = random.integers(256, size=(8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def of_photos(photos, store, fold=1, **dataset):
    config = folder_config.get_config("fill")
    folds = {"validation_folds": 2, "validation_fold": fold} if fold is not None else {}
    config.dataset.update({"data_dir": str(photos), "image_size": 8, **folds, **dataset})
    config.oversampling.update({"generated_dir": str(store)})
    return check(config)


def as_list(photos, root):
    """The same training images as a list with paths below the folder of its images."""
    files = sorted((photos / "train").rglob("*.png"))
    lines = [f"{p.relative_to(photos / root)} {p.relative_to(photos).parts[1]}\n" for p in files]
    (photos / "train.txt").write_text("".join(lines))
    lists = {name: str(photos / "train.txt") for name in ("train_list", "test_list")}
    return {"name": "list", "data_dir": str(photos / root), **lists}


@pytest.mark.parametrize("root", [None, ".", "train"])
@pytest.mark.parametrize("there", ["", "/mnt/other/machine/", "{photos}/", "a/"])
def test_files_are_known_wherever_the_store_was_made(photos, tmp_path, root, there):
    """The fold holds out every second file by name: cat 1, 3 and tom/5, dog 1 and 3."""
    cats = ["0", "1", "2", "3", "4", "tom/5"]
    starts = [("cat", cat) for cat in cats] + [("dog", str(i)) for i in range(4)]
    of_test = [("dog", "test/dog/0.png"), ("cat", "test/cat/1.png")]
    of_test = of_test if root != "train" else []  # of a list, only paths below its folder tell
    prefix = there.format(photos=photos)
    named = [(name, f"train/{name}/{file}.png") for name, file in starts] + of_test
    lines = [(name, f"{prefix}{file}") for name, file in named]
    store = write_store(tmp_path / "store", ("cat", "dog"), lines)
    dataset = as_list(photos, root) if root else {}
    data = load(of_photos(photos, store, **dataset), tmp_path)
    assert shown(data) == {"cat/000000", "cat/000002", "cat/000004", "dog/000000", "dog/000002"}
    beside = len(of_test)
    assert f"{5 + beside} of {10 + beside} images" in data.left_out
    assert "5 started from images that this run holds out" in data.left_out
    data = load(of_photos(photos, store, fold=None, **dataset), tmp_path)
    assert len(shown(data)) == 10
    assert ("2 started from images that are not among its" in data.left_out) == bool(of_test)


def test_what_cannot_be_told_is_said_or_refused(photos, tmp_path, capsys):
    starts = [("cat", "/a/1.png"), ("dog", "/a/2.png"), ("dog", 3), ("dog", "/a/train/cat/0.png")]
    store = write_store(tmp_path / "elsewhere", ("cat", "dog"), starts)
    unknown = r"none of these is among the training images .*the first: /a/1.png\)"
    with pytest.raises(UserError, match=rf"{unknown}, so it cannot be told which"):
        load(of_photos(photos, store), tmp_path)
    assert len(shown(load(of_photos(photos, store, fold=None), tmp_path))) == 4
    said = capsys.readouterr().out
    assert "WARNING: the images of" in said and "none of these is among the training" in said

    starts = [(c, f"train/{c}/{i}.png") for c in ("cat", "dog") for i in (0, 2)]
    store = write_store(tmp_path / "no_line", ("cat", "dog"), starts)
    lines = (store / "metadata.jsonl").read_text()
    (store / "metadata.jsonl").write_text(lines.replace("cat/2.png", "cat/3.png"))  # by hand
    data = load(of_photos(photos, store), tmp_path)
    assert shown(data) == {"cat/000000", "dog/000000", "dog/000001"}
    assert "1 of 4" in data.left_out and "1 have no whole line in metadata.jsonl" in data.left_out
    data = load(of_photos(photos, store, fold=None), tmp_path)
    assert len(shown(data)) == 4 and data.left_out == "", "nothing is held out"


def test_a_class_that_loses_all_its_images_is_named_with_the_reason(photos, tmp_path):
    starts = [("cat", "train/cat/0.png"), ("dog", "train/dog/1.png")]
    store = write_store(tmp_path / "store", ("cat", "dog"), starts)
    lost = r"no generated images of class 'dog', which .*; add some; 1 of 2 images of .* left out"
    with pytest.raises(UserError, match=lost):
        load(of_photos(photos, store), tmp_path)
    store = write_store(tmp_path / "none", ("cat", "dog"), starts[1:])
    with pytest.raises(UserError, match=r"no image that this run may show; 1 of 1 images"):
        load(of_photos(photos, store), tmp_path)


def test_a_filter_would_lose_what_images_started_from(photos, tmp_path):
    store = write_store(tmp_path / "store", ("cat", "dog"), [("dog", "train/dog/1.png")])
    config = of_photos(photos, store)
    config.generation.update(filtered_dir=str(tmp_path / "filtered"), drop_duplicates=True)
    with pytest.raises(UserError, match="which of them are held out would be lost"):
        filter_store(config)
