"""What a line of a store must have, and where a store keeps its files."""

from pathlib import Path

import pytest

from osed_jax.store import format as store_format
from osed_jax.store.format import Line, is_line

LINE = {
    "file_name": "sea_lion/000012.png",
    "class": "sea_lion",
    "label": 1,
    "index": 12,
    "sha256": "0" * 64,
    "full_size_sha256": None,
    "verdict": "rejected",
    "reason": "constant",
    "prompt": "a sea lion",
}
WRONG = {
    "file_name": [
        None,
        "000012.png",
        "a/b/000012.png",
        "../000012.png",
        "a/12.png",
        "a/000012.jpg",
    ],
    "class": [None, 1],
    "label": ["1", -1, 1.0],
    "index": ["12", -1, None],
    "sha256": [None, 5],
    "full_size_sha256": [5],
    "verdict": [None, []],
    "reason": [5],
    "start_image": [None, 0.5],
    "strength": ["0.5", None],
    "start_class": [3, None],
}


def test_lines_with_all_they_must_have():
    assert is_line(LINE) and Line.__required_keys__ == LINE.keys() - {"prompt"}
    assert is_line({**LINE, "full_size_sha256": "1" * 64, "reason": None})
    for start in (3, "train/cat/0.png"):
        assert is_line({**LINE, "start_image": start, "strength": 1, "start_class": "cat"})


@pytest.mark.parametrize("key", sorted(Line.__required_keys__))
def test_a_line_that_lacks_a_key(key):
    assert not is_line({name: value for name, value in LINE.items() if name != key})


@pytest.mark.parametrize(
    ("key", "value"), [(key, v) for key, values in WRONG.items() for v in values]
)
def test_a_line_with_a_value_of_another_kind(key, value):
    assert not is_line({**LINE, key: value})


def test_what_belongs_to_a_store_lies_beside_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for store in (Path("made"), tmp_path / "made", Path("sub/made.x"), Path(".")):
        whole = store.absolute()
        for place in (
            store_format.full_size_folder(store),
            store_format.unlisted_folder(store),
            store_format.contact_sheet_path(store),
            store_format.report_folder(store),
        ):
            assert place.absolute().parent == whole.parent
            assert place.name.startswith(f"{whole.name}.")


def test_shards_are_known_by_their_names():
    assert store_format.share_of(store_format.shard_name((3, 12))) == (3, 12)
    for other in ("metadata.jsonl", ".metadata-1-of-2.jsonl.old", ".metadata-1.jsonl", "a"):
        assert store_format.share_of(other) is None
