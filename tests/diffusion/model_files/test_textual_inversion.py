"""Words of textual inversion, against PyTorch's diffusers (recorded)."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.model_files.textual_inversion import with_words
from osed_jax.diffusion.sampler import Sampler
from osed_jax.errors import UserError
from osed_jax.generation.add_ons import check_words
from tests.oracles import make_formats_oracle as formats
from tests.oracles import make_stable_diffusion_oracle as oracle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    formats.write_model(folder)
    return stable_diffusion.load(str(folder))


def test_prompts_with_a_word_of_three_vectors_sample_as_in_pytorch(model, tmp_path):
    file = formats.write_words(tmp_path / "word.safetensors")
    settings = {"batch_size": 2, "image_size": 16, "size": 16, "steps": formats.STEPS}
    settings |= {"scheduler": "ddim", "guidance_scale": oracle.GUIDANCE}
    sampler = Sampler(with_words(model, str(file)), devices=jax.devices()[:1], **settings)
    noise = np.moveaxis(oracle.noise((2, 4, 8, 8), 0), 1, -1)
    latents, _ = sampler.from_noise(noise, formats.WORD_PROMPTS, oracle.NEGATIVE)
    with np.load(formats.FILE) as recorded:
        expected = np.moveaxis(recorded["words/latents"], 1, -1)
    np.testing.assert_allclose(latents, expected, atol=1e-4, rtol=1e-5)


def test_words_get_the_next_tokens_and_their_vectors(model, tmp_path):
    vectors = {"emb_params": oracle.noise((24,), 0), "<b>": oracle.noise((2, 24), 1)}
    save_file(vectors, tmp_path / "style.safetensors")
    known = with_words(model, str(tmp_path / "style.safetensors"))
    first = model.tokenizer.size
    assert set(known.tokenizer.words) == {"style", "<b>"} and model.tokenizer.words == ()
    embeddings = known.params["text_encoder"]["text_model"]["embeddings"]
    table = np.asarray(embeddings["token_embedding"]["embedding"])
    assert len(table) == first + 3
    for word, values in (("style", vectors["emb_params"][None]), ("<B>", vectors["<b>"])):
        tokens = known.tokenize([f"a {word}"])[0]
        np.testing.assert_array_equal(table[tokens[tokens >= first]], values)
    plain = ["a sea car", "<c>", ""]
    np.testing.assert_array_equal(known.tokenize(plain), model.tokenize(plain))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"car</w>": (24,)}, r"'car</w>' is a token of the model already"),
        ({"<a>": (32,)}, r"<a> is of \(32,\); the model's tokens have 24 numbers"),
        ({"clip_l": (2, 24), "clip_g": (2, 40)}, r"clip_g is of \(2, 40\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(model, tmp_path, tensors, message):
    file = tmp_path / "x.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, file)
    with pytest.raises(UserError, match=message):
        with_words(model, str(file))


def test_unreadable_files_and_unused_words_are_refused(model, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x")
    for name, message in (("x.safetensors", "not a readable textual-inv"), ("x.pt", "Pickles")):
        with pytest.raises(UserError, match=message):
            with_words(model, str(tmp_path / name))
    check_words((), ["a car"])
    check_words(("<Sea>",), ["a car", "a <sea> lion"])
    with pytest.raises(UserError, match="gives '<Sea>', which is in no prompt"):
        check_words(("<Sea>",), ["a car", ""])
