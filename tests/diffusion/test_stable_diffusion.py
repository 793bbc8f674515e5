"""Loading, saving and every part of the model, against PyTorch's diffusers (recorded)."""

import http.server
import json
import os
import socket
import threading
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.model_files import saving
from osed_jax.diffusion.sampler import Sampler
from osed_jax.diffusion.tokenizer import Tokenizer
from osed_jax.errors import UserError
from tests.conftest import ROOT
from tests.oracles import make_stable_diffusion_oracle as oracle

MANIFEST, TODAY = oracle.manifest(), "stable_diffusion_today"
V14 = Path(
    os.environ.get(
        "STABLE_DIFFUSION_CONFIGS",
        ROOT.parent / "shared" / "data" / "stable_diffusion_v1_4_configs",
    )
)
SCHEDULER = "scheduler/scheduler_config.json"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module", params=list(oracle.MODELS))
def case(request, tmp_path_factory):
    """A model's name, its folder, the loaded model and PyTorch's outputs."""
    name = request.param
    folder = tmp_path_factory.mktemp(name) / "model"
    digest = oracle.write_model(folder, oracle.MODELS[name], MANIFEST["shapes"][name])
    assert digest == MANIFEST["sha256"][name], "not the weights that PyTorch ran with"
    with np.load(oracle.DATA / "stable_diffusion.npz") as file:
        recorded = {k.removeprefix(f"{name}/"): file[k] for k in file.files if k.startswith(name)}
    return name, folder, stable_diffusion.load(str(folder)), recorded


@pytest.fixture
def folder(tmp_path):
    oracle.write_model(tmp_path / "m", oracle.MODELS["epsilon"], MANIFEST["shapes"]["epsilon"])
    return tmp_path / "m"


def last(channels_first):
    return np.moveaxis(channels_first, 1, -1)


def test_every_part_agrees_with_pytorch(case):
    _, _, model, recorded = case
    tokens = model.tokenize(oracle.PROMPTS)
    np.testing.assert_array_equal(tokens, recorded["tokens"])
    text = jax.jit(model.encode_text)(model.params["text_encoder"], tokens)
    np.testing.assert_allclose(text, recorded["text"], atol=1e-5)
    latents = last(oracle.noise((2, 4, 8, 8), 0))
    output = jax.jit(model.denoise)(model.params["unet"], latents, jnp.array([7, 801]), text)
    np.testing.assert_allclose(output, last(recorded["unet"]), atol=1e-4)
    scale = model.configs["vae"].get("scaling_factor", 0.18215)
    image = jax.jit(model.decode_image)(model.params["vae"], latents * scale)
    decoded = np.clip(last(recorded["decoded"]) / 2 + 0.5, 0, 1)
    np.testing.assert_allclose(image, decoded, atol=1e-5)
    image = last(oracle.noise((2, 3, 16, 16), 1).clip(-1, 1)) / 2 + 0.5
    encoded = jax.jit(model.encode_image)(model.params["vae"], image)
    np.testing.assert_allclose(encoded / scale, last(recorded["encoded"]), atol=1e-5)


def test_drawn_latents_vary_and_mean_latents_do_not(case):
    _, _, model, _ = case
    image = jnp.full((1, 16, 16, 3), 0.5)
    encode = jax.jit(model.encode_image)
    params = model.params["vae"]
    draws = [encode(params, image, last(oracle.noise((1, 4, 8, 8), seed))) for seed in (0, 1)]
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    np.testing.assert_array_equal(encode(params, image), encode(params, image))


