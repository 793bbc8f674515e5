"""Models in one file, in the layout of their own training code, against the same as a folder.

That the files are such files, PyTorch's diffusers has said: it read them as the folders (see
`make_formats_oracle.check_single_file`), and the tests compare their digests.
"""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.model_files import hub, single_file
from osed_jax.diffusion.model_files.compvis_names import unet_name, vae_name
from osed_jax.errors import UserError
from tests.diffusion.test_stable_diffusion import V14
from tests.oracles import make_formats_oracle as formats

PARTS = ("text_encoder", "unet", "vae")


@pytest.fixture(params=formats.VERSIONS)
def both(request, tmp_path):
    """A model's folder without its weights, a file of them in it, and the folder with them."""
    formats.write_model(tmp_path / "folder", request.param)
    shutil.copytree(
        tmp_path / "folder", tmp_path / "rest", ignore=shutil.ignore_patterns("*.safet*")
    )
    file = formats.write_single_file(tmp_path / "rest" / "model.safetensors", request.param)
    with np.load(formats.FILE) as recorded:
        assert (
            hashlib.sha256(file.read_bytes()).hexdigest()
            == recorded[f"single_file/{request.param}"]
        )
    return file, tmp_path / "folder"


def test_a_file_is_the_model_of_its_folder(both, capsys):
    file, _ = both
    one, other = (stable_diffusion.load(str(path)) for path in both)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert one.configs == other.configs and one.schedule.config == other.schedule.config
    assert (
        one.revision.startswith("sha256:") and ", scheduler; others as" in capsys.readouterr().out
    )
    scheduler = file.parent / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps({**one.configs["scheduler"], "beta_end": 0.02}))
    assert stable_diffusion.load(str(file)).revision != one.revision
    with pytest.raises(UserError, match="revision='v2' with the local file"):
        stable_diffusion.load(str(file), "v2")


@pytest.mark.parametrize(("both", "side"), [("1.x", 64), ("2.x", 96)], indirect=["both"])
def test_the_size_that_a_file_without_configs_draws_at(both, side):
    file, _ = both
    for part in PARTS:
        (file.parent / part / "config.json").unlink()
    path = file.parent / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"prediction_type": "v_prediction"}
    if side == 64:  # the published configs of 1.x do not say it
        del config["prediction_type"]
    path.write_text(json.dumps(config))
    assert single_file.SingleFile(file).configs["unet"]["sample_size"] == side


@pytest.mark.parametrize("both", ["1.x"], indirect=True)
def test_what_is_missing_or_surplus_is_named(both):
    file, _ = both
    tensors, prefix = load_file(file), "model.diffusion_model."
    for change, message in (
        ({f"{prefix}out.2.bias": None}, r"conv_out\.bias is missing"),
        ({f"{prefix}out.9.bias": np.zeros(4)}, r"1 surplus weights, the first is out\.9\.bias"),
        ({f"{prefix}input_blocks.0.0.weight": np.zeros((32, 9, 3, 3))}, "is an inpainting model"),
    ):
        changed = {k: v for k, v in (tensors | change).items() if v is not None}
        save_file(changed, file)
        with pytest.raises(UserError, match=message):
            stable_diffusion.load(str(file))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable weight file"):
        stable_diffusion.load(str(file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conditioner.embedders.0.transformer.x", "is Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "is Stable Diffusion 3"),
        ("double_blocks.0.img_attn.x", "is Flux"),
        ("lora_unet_mid_block.lora_down.weight", r"is a LoRA \(see config.generation.lora\)"),
        ("down_blocks.0.resnets.0.x", "is one part of a model in diffusers' layout"),
        ("anything", "is no Stable Diffusion 1.x or 2.x in the original layout"),
    ],
)
def test_files_of_other_models_are_refused_by_name(tmp_path, name, message):
    save_file({name: np.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message):
        stable_diffusion.load(str(tmp_path / "x.safetensors"))


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    for name, what in (("a.ckpt", "is a pickle"), ("a.gguf", r"is no \.safetensors file")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UserError, match=rf"{what}.*from_single_file\('{tmp_path / name}'\)"):
            stable_diffusion.load(str(tmp_path / name))
    (tmp_path / "b.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="has no safety checker"):
        hub.locate(str(tmp_path / "b.safetensors"), "", safety_checker=True)


def test_what_a_file_alone_lacks_is_that_of_the_published_model(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_fetch", lambda *_: tmp_path)
    file = formats.write_single_file(tmp_path / "x.safetensors")
    (tmp_path / "tokenizer").mkdir()
    alone = single_file.SingleFile(file)
    assert alone.configs["unet"]["cross_attention_dim"] == 768
    if V14.is_dir():
        for part, path in hub.CONFIGS.items():
            published = json.loads((V14 / path).read_text())
            ours = {k: v for k, v in alone.configs[part].items() if k in published and k[0] != "_"}
            assert ours == {k: published[k] for k in ours} and len(ours) > 4
    file = formats.write_single_file(tmp_path / "x.safetensors", "2.x")
    with pytest.raises(UserError, match="does not say whether the model predicts noise or veloc"):
        single_file.SingleFile(file)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        '{"prediction_type": "v_predict"}'
    )
    assert single_file.SingleFile(file).configs["unet"]["sample_size"] == 96


def test_a_tokenizer_that_cannot_be_had_is_explained(tmp_path, monkeypatch):
    def unreachable(*_):
        raise OSError("no network")

    monkeypatch.setattr(hub, "_fetch", unreachable)
    file = formats.write_single_file(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"has no tokenizer, and that of stable-.* \(no network\)"):
        stable_diffusion.load(str(file))


def test_names_of_the_published_models():
    """Of four levels with two layers each, from the published files."""
    for original, name in (
        ("input_blocks.11.0.in_layers.0.weight", "down_blocks.3.resnets.1.norm1.weight"),
        ("input_blocks.3.0.op.bias", "down_blocks.0.downsamplers.0.conv.bias"),
        ("input_blocks.8.1.proj_in.weight", "down_blocks.2.attentions.1.proj_in.weight"),
        ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
        ("output_blocks.11.0.skip_connection.bias", "up_blocks.3.resnets.2.conv_shortcut.bias"),
        ("output_blocks.11.0.unknown.bias", None),
        ("label_emb.0.weight", None),
    ):
        assert unet_name(original, 2) == name
    for original, name in (
        ("decoder.up.3.upsample.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.weight"),
        (
            "decoder.up.0.block.2.nin_shortcut.bias",
            "decoder.up_blocks.3.resnets.2.conv_shortcut.bias",
        ),
        ("encoder.down.1.block.0.conv2.bias", "encoder.down_blocks.1.resnets.0.conv2.bias"),
        ("quant_conv.weight", "quant_conv.weight"),
    ):
        assert vae_name(original, 4) == name
