"""Token ids, against those of transformers 5.24 (recorded)."""

import json

import numpy as np
import pytest

from osed_jax.diffusion.tokenizer import Tokenizer
from osed_jax.errors import UserError
from osed_jax.generation.miniature import write_tokenizer

# Made by make_tokenizer_oracle.py: the 256 bytes, two merges, the padding of Stable Diffusion 2.x.
from tests.conftest import ROOT

RECORDED = json.loads((ROOT / "tests" / "oracles" / "tokenizer.json").read_text())


def write_recorded(folder):
    folder.mkdir()
    for name, content in RECORDED["files"].items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_a_tokenizer_json_gives_the_ids_of_transformers(tmp_path):
    tokens = Tokenizer(write_recorded(tmp_path / "today"), 77)(RECORDED["texts"])
    np.testing.assert_array_equal(tokens, RECORDED["ids"])


def test_vocabulary_and_merges_give_the_same_ids(tmp_path):
    Tokenizer(write_recorded(tmp_path / "today"), 77).save(tmp_path / "older")
    (tmp_path / "older" / "tokenizer.json").unlink()
    older = Tokenizer(tmp_path / "older", 77)
    np.testing.assert_array_equal(older(RECORDED["texts"]), RECORDED["ids"])
    assert older.max_length == 24
    assert Tokenizer(tmp_path / "older", 16)(["sea " * 30]).shape == (1, 16)


def test_saved_files_are_those_of_transformers(tmp_path):
    Tokenizer(write_recorded(tmp_path / "today"), 77).save(tmp_path / "saved")
    theirs = RECORDED["files"]
    ours = {name: json.loads((tmp_path / "saved" / name).read_text()) for name in theirs}
    assert ours["tokenizer.json"] == theirs["tokenizer.json"]
    assert ours["tokenizer_config.json"].items() <= theirs["tokenizer_config.json"].items()
    assert {"bos_token", "eos_token", "pad_token"} <= ours["tokenizer_config.json"].keys()
    vocabulary = json.loads((tmp_path / "saved" / "vocab.json").read_text())
    assert vocabulary == theirs["tokenizer.json"]["model"]["vocab"]


def test_the_vocabulary_of_stable_diffusion(shared_data):
    folder = shared_data / "stable_diffusion_v1_4_configs" / "tokenizer"
    tokens = Tokenizer(folder, 77)(RECORDED["published_texts"])
    np.testing.assert_array_equal(tokens, RECORDED["published_ids"])


def test_added_tokens_keep_their_ids(tmp_path):
    write_tokenizer(tmp_path / "tokenizer", "abc", 8)
    (tmp_path / "tokenizer" / "added_tokens.json").write_text('{"<my-cat>": 9, "<a-dog>": 8}')
    assert Tokenizer(tmp_path / "tokenizer", 8)(["<a-dog> <my-cat>"])[0, 1:3].tolist() == [8, 9]
    (tmp_path / "tokenizer" / "added_tokens.json").write_text('{"<my-cat>": 11}')
    with pytest.raises(UserError, match="the number of '<my-cat>' does not follow"):
        Tokenizer(tmp_path / "tokenizer", 8)


def test_saving_leaves_out_what_names_a_file_elsewhere(tmp_path):
    folder = write_recorded(tmp_path / "hostile")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "../../outside", "template": "x"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "a").mkdir()
    Tokenizer(folder, 77).save(tmp_path / "a" / "tokenizer")
    assert not [p for p in tmp_path.rglob("outside*")]
    assert "outside" not in (tmp_path / "a" / "tokenizer" / "tokenizer_config.json").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "not a readable CLIP tokenizer"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("tokenizer.json", None, r"vocab\.json is missing, and so is tokenizer"),
        ("tokenizer.json", {"type": "WordLevel", "vocab": {}, "unk_token": "x"}, "of BERT, T5"),
    ],
)
def test_tokenizers_that_cannot_be_used_are_named(tmp_path, name, content, message):
    folder = write_recorded(tmp_path / "today")
    if isinstance(content, dict):
        whole = RECORDED["files"]["tokenizer.json"]
        content = json.dumps({**whole, "model": content, "added_tokens": []})
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Tokenizer(folder, 77)
