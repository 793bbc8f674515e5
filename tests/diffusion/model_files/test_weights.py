"""Reading and writing weight files, with safetensors and Flax's own serialisation as oracles."""

import json
import re

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from osed_jax.diffusion.model_files.weights import (
    random_weights,
    read_weights,
    save_weights,
    torch_name,
)
from osed_jax.errors import UserError

# A convolution, a dense layer, a norm, an embedding and the VAE's renamed attention.
TORCH = {
    "down_blocks.0.resnets.1.conv1.weight": (5, 3, 2, 1),
    "down_blocks.0.resnets.1.conv1.bias": (5,),
    "mid_block.attentions.0.to_q.weight": (6, 4),
    "mid_block.attentions.0.to_out.0.weight": (4, 6),
    "mid_block.attentions.0.group_norm.weight": (4,),
    "text_model.embeddings.token_embedding.weight": (7, 4),
}
EXPECTED = {
    "down_blocks_0": {
        "resnets_1": {"conv1": {"kernel": jnp.zeros((2, 1, 3, 5)), "bias": jnp.zeros(5)}}
    },
    "mid_block": {
        "attentions_0": {
            "query": {"kernel": jnp.zeros((4, 6))},
            "proj_attn": {"kernel": jnp.zeros((6, 4))},
            "group_norm": {"scale": jnp.zeros(4)},
        }
    },
    "text_model": {"embeddings": {"token_embedding": {"embedding": jnp.zeros((7, 4))}}},
}


def torch_weights():
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in TORCH.items()}


def read(folder, weights, dtype=jnp.float32):
    save_file(weights, folder / "model.safetensors")
    return read_weights(folder, EXPECTED, dtype)


def test_layouts_are_those_of_the_two_libraries(tmp_path):
    weights = torch_weights()
    params = read(tmp_path, weights)
    image = np.random.default_rng(1).normal(size=(1, 6, 7, 3)).astype(np.float32)
    kernel = params["down_blocks_0"]["resnets_1"]["conv1"]["kernel"]
    ours = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    # A correlation in PyTorch's layout, by hand.
    torch_kernel = weights["down_blocks.0.resnets.1.conv1.weight"]
    windows = np.lib.stride_tricks.sliding_window_view(image[0], (2, 1), axis=(0, 1))
    by_hand = np.einsum("yxchw,ochw->yxo", windows, torch_kernel)
    np.testing.assert_allclose(ours[0], by_hand, atol=1e-5)
    query = params["mid_block"]["attentions_0"]["query"]["kernel"]
    np.testing.assert_array_equal(query, weights["mid_block.attentions.0.to_q.weight"].T)


def test_old_vae_attention_names_are_understood(tmp_path):
    weights = torch_weights()
    old = {n.replace("to_q", "query").replace("to_out.0", "proj_attn"): weights[n] for n in weights}
    old["text_model.embeddings.position_ids"] = np.arange(7)[None]
    (tmp_path / "old").mkdir()
    jax.tree.map(
        np.testing.assert_array_equal, read(tmp_path / "old", old), read(tmp_path, weights)
    )


def test_msgpack_of_flax_is_read(tmp_path):
    params = jax.tree.map(lambda x: x + np.arange(x.size).reshape(x.shape), EXPECTED)
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(params))
    restored = read_weights(tmp_path, EXPECTED, jnp.bfloat16)
    cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    jax.tree.map(np.testing.assert_array_equal, restored, cast)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_written_weights_read_back_and_have_pytorch_names(tmp_path, dtype):
    params = read(tmp_path, torch_weights(), dtype)
    (tmp_path / "again").mkdir()
    save_weights(tmp_path / "again" / "x.safetensors", params)
    assert {n: v.shape for n, v in load_file(tmp_path / "again" / "x.safetensors").items()} == TORCH
    again = read_weights(tmp_path / "again", EXPECTED, dtype)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(again))


