"""The store that comes with the project: whole, made by the miniature, and readable."""

import json

import numpy as np
from PIL import Image
from sklearn.svm import SVC

from osed_jax.data.datasets import load_digits
from osed_jax.data.long_tail import long_tailed_rows
from osed_jax.store.checking import problems
from osed_jax.store.records import read_lines
from tests.conftest import ROOT

STORE = ROOT / "demo" / "generated"


def test_it_is_whole_and_small():
    assert problems(STORE) == []
    assert (ROOT / "demo" / "generated.zip").stat().st_size < 1e6
    settings = json.loads((STORE / "store.json").read_text())["settings"]
    assert settings["model"] == "runs/digits/generator"


def test_a_classifier_of_other_real_digits_reads_it():
    """The judge is trained on real digits that the miniature has never seen."""
    train, test = load_digits("train"), load_digits("test")
    rows, _ = long_tailed_rows(train, profile="exp", imbalance_ratio=20.0, num_max=100)
    unseen = [train.select(rows), test]
    pixels = np.concatenate([s.images.take(np.arange(len(s.label))) for s in unseen])
    label = np.concatenate([s.label for s in unseen])
    judge = SVC(C=10).fit(pixels[..., 0].reshape(len(label), -1) / 255, label)
    records = read_lines(STORE / "metadata.jsonl")[0]
    drawn = [np.asarray(Image.open(STORE / r["file_name"]).convert("L")) for r in records]
    read = judge.predict(np.stack(drawn).reshape(len(drawn), -1) / 255)
    assert (read == [r["label"] for r in records]).mean() >= 0.95