def test_saved_model_loads_as_it_was(case, tmp_path):
    _, _, model, _ = case
    saving.save(model, str(tmp_path / "again"))
    again = stable_diffusion.load(str(tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.configs == model.configs
    np.testing.assert_array_equal(again.tokenize(["a sea lion"]), model.tokenize(["a sea lion"]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again"], "a temporary folder was left"
    with pytest.raises(UserError, match="exists already"):
        saving.save(model, str(tmp_path / "again"))


def test_a_saved_model_that_has_changed_is_refused(case, tmp_path):
    _, _, model, _ = case
    saving.save(model, str(tmp_path / "kept"))
    for name in ("unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        path = tmp_path / "kept" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{path.name} has changed since .*make the generator"):
            stable_diffusion.load(str(tmp_path / "kept"))
        path.write_bytes(whole)


def test_parameters_and_computation_have_their_own_types(folder):
    model = stable_diffusion.load(str(folder), dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {np.dtype(jnp.float32)}
    assert model.unet.dtype == jnp.bfloat16
    model = stable_diffusion.load(str(folder), dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {np.dtype(jnp.bfloat16)}


def test_random_weights_follow_the_seed(folder):
    for part in stable_diffusion.PARTS:
        (folder / part / oracle.WEIGHTS[part]).unlink()
    first, same, other = (stable_diffusion.init_random(str(folder), seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first.params, same.params)
    kernel = lambda model: model.params["unet"]["conv_in"]["kernel"]  # noqa: E731
    assert np.abs(kernel(first) - kernel(other)).max() > 0.01
    with pytest.raises(UserError, match="no weights found"):
        stable_diffusion.load(str(folder))


def test_equal_models_are_traced_once(folder):
    first, again = (stable_diffusion.parameter_shapes(str(folder)) for _ in range(2))
    assert all(a is b for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    other = stable_diffusion.parameter_shapes(str(folder))
    assert len(jax.tree.leaves(other["unet"])) > len(jax.tree.leaves(first["unet"]))


def test_published_parameter_counts():
    if not V14.is_dir():
        pytest.skip(f"the configurations of Stable Diffusion v1.4 are not at {V14}")
    shapes = stable_diffusion.parameter_shapes(str(V14))
    count = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in shapes.items()}
    assert count == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"norm_num_groups": 16}, "norm_num_groups=16; only 32 is supported"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor=0.1; only None"),
        ("unet/config.json", {"in_channels": 9}, "m is an inpainting model: its UNet takes 9"),
        ("unet/config.json", {"in_channels": 8}, "InstructPix2Pix, which edits images"),
        ("unet/config.json", {"in_channels": 5}, "depth-to-image"),
        ("unet/config.json", {"in_channels": 7}, "an upscaler"),
        ("unet/config.json", {"out_channels": 8}, "its UNet makes 8 channels, its latents have 4"),
        ("unet/config.json", {"block_out_channels": [64, 64]}, "has shape"),
        ("unet/config.json", {"cross_attention_dim": 48}, "gives 24 numbers a token.*takes 48"),
        ("text_encoder/config.json", {"model_type": "bert"}, "reads prompts by bert, not by CLIP"),
        ("vae/config.json", {"latent_channels": 16}, "takes 4 channels, its latents have 16"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is of FlowMatchEuler"),
        (
            SCHEDULER,
            {"_class_name": "EDMEulerScheduler"},
            "is of EDMEulerScheduler, which uses another noise",
        ),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256; only None"),
        (SCHEDULER, {"timestep_type": "continuous"}, "timestep_type='continuous'; only 'discrete'"),
        (SCHEDULER, {"final_sigmas_type": "sigma_min"}, "final_sigmas_type='sigma_min'; only"),
        ("unet/config.json", None, "config.json is missing"),
        ("tokenizer/vocab.json", None, "vocab.json is missing, and so is tokenizer.json"),
        ("text_encoder/config.json", {"vocab_size": 50}, "has 54 tokens, its text encoder 50"),
    ],
)
def test_folders_that_do_not_fit_are_explained(folder, file, change, message):
    if change is None:
        (folder / file).unlink()
    else:
        config = json.loads((folder / file).read_text()) | change
        (folder / file).write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        stable_diffusion.load(str(folder))


@pytest.mark.parametrize(
    ("pipeline", "what"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("PixArtAlphaPipeline", "PixArt"),
        ("StableDiffusionInpaintPipeline", "an inpainting model"),
        ("StableDiffusionDepth2ImgPipeline", "a depth-to-image model"),
        ("StableDiffusionUpscalePipeline", "an upscaler"),
        ("StableUnCLIPPipeline", "an unCLIP model"),
        ("LDMTextToImagePipeline", "a latent diffusion model with a BERT encoder"),
        ("WanPipeline", "another kind of model"),
    ],
)
def test_other_pipelines_are_refused_by_name_before_weights_are_downloaded(
    hub, folder, pipeline, what
):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    for model in (str(folder), "tiny/model"):
        with pytest.raises(UserError, match=rf"{model} is {what} \({pipeline} in model_index"):
            stable_diffusion.load(model)
    assert not [name for name in hub.served if name.endswith(".safetensors")]


def test_settings_that_pytorchs_pipeline_puts_right_are_put_right(folder):
    file = folder / SCHEDULER
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clip_sample": True}))
    (file).write_text(file.read_text().replace('"steps_offset": 1', '"steps_offset": 0'))
    schedule = stable_diffusion.load(str(folder)).schedule
    assert schedule.config["steps_offset"] == 1 and schedule.config["clip_sample"] is False


def test_broken_json_and_a_revision_of_a_folder_are_explained(folder):
    with pytest.raises(UserError, match="revision='v2' with the local folder"):
        stable_diffusion.load(str(folder), "v2")
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        stable_diffusion.load(str(folder))


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one model `tiny/model`, a gated one, and the real one's error codes."""

    folder: Path
    served: list[str]

    def do_GET(self):  # noqa: D102
        error = {
            "/api/models/tiny/gated/revision/main": (403, "GatedRepo"),
            "/api/models/tiny/none/revision/main": (404, "RepoNotFound"),
            "/api/models/tiny/model/revision/v9": (404, "RevisionNotFound"),
            "/api/models/tiny/ill/revision/main": (500, ""),
        }.get(self.path)
        if error:
            return self._answer(error[0], b"", {"X-Error-Code": error[1]})
        if self.path.startswith("/api"):
            files = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()]
            siblings = [{"rfilename": name} for name in files]
            body = {"id": "tiny/model", "sha": COMMIT, "siblings": siblings}
            return self._answer(200, json.dumps(body).encode(), {})
        name = self.path.removeprefix(f"/tiny/model/resolve/{COMMIT}/")
        self.served.append(name)
        headers = {"ETag": f'"{hash(name)}"', "X-Repo-Commit": COMMIT}
        return self._answer(200, (self.folder / name).read_bytes(), headers)

    do_HEAD = do_GET

    def _answer(self, status, body, headers):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):  # noqa: D102
        pass


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """Points huggingface_hub, whose own code runs throughout, at a local server."""
    handler = type("Handler", (Hub,), {"folder": folder, "served": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = huggingface_hub.constants
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler
    huggingface_hub.utils.reset_sessions()
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub_is_fetched_without_what_is_not_needed(hub, folder):
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not wanted")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"not wanted")
    model = stable_diffusion.load("tiny/model")
    assert model.revision == COMMIT
    local = stable_diffusion.load(str(folder))
    jax.tree.map(np.testing.assert_array_equal, model.params, local.params)
    assert not [name for name in hub.served if "fp16" in name or "safety" in name]


def in_parts(file, number, ending=""):
    """Splits a weight file into as many parts, as `save_pretrained` names them."""
    weights = load_file(file)
    for i in range(number):
        names = sorted(weights)[i::number]
        part = file.with_name(f"{file.stem}{ending}-{i + 1:05}-of-{number:05}.safetensors")
        save_file({name: weights[name] for name in names}, part)
    file.unlink()


def test_parts_and_half_precision_are_read_from_folder_and_hub(hub, folder):
    whole = stable_diffusion.load(str(folder)).params
    in_parts(folder / "unet/diffusion_pytorch_model.safetensors", 3, ".fp16")
    (folder / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").write_text("{}")
    (folder / "unet/pytorch_lora_weights.safetensors").write_bytes(b"beside it")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"beside it")
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    vae.rename(vae.with_name("diffusion_pytorch_model.fp16.safetensors"))
    for model in (str(folder), "tiny/model"):
        params = stable_diffusion.load(model).params
        jax.tree.map(np.testing.assert_array_equal, params, whole)
    assert not [name for name in hub.served if "lora" in name or name.endswith(".bin")]
    (folder / "unet/diffusion_pytorch_model.fp16-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="of the 3 parts of the weights, 2 is missing"):
        stable_diffusion.load(str(folder))


def test_broken_json_of_the_hub_is_explained_before_weights_are_downloaded(hub, folder):
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        stable_diffusion.load("tiny/model")
    assert not [name for name in hub.served if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("tiny/gated", "", "is gated.*Accept them"),
        ("tiny/none", "", "no such model on the hub"),
        ("tiny/model", "v9", "revision='v9': tiny/model has no such branch"),
        ("tiny/ill", "", "the hub cannot be reached"),
        ("no/such/folder", "", "not a model id"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub, model, revision, message):
    with pytest.raises(UserError, match=message):
        stable_diffusion.load(model, revision)


def test_no_network_is_explained_and_a_downloaded_model_still_loads(hub, monkeypatch):
    stable_diffusion.load("tiny/model")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
        assert stable_diffusion.load("tiny/model").revision == COMMIT
        with pytest.raises(UserError, match="the hub cannot be reached"):
            stable_diffusion.load("tiny/other")


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    """A model of four levels as today's diffusers saves it: its folder, loaded, and recorded."""
    folder, told = tmp_path_factory.mktemp("today") / "model", oracle.manifest(TODAY)
    digest = oracle.write_model(folder, oracle.TODAY, told["shapes"], told["tokenizer"])
    assert digest == told["sha256"], "not the weights that PyTorch ran with"
    with np.load(oracle.DATA / f"{TODAY}.npz") as file:
        return folder, stable_diffusion.load(str(folder)), dict(file)


def sampler_of(model, scheduler):
    return Sampler(
        model,
        devices=jax.devices()[:1],
        batch_size=2,
        image_size=16,
        size=16,
        steps=oracle.STEPS,
        scheduler=scheduler,
        guidance_scale=oracle.GUIDANCE,
    )


def test_a_model_of_four_levels_saved_by_todays_diffusers_agrees_with_pytorch(today):
    _, model, recorded = today
    tokens = model.tokenize(oracle.PROMPTS)
    np.testing.assert_array_equal(tokens, recorded["tokens"])
    text = jax.jit(model.encode_text)(model.params["text_encoder"], tokens)
    np.testing.assert_allclose(text, recorded["text"], atol=1e-5)
    latents = last(oracle.noise((2, 4, 8, 8), 0))
    final, _ = sampler_of(model, "ddim").from_noise(latents, oracle.PROMPTS, oracle.NEGATIVE)
    expected = last(recorded[f"ddim/{oracle.GUIDANCE:g}/latents"])
    np.testing.assert_allclose(final, expected, atol=1e-4)  # 5e-3 without `exact`


def test_images_from_real_ones_agree_with_the_pytorch_pipeline(today):
    """With random weights latents grow up to 33 at strength 1, so they are compared by size."""
    with np.load(oracle.DATA / "stable_diffusion_from_image.npz") as file:
        recorded = {key: last(file[key]) for key in file.files}
    for scheduler in oracle.SCHEDULERS:
        sampler = sampler_of(today[1], scheduler)
        real = sampler.encode(oracle.real_images(), recorded["posterior_noise"])
        np.testing.assert_allclose(real, recorded["encoded"], atol=1e-5)
        for strength in oracle.STRENGTHS:
            final, _ = sampler.from_image(
                real, [strength] * 2, recorded["noise"], oracle.PROMPTS, oracle.NEGATIVE
            )
            expected = recorded[f"{scheduler}/{strength:g}"]
            difference = np.abs(final - expected).max()
            assert difference < 2e-5 * np.abs(expected).max(), (scheduler, strength)
            assert difference < 1e-4 or strength == 1, (scheduler, strength)


def test_prompts_in_any_script_are_read_as_today(today, tmp_path):
    _, model, recorded = today
    np.testing.assert_array_equal(model.tokenize(oracle.ODD_PROMPTS), recorded["odd_tokens"])
    for name, text in oracle.bpe_files().items():
        (tmp_path / name).write_text(text)
    older = Tokenizer(tmp_path, 99)
    assert older.max_length == oracle.MAX_TOKENS
    np.testing.assert_array_equal(older(oracle.ODD_PROMPTS), recorded["odd_tokens"])


def test_a_tokenizer_without_a_config_is_as_long_as_the_text_encoder(today, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((today[0] / "tokenizer/tokenizer.json").read_bytes())
    assert Tokenizer(tmp_path, 32).max_length == 32
