"""Stores: resumed, shared, refused, verified, read."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from osed_jax.errors import UserError
from osed_jax.files.records import sealed
from osed_jax.generation.filling import arranged
from osed_jax.store.card import write_contact_sheet
from osed_jax.store.checking import problems
from osed_jax.store.reading import check_images, load_generated
from osed_jax.store.records import encode, read_lines
from osed_jax.store.writing import filling
from tests.cheap_store import (
    CLASSES,
    SETTINGS,
    WANTED,
    draw,
    draw_by_row,
    fill_cheaply,
    image,
    tree,
)
from tests.command_line import environment
from tests.conftest import ROOT


def process(folder, kills=0, share=(0, 1), prefix=()):
    command = [*prefix, sys.executable, "-m", "tests.cheap_store", folder, kills, *share]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment(), **pipes)


LEFT = ".000055.png.0123456789abcdef.osed-jax-partial"  # by a killed process


@pytest.fixture
def store(tmp_path):
    fill_cheaply(tmp_path / "store")
    return tmp_path / "store"


def load(folder, classes=CLASSES):
    return load_generated(
        str(folder),
        class_names=classes,
        image_size=8,
        cache_dir=folder.parent / "cache",
        max_decoded_gib=1,
    )


def test_a_store_killed_many_times_equals_one_left_alone(tmp_path):
    store = tmp_path / "store"
    fill_cheaply(store, draw=draw_by_row)
    killed = process(tmp_path / "killed", kills=40)
    errors = killed.communicate()[1]
    assert killed.returncode == 0, errors
    assert tree(tmp_path / "killed") == tree(store)
    assert tree(tmp_path / "killed.full_size") == tree(tmp_path / "store.full_size")


def test_batches_keep_rows_and_the_order_of_each_class():
    names = [(0, i) for i in (2, 3, 7, 9)] + [(1, i) for i in range(5)]
    batches = list(arranged(names, lambda name: 3 * name[0] + name[1], 4))
    for batch in batches:
        assert all(row == (3 * label + index) % 4 for row, (label, index) in batch.items())
    drawn = [name for batch in batches for name in batch.values()]
    assert sorted(drawn) == names
    assert [n for n in drawn if n[0] == 0] == names[:4] and [n for n in drawn if n[0]] == names[4:]
    straight = list(arranged([(0, i) for i in range(9)], lambda name: name[1], 4))
    assert [len(batch) for batch in straight] == [4, 4, 1], "an undisturbed run wastes no row"


def test_two_processes_side_by_side(tmp_path):
    shared = tmp_path / "shared"
    both = [process(shared, share=(index, 2)) for index in range(2)]
    for each in both:
        errors = each.communicate()[1]
        assert each.returncode == 0, errors
    assert problems(shared) == []
    assert not list(shared.glob(".metadata-*"))
    kept = read_lines(shared / "metadata.jsonl")[0]
    assert [r["label"] for r in kept].count(1) == 12
    assert [(r["label"], r["index"]) for r in kept] == sorted(
        (r["label"], r["index"]) for r in kept
    )
    assert fill_cheaply(shared) == 0, "another number of processes finds it full"


def test_shares_without_rejections_make_the_store_of_one_process(tmp_path):
    plain = {"draw": lambda names: draw([(label, 5 * index) for label, index in names])}
    plain["filters"] = {}
    for index in (2, 0, 1):
        fill_cheaply(tmp_path / "shared", share=(index, 3), **plain)
    fill_cheaply(tmp_path / "alone", **plain)
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_a_share_in_work_is_refused_to_others(tmp_path):
    arguments = {"settings": SETTINGS, "class_names": CLASSES, "wanted": WANTED}
    with filling(tmp_path / "store", **arguments, process_count=2):
        with pytest.raises(UserError, match="another process is filling share 0 of 2"):
            fill_cheaply(tmp_path / "store", share=(0, 2))
        with pytest.raises(UserError, match=r"another config.generation.process_count than 1"):
            fill_cheaply(tmp_path / "store")
        assert problems(tmp_path / "store")[0].endswith("is at work")
        fill_cheaply(tmp_path / "store", share=(1, 2))


def test_rejected_images_are_listed_replaced_and_not_kept(store):
    kept, rejected = (read_lines(store / f"{n}.jsonl")[0] for n in ("metadata", "rejected"))
    reasons = {(r["label"], r["index"]): r["reason"] for r in rejected}
    assert reasons[1, 4] == "constant" and reasons[1, 7] == "duplicate"
    assert [r["index"] for r in kept if r["label"] == 1] == [
        i for i in range(16) if i % 5 != 4 and i != 7
    ]
    files = sorted(p.name for p in (store / "sea_lion").iterdir())
    assert files == [f"{r['index']:06d}.png" for r in kept if r["label"] == 1]
    with Image.open(store / "dog" / "000003.png") as file:
        np.testing.assert_array_equal(np.asarray(file), image(2, 3))
    assert "| sea_lion | 12 | 4 |" in (store / "README.md").read_text()


def test_filters_that_leave_too_few_images_end_in_an_error_that_keeps_them(tmp_path):
    with pytest.raises(
        UserError, match=r"too few images of these classes: sea_lion \(3\), dog \(4\)"
    ):
        fill_cheaply(tmp_path / "store", max_attempts=1.0)
    assert len(read_lines(tmp_path / "store" / "metadata.jsonl")[0]) == 12 + 17 - 7
    fill_cheaply(tmp_path / "store")
    assert problems(tmp_path / "store") == []


def test_a_store_grows_but_never_mixes_settings(store):
    before = tree(store)
    other = {**SETTINGS, "model": "dear", "prompts": {"cat": ["the cat"]}}
    with pytest.raises(UserError, match=r"settings.model: 'cheap' -> 'dear'; settings.prompts.cat"):
        fill_cheaply(store, settings=other)
    with pytest.raises(UserError, match="class_names"):
        fill_cheaply(store, classes=("cat", "dog", "sea_lion"))
    assert tree(store) == before
    assert fill_cheaply(store) == 0, "nothing is missing"
    assert tree(store) == before
    fill_cheaply(store, wanted=(1, 12, 18))
    grown = tree(store)
    assert all(grown[name] == before[name] for name in before if name.endswith(".png"))
    assert problems(store) == []


def test_a_store_that_grows_knows_the_images_it_has(store, tmp_path):
    fill_cheaply(tmp_path / "grown", wanted=(0, 5, 5))
    fill_cheaply(tmp_path / "grown")
    assert tree(tmp_path / "grown") == tree(store), "a duplicate of an earlier image was kept"


def test_a_folder_of_other_images_is_left_alone(tmp_path):
    (tmp_path / "store" / "cat").mkdir(parents=True)
    (tmp_path / "store" / "cat" / "000000.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"contains 'cat' but no store.json"):
        fill_cheaply(tmp_path / "store")
    assert (tmp_path / "store" / "cat" / "000000.png").read_bytes() == b"mine"


def test_verify_names_every_damage(store, tmp_path):
    assert problems(store) == []
    (store / "dog" / "000003.png").unlink()
    (store / "dog" / "000005.png").write_bytes(encode(image(2, 6)))
    (store / "sea_lion" / "000099.png").write_bytes(encode(image(1, 99)))
    (store / "dog" / LEFT).write_bytes(b"half")
    (tmp_path / "store.full_size" / "dog" / "000006.png").write_bytes(b"half")
    lines = (store / "metadata.jsonl").read_text().splitlines(keepends=True)
    (store / "metadata.jsonl").write_text("".join([*lines[:-1], lines[1], lines[-1][:40]]))
    (store / ".metadata-0-of-4.jsonl").write_text("")
    assert problems(store) == [
        "unfinished: the process that writes .metadata-0-of-4.jsonl was stopped",
        f"broken line: metadata.jsonl, line {len(lines) + 1}",
        f"listed twice: {json.loads(lines[1])['file_name']} in metadata.jsonl",
        "missing: store/dog/000003.png",
        "changed: store/dog/000005.png",
        "changed: store.full_size/dog/000006.png",
        f"unlisted: store/dog/{LEFT}",
        "unlisted: store/dog/000021.png",
        "unlisted: store/sea_lion/000099.png",
        "unlisted: store.full_size/dog/000021.png",
        "count: class 'dog' has 16 of 17 images",
    ]


@pytest.mark.parametrize("name", ["/dev/zero", "../dog/000001.png", "dog/../../000001.png", "a"])
def test_a_line_that_names_a_file_elsewhere_is_damaged(store, tmp_path, name):
    before = tree(tmp_path)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "000001.png").write_bytes(b"of someone else")
    lines = (store / "metadata.jsonl").read_text().splitlines(keepends=True)
    changed = sealed({**json.loads(lines[0]), "file_name": name})
    (store / "metadata.jsonl").write_text("".join([json.dumps(changed) + "\n", *lines[1:]]))
    assert problems(store)[0] == "broken line: metadata.jsonl, line 1"
    check_images(store)
    assert load(store).class_counts == (0, 12, 17)
    assert fill_cheaply(store) == 0, "the image of the damaged line is there"
    assert (tmp_path / "dog" / "000001.png").read_bytes() == b"of someone else"
    assert {p: c for p, c in tree(tmp_path).items() if p in before} == before


def test_an_image_that_is_a_link_to_no_regular_file_is_told(store):
    path = store / "dog" / "000003.png"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert problems(store) == ["no regular file: store/dog/000003.png"]
    with pytest.raises(UserError, match=r"000003\.png \(no regular file\)"):
        check_images(store)


def test_generating_again_repairs_what_verify_named(store, tmp_path):
    before = tree(tmp_path)
    (store / "dog" / "000003.png").unlink()
    (store / "dog" / "000055.png").write_bytes(b"unlisted")
    (store / "dog" / LEFT).write_bytes(b"half")
    (tmp_path / "store.full_size" / "dog" / "000006.png").unlink()
    lines = (store / "metadata.jsonl").read_text()
    (store / "metadata.jsonl").write_text(lines[:-40])
    assert fill_cheaply(store) == 2, "the image of the cut line is there"
    aside = tmp_path / "store.unlisted"
    assert (aside / "store" / "dog" / "000055.png").read_bytes() == b"unlisted"
    shutil.rmtree(aside)
    assert tree(tmp_path) == before


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    """A limit of the file size stands for the disk: it also stops in the middle of a write."""
    limited = ("bash", "-c", 'ulimit -f 2; exec "$@"', "limited")  # 2 KiB
    full = process(tmp_path / "full", prefix=limited)
    errors = full.communicate()[1]
    assert full.returncode and "UserError: cannot write to the store" in errors
    assert "No space left on device; free some space" in errors
    for folder in ("full", "store"):
        fill_cheaply(tmp_path / folder, draw=draw_by_row)
    assert tree(tmp_path / "full") == tree(tmp_path / "store")


def test_training_reads_a_store_and_refuses_that_of_other_classes(store):
    generated = load(store)
    assert generated.class_counts == WANTED
    np.testing.assert_array_equal(
        generated.images.take(np.array([0, 12])), [image(1, 0), image(2, 0)]
    )
    with pytest.raises(UserError, match="generated for the classes cat, sea_lion, dog"):
        load(store, classes=("cat", "sea_lion", "dog", "eel"))


def test_tfds_reads_a_store_as_a_folder_of_images(store, tmp_path):
    import tensorflow_datasets as tfds

    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(store)
    builder = tfds.folder_dataset.ImageFolder(str(tmp_path / "root"))
    assert builder.info.splits["train"].num_examples == sum(WANTED)
    label = builder.info.features["label"]
    assert label.names == ["dog", "sea_lion"]
    read = [
        label.int2str(int(e["label"]))
        for e in builder.as_dataset(split="train").as_numpy_iterator()
    ]
    assert sorted(read) == ["dog"] * 17 + ["sea_lion"] * 12


def damage(path, line, old, new):
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new, 1)
    path.write_text("".join(lines))


def test_images_whose_lines_are_damaged_are_kept_and_get_new_lines(store, capsys):
    before, written = tree(store), {p: p.stat().st_ino for p in store.rglob("*.png")}
    damage(store / "metadata.jsonl", 3, '"verdict": "kept"', '"verdict": "kepu"')
    damage(store / "metadata.jsonl", 9, "{", "[")
    damage(store / "metadata.jsonl", 14, '"index": ', '"index": 9')
    path = store / "metadata.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # the last line is cut, as by a full disk
    assert any(p.startswith("unlisted: ") for p in problems(store))
    assert fill_cheaply(store) == 0, "nothing is drawn"
    assert "4 damaged lines" in (said := capsys.readouterr().out) and "(line 4, 10, 15, 29)" in said
    assert "4 images existed without a line" in said
    assert tree(store) == before and problems(store) == []
    assert written.keys() == {p: 0 for p in store.rglob("*.png")}.keys()


def test_an_image_without_a_line_that_is_damaged_too_is_drawn_again(store):
    before = tree(store)
    damage(store / "metadata.jsonl", 3, '"verdict": "kept"', '"verdict": "kepu"')
    name = read_lines(store / "metadata.jsonl")[0][2]["file_name"]
    missing = sorted(
        set(before) - {r["file_name"] for r in read_lines(store / "metadata.jsonl")[0]}
    )
    (path,) = (store / n for n in missing if n.endswith(".png"))
    assert str(path.relative_to(store)) != name
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    assert fill_cheaply(store) == 1
    assert tree(store) == before


def test_nothing_is_deleted_before_a_store_is_full_again(store):
    damage(store / "metadata.jsonl", 0, "{", "[")
    path = store / "sea_lion" / "000000.png"
    path.write_bytes(path.read_bytes()[:-20])  # so it cannot be used as it is

    def fails(names):
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        fill_cheaply(store, draw=fails)
    assert path.exists()
    stray = store / "dog" / "000900.png"
    stray.write_bytes(encode(image(2, 1)))
    fill_cheaply(store)
    assert problems(store) == [] and not stray.exists()
    aside = store.parent / "store.unlisted" / "store" / "dog"
    assert (aside / "000900.png").read_bytes() == encode(image(2, 1))
    stray.write_bytes(grey := encode(np.zeros((8, 8), np.uint8)))
    fill_cheaply(store)
    assert (aside / "000900.png").read_bytes() == encode(image(2, 1)), "it is not overwritten"
    assert (aside / "000900.1.png").read_bytes() == grey


def test_lost_lines_cost_no_image_of_a_store_that_is_asked_for_fewer(store, capsys):
    images = {name: c for name, c in tree(store).items() if name.endswith(".png")}
    (store / "metadata.jsonl").unlink()
    fill_cheaply(store, wanted=(0, 2, 2))
    assert problems(store) == []
    assert "images of" in (said := capsys.readouterr().out) and "store.unlisted now" in said
    aside = tree(store.parent / "store.unlisted" / "store")
    kept = {name: c for name, c in tree(store).items() if name.endswith(".png")}
    assert len(kept) == 4 and kept | aside == images


def test_a_first_try_that_made_no_image_binds_nobody(tmp_path):
    def fails(names):
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        fill_cheaply(tmp_path / "store", draw=fails)
    other = {"model": "another", "prompts": {}}
    fill_cheaply(tmp_path / "store", settings=other)
    assert problems(tmp_path / "store") == []
    with pytest.raises(UserError, match="images made with other settings"):
        fill_cheaply(tmp_path / "store")


def test_a_store_of_rejected_images_alone_takes_new_settings(tmp_path):
    black = {"draw": lambda names: draw([(0, 4) for _ in names])}
    with pytest.raises(UserError, match="too few images of these"):
        fill_cheaply(tmp_path / "store", **black)
    assert read_lines(tmp_path / "store" / "rejected.jsonl")[0]
    fill_cheaply(tmp_path / "store", settings={"model": "another", "prompts": {}})
    assert problems(tmp_path / "store") == []
    fill_cheaply(tmp_path / "other", settings={"model": "another", "prompts": {}})
    assert tree(tmp_path / "other") == tree(tmp_path / "store")


def test_duplicates_of_other_processes_are_found_at_the_end(tmp_path, capsys):
    """Index 3 shows what index 2 shows, which another process draws."""
    twins = {"draw": lambda names: draw([(c, 10 if i == 3 else 5 * i) for c, i in names])}
    shared = tmp_path / "shared"
    fill_cheaply(shared, share=(0, 2), **twins)
    assert "repeat" not in capsys.readouterr().out
    fill_cheaply(shared, share=(1, 2), **twins)
    assert "2 images of" in (said := capsys.readouterr().out) and "sea_lion/000003.png" in said
    rejected = read_lines(shared / "rejected.jsonl")[0]
    assert [(r["label"], r["index"], r["reason"]) for r in rejected] == [
        (1, 3, "duplicate"),
        (2, 3, "duplicate"),
    ]
    assert not (shared / "dog" / "000003.png").exists()
    assert fill_cheaply(shared, share=(1, 2), **twins) == 2
    assert problems(shared) == []


def test_a_broken_image_is_named_as_such(tmp_path):
    """One of another process, which this one does not make again."""
    fill_cheaply(tmp_path / "store", share=(0, 2))
    path = tmp_path / "store" / "dog" / "000002.png"
    path.write_bytes(path.read_bytes()[:-20])
    records = [r for r in read_lines(tmp_path / "store" / "metadata.jsonl")[0] if r["label"] == 2]
    with pytest.raises(UserError, match=r"dog/000002\.png is no whole PNG image; run the same"):
        write_contact_sheet(tmp_path / "store", CLASSES, records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": None}, "no class_names as a list"),
        ({"class_names": [1, 2, 3]}, "class_names that are no texts"),
        ({"wanted": []}, "no wanted as a JSON object"),
        ({"wanted": {"cat": 0, "sea_lion": "12", "dog": 17}}, "a whole number for each class"),
        ({"wanted": {"cat": 0}}, "a whole number for each class"),
        ({"settings": 3}, "no settings as a JSON object"),
    ],
)
def test_a_store_file_changed_by_hand_is_told_in_one_line(store, change, message):
    content = json.loads((store / "store.json").read_text())
    del content["digest"]
    (store / "store.json").write_text(json.dumps({**content, **change}))
    for use in (fill_cheaply, problems, load):
        with pytest.raises(UserError, match=message):
            use(store)


@pytest.mark.parametrize(
    "change", [{"label": "2"}, {"index": None}, {"index": -1}, {"sha256": 5}, {"verdict": []}]
)
def test_lines_changed_by_hand_count_as_damaged(store, change):
    before = tree(store)
    lines = (store / "metadata.jsonl").read_text().splitlines()
    lines[2] = json.dumps(sealed({**json.loads(lines[2]), **change}))
    (store / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    assert problems(store)[0] == "broken line: metadata.jsonl, line 3"
    assert fill_cheaply(store) == 0
    assert tree(store) == before


def test_lines_of_a_class_that_the_store_does_not_have_are_refused(store):
    before = tree(store)
    lines = (store / "metadata.jsonl").read_text()
    record = {**json.loads(lines.splitlines()[0]), "label": 7, "class": "eel"}
    (store / "metadata.jsonl").write_text(lines + json.dumps(sealed(record)) + "\n")
    with pytest.raises(UserError, match=r"1 lines in .* class 'eel' with label 7"):
        fill_cheaply(store)
    images = {name: c for name, c in before.items() if name.endswith(".png")}
    assert images.items() <= tree(store).items()


def test_a_changed_image_of_a_store_is_not_trained_on(store, capsys):
    load(store)
    path = store / "dog" / "000001.png"
    path.write_bytes(encode(image(2, 11)))
    with pytest.raises(
        UserError, match=r"1 images of .* have changed .*dog/000001.png; run --mode=ver"
    ):
        load(store)
    path.unlink()
    (store / "dog" / "mine.png").write_bytes(encode(image(2, 11)))
    capsys.readouterr()
    load(store)
    said = capsys.readouterr().out
    assert "1 images of" in said and "have no line" in said and "1 images" in said
    assert f"1 images of {store} are missing" in said


def test_a_changed_image_is_drawn_again_not_taken_over(store, capsys):
    before = tree(store)
    (store / "dog" / "000001.png").write_bytes(encode(image(2, 11)))
    assert fill_cheaply(store) == 1
    assert "1 images of" in (said := capsys.readouterr().out) and tree(store) == before
    aside = store.parent / "store.unlisted" / "store" / "dog" / "000001.png"
    assert aside.read_bytes() == encode(image(2, 11)) and f"it was moved to {aside}" in said


@pytest.mark.parametrize("kind", ["text", "black", "link", "folder"])
def test_what_a_person_put_where_an_image_belongs_is_moved_aside(store, tmp_path, kind):
    """Of the next images, that with index 22 is kept and that with 24, which is black, rejected."""
    before = tree(store)
    (tmp_path / "mine").write_text("mine")
    for index in (22, 24):
        path = store / "dog" / f"{index:06d}.png"
        if kind == "text":
            path.write_text("mine")
        elif kind == "black":  # pixels as they would be drawn, in a file of another tool
            Image.fromarray(image(2, 24)).save(path, "PNG", compress_level=0)
        elif kind == "link":
            path.symlink_to(tmp_path / "mine")
        else:
            path.mkdir()
            (path / "a").write_text("mine")
    put = tree(store).items() - before.items()
    fill_cheaply(store, wanted=(0, 12, 21))
    assert problems(store) == [] and (tmp_path / "mine").read_text() == "mine"
    kept = tree(tmp_path / "store.unlisted" / "store")
    assert len(put) == 2 and put <= kept.items()


def test_a_lost_list_of_rejected_images_is_told(store, capsys):
    fill_cheaply(store)
    assert "have no line" not in capsys.readouterr().out
    (store / "rejected.jsonl").unlink()
    fill_cheaply(store)
    assert "rejected.jsonl is missing" in capsys.readouterr().out
