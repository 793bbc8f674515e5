"""The safety checker against PyTorch's (recorded), and its flags as a reason to reject."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import digits
from osed_jax.commands.generate import generate
from osed_jax.config.build import check
from osed_jax.diffusion.safety import FOLDER, checker_module, load_safety_checker
from osed_jax.errors import UserError
from osed_jax.generation.filters import Filters
from osed_jax.store.records import read_lines
from tests.conftest import ROOT
from tests.oracles import make_stable_diffusion_oracle as oracle

CONFIGS = ROOT.parent / "shared" / "data" / "stable_diffusion_v1_4_configs"


@pytest.fixture
def folder(tmp_path):
    oracle.write_safety_checker(tmp_path / "model", oracle.manifest()["safety_checker"])
    return tmp_path / "model"


def recorded():
    with np.load(oracle.DATA / "stable_diffusion.npz") as file:
        return file["safety_checker/margin"]


def test_margins_agree_with_pytorch(folder):
    checker = load_safety_checker(str(folder), "")
    image = oracle.images_to_check().astype(np.float32) / 255
    margin = np.asarray(jax.jit(checker.margin)(checker.params, image))
    # PyTorch's side rounds the reduced images to bytes, and scores to three digits.
    np.testing.assert_allclose(margin, recorded(), atol=3e-3)
    assert 3 <= (recorded() > 0).sum() <= 13, "the oracle has images on both sides"


def test_flagged_images_are_rejected():
    images = oracle.images_to_check()
    filters = Filters(safety_checker=True)
    scores = filters.score(images, np.zeros(len(images), int), recorded())
    reasons = [filters.reason({"label": 0, "sha256": "", **score}) for score in scores]
    expected = ["flagged by the safety checker" if m > 0 else None for m in recorded()]
    assert reasons == expected
    assert scores[0]["safety_margin"] == pytest.approx(recorded()[0])
    assert Filters().score(images, np.zeros(len(images), int), recorded())[0] == dict.fromkeys(
        scores[0]
    )


def test_a_store_holds_what_the_checker_lets_pass(tmp_path, folder):
    oracle.write_model(folder, oracle.MODELS["epsilon"], oracle.manifest()["shapes"]["epsilon"])
    config = digits.get_config("osed")
    config.dataset.update({"num_max": 12, "imbalance_ratio": 3.0})
    config.oversampling.generated_dir = str(tmp_path / "store")
    config.generation.update({"model": str(folder), "steps": 1, "batch_size": 16, "count": "4"})
    config.generation.safety_checker = True
    generate(check(config))
    margins = [r["safety_margin"] for r in read_lines(tmp_path / "store" / "metadata.jsonl")[0]]
    assert len(margins) == 40 and max(margins) <= 0, "with these thresholds none is flagged"

    weights = folder / FOLDER / "model.safetensors"
    tensors = load_file(weights)
    tensors["concept_embeds_weights"] += np.float16(np.median(margins))
    save_file(tensors, weights, {"format": "pt"})
    config.oversampling.generated_dir = str(tmp_path / "stricter")
    generate(check(config))
    kept, rejected = (
        read_lines(tmp_path / "stricter" / f"{name}.jsonl")[0] for name in ("metadata", "rejected")
    )
    assert len(kept) == 40 and all(r["safety_margin"] <= 0 for r in kept)
    assert rejected and all(r["safety_margin"] > 0 for r in rejected)
    assert {r["reason"] for r in rejected} == {"flagged by the safety checker"}


def test_published_parameter_count():
    if not CONFIGS.is_dir():
        pytest.skip(f"the configurations of Stable Diffusion v1.4 are not at {CONFIGS}")
    config = json.loads((CONFIGS / FOLDER / "config.json").read_text())
    module, image = checker_module(config)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    # CLIP ViT-L/14's image tower and projection (303,966,208), 20 concepts and their thresholds.
    expected = 303_966_208 + 20 * 768 + 20
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_a_model_without_a_checker_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"has no safety checker .* set it to False"):
        load_safety_checker(str(tmp_path), "")


def test_a_broken_checker_is_explained(folder):
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable weight file"):
        load_safety_checker(str(folder), "")
