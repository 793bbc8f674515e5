"""CLIP's towers against PyTorch's (recorded), with the names of its weight files of both ages."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from osed_jax.diffusion.clip import ImageConfig, ImageTower, TextConfig, TextTower
from osed_jax.diffusion.model_files.weights import read_weights, torch_name
from osed_jax.errors import UserError
from tests.oracles import make_clip_oracle as oracle

IN_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}  # axes of a kernel, by their number


def build(name):
    """A tower of the oracle, its input, and the shapes of its parameters where they are used."""
    if name.startswith("text"):
        tower, given = TextTower(TextConfig.from_json(oracle.TOWERS[name])), oracle.TOKENS
    else:
        tower, given = ImageTower(ImageConfig.from_json(oracle.TOWERS[name])), oracle.IMAGES
    shapes = jax.eval_shape(tower.init, jax.random.key(0), given)["params"]
    return tower, given, shapes if name.startswith("text") else {"vision_model": shapes}


def torch_weights(shapes):
    """PyTorch's weights by the names that transformers 5 gives them alone, and those of before."""
    today, before = {}, {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        name = torch_name(path)
        short = name.removeprefix("text_model.").removeprefix("vision_model.vision_model.")
        axes = IN_TORCH[leaf.ndim] if path[-1] == "kernel" else range(leaf.ndim)
        today[short] = before[name] = oracle.weight(short, [leaf.shape[axis] for axis in axes])
    return today, before


@pytest.mark.parametrize("name", oracle.TOWERS)
def test_towers_agree_with_pytorch_under_the_names_of_both_ages(tmp_path, name):
    tower, given, shapes = build(name)
    today, before = torch_weights(shapes)
    with np.load(oracle.FILE) as recorded:
        expected, digest = recorded[name], str(recorded[f"{name}/sha256"])
    assert oracle.digest(today) == digest, "not the weights that PyTorch ran with"
    if name.startswith("image"):  # always a part of a larger model
        today = {f"vision_model.{key}": value for key, value in today.items()}
    for age, weights in (("today", today), ("before", before)):
        (tmp_path / age).mkdir()
        save_file(weights, tmp_path / age / "model.safetensors")
        params = read_weights(tmp_path / age, shapes, np.dtype(np.float32))
        params = params["vision_model"] if name.startswith("image") else params
        output = jax.jit(tower.apply)({"params": params}, given)
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_a_token_does_not_see_those_after_it():
    tower = TextTower(TextConfig.from_json({**oracle.TEXT, "num_hidden_layers": 1}))
    tokens, changed = oracle.TOKENS, oracle.TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % oracle.TEXT["vocab_size"]
    params = tower.init(jax.random.key(0), tokens)
    before, after = (np.asarray(tower.apply(params, ids)) for ids in (tokens, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before - after)[:, 5:].max(axis=-1) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'; supported are gelu, quick_gelu"),
        ({"num_attention_heads": 3}, "hidden_size=16, which its num_attention_heads=3 do not"),
    ],
)
def test_towers_of_another_kind_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        TextConfig.from_json({**oracle.TOWERS["text_1"], **change})
