"""LoRA files merged into a model, against PyTorch's diffusers and peft (recorded)."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.model_files.lora_files import read_lora, with_lora
from osed_jax.diffusion.sampler import Sampler
from osed_jax.errors import UserError
from tests.oracles import make_formats_oracle as formats
from tests.oracles import make_stable_diffusion_oracle as oracle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    formats.write_model(folder)
    return stable_diffusion.load(str(folder))


@pytest.fixture(scope="module")
def sampler(model):
    settings = {"batch_size": 2, "image_size": 16, "size": 16, "steps": formats.STEPS}
    settings |= {"scheduler": "ddim", "guidance_scale": oracle.GUIDANCE}
    return Sampler(model, devices=jax.devices()[:1], **settings)


@pytest.mark.parametrize("name", formats.LORAS)
def test_merged_files_sample_as_in_pytorch(model, sampler, tmp_path, name):
    file = formats.write_lora(name, tmp_path / "lora.safetensors")
    sampler.use(with_lora(model, str(file), formats.LORA_SCALE).params)
    noise = np.moveaxis(oracle.noise((2, 4, 8, 8), 0), 1, -1)
    latents, _ = sampler.from_noise(noise, oracle.PROMPTS, oracle.NEGATIVE)
    with np.load(formats.FILE) as recorded:
        expected = np.moveaxis(recorded[f"lora/{name}"], 1, -1)
    np.testing.assert_allclose(latents, expected, atol=1e-4, rtol=1e-5)


def test_one_layer_changes_as_by_hand_and_keeps_its_type(model, tmp_path):
    file, key = tmp_path / "lora.safetensors", "lora_unet_mid_block_resnets_0_conv1"
    down, up = oracle.noise((2, 64, 3, 3), 0), oracle.noise((64, 2, 1, 1), 1)
    names = f"{key}.lora_down.weight", f"{key}.lora_up.weight", f"{key}.alpha"
    save_file(dict(zip(names, (down, up, np.asarray(6.0)), strict=True)), file)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    update = 0.5 * 6 / 2 * np.einsum("or,rihw->hwio", up[..., 0, 0], down)
    for params, tolerance in ((model.params, 1e-5), (half, 0.1)):
        merged = with_lora(dataclasses.replace(model, params=params), str(file), 0.5).params
        pairs = zip(jax.tree.leaves(merged), jax.tree.leaves(params), strict=True)
        ((new, old),) = (pair for pair in pairs if pair[0] is not pair[1])
        assert new.dtype == old.dtype
        np.testing.assert_allclose(new - old.astype(jnp.float32), update, atol=tolerance)


def test_files_that_do_not_fit_are_named(model, tmp_path):
    file = tmp_path / "lora.safetensors"
    tensors, _ = formats.lora_tensors("kohya")
    first = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    down, up = (f"{first}.lora_{role}.weight" for role in ("down", "up"))

    def refused(values, message):
        save_file(values, file)
        with pytest.raises(UserError, match=message):
            read_lora(file, model.params)

    other = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.zeros((4, 24))}
    other |= {name.replace("down", "up"): np.zeros((48, 4)) for name in other}
    refused(tensors | other, "1 of its .* layers are not in the model, the first is lora_te2_text")
    refused({k: v for k, v in tensors.items() if k != up}, f"the `up` that belongs to {first}")
    refused(tensors | {down: np.zeros((4, 7))}, r"is of \(4, 7\) and .* do not fit a layer of")
    refused(tensors | {f"{first}.dora_scale": np.zeros(3)}, "dora_scale is no part of a LoRA")
    refused({f"{first}.hada_w1_a": np.zeros((3, 3))}, "LoHa, LoKr, DoRA and whole weights are not")
    refused({}, "holds no LoRA")


def test_settings_of_other_kinds_and_unreadable_files_are_refused(model, tmp_path):
    file = tmp_path / "lora.safetensors"
    tensors, settings = formats.lora_tensors("peft")
    metadata = {"lora_adapter_metadata": json.dumps(settings | {"unet.use_rslora": True})}
    save_file(tensors, file, metadata)
    with pytest.raises(UserError, match=r"unet\.use_rslora=True is not supported, only False is"):
        read_lora(file, model.params)
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(UserError, match=r"weights of 8 bits \(F8_E4M3\) are not read"):
        read_lora(file, model.params)
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match="not a readable LoRA file"):
        read_lora(file, model.params)
    for name, message in (("lora.pt", "Pickles"), ("none.safetensors", "not a readable LoRA file")):
        with pytest.raises(UserError, match=message):
            read_lora(tmp_path / name, model.params)