def test_names_of_feed_forward_and_time_embedding():
    assert torch_name(("transformer_blocks_0", "ff", "net_2", "bias")) == (
        "transformer_blocks.0.ff.net.2.bias"
    )
    assert torch_name(("time_embedding", "linear_1", "kernel")) == "time_embedding.linear_1.weight"


def test_missing_surplus_and_misshapen_weights_are_named(tmp_path):
    name = "mid_block.attentions.0.to_q.weight"
    weights = torch_weights()
    del weights[name]
    with pytest.raises(UserError, match=f"{re.escape(name)} is missing"):
        read(tmp_path, weights)
    with pytest.raises(UserError, match=r"1 surplus weights, the first is more\.weight"):
        read(tmp_path, torch_weights() | {"more.weight": np.zeros(1)})
    with pytest.raises(UserError, match=rf"{re.escape(name)} has shape \(6, 5\) where \(4, 6\)"):
        read(tmp_path, torch_weights() | {name: np.zeros((5, 6))})


def test_missing_surplus_and_misshapen_weights_are_named_in_msgpack(tmp_path):
    def read_msgpack(params):
        (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(params))
        return read_weights(tmp_path, EXPECTED, jnp.float32)

    with pytest.raises(UserError, match="text_model/embeddings/token_embedding/embedding is miss"):
        read_msgpack({k: v for k, v in EXPECTED.items() if k != "text_model"})
    with pytest.raises(UserError, match="1 surplus weights, the first is more"):
        read_msgpack(EXPECTED | {"more": {"bias": jnp.zeros(1)}})
    wrong = jax.tree.map(lambda x: x[..., :-1], EXPECTED)
    with pytest.raises(UserError, match="has shape"):
        read_msgpack(wrong)


@pytest.mark.parametrize("name", ["model.safetensors", "model.msgpack"])
def test_damaged_and_absent_files_are_named(tmp_path, name):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"no weights but pickles among: pytorch_model\.bin"):
        read_weights(tmp_path, EXPECTED, jnp.float32)
    save_file(torch_weights(), tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    if name == "model.msgpack":
        (tmp_path / "model.safetensors").unlink()
        whole = flax.serialization.to_bytes(EXPECTED)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable weight file"):
        read_weights(tmp_path, EXPECTED, jnp.float32)


def test_random_weights_have_the_usual_deviations():
    shapes = {
        "conv": {"kernel": jnp.zeros((3, 3, 64, 128)), "bias": jnp.zeros(128)},
        "norm": {"scale": jnp.zeros(128)},
        "token": {"embedding": jnp.zeros((500, 64))},
    }
    params = random_weights(shapes, 0, jnp.float32)
    assert np.std(params["conv"]["kernel"]) == pytest.approx((3 * 3 * 64) ** -0.5, rel=0.02)
    assert np.std(params["token"]["embedding"]) == pytest.approx(0.02, rel=0.02)
    np.testing.assert_array_equal(params["norm"]["scale"], np.ones(128))
    np.testing.assert_array_equal(params["conv"]["bias"], np.zeros(128))
    other = random_weights({"conv": shapes["conv"]}, 0, jnp.float32)
    np.testing.assert_array_equal(other["conv"]["kernel"], params["conv"]["kernel"])


def test_weights_of_eight_bits_are_refused(tmp_path):
    header = {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(UserError, match=r"weights of 8 bits \(F8_E4M3\) are not read"):
        read_weights(tmp_path, {"a": jnp.zeros(2)}, jnp.float32)


def test_of_several_files_the_whole_one_is_read_and_none_is_guessed(tmp_path):
    weights = torch_weights()
    for name in ("model.fp16.safetensors", "other.safetensors", "flax_model.msgpack"):
        (tmp_path / name).write_bytes(b"not read")
    assert read(tmp_path, weights)
    for name in ("model.safetensors", "model.fp16.safetensors", "flax_model.msgpack"):
        (tmp_path / name).unlink()
    (tmp_path / "another.safetensors").write_bytes(b"not read")
    with pytest.raises(UserError, match=r"several weight files \(another\.safetensors, other"):
        read_weights(tmp_path, EXPECTED, jnp.float32)
