"""The tiny decoder, against PyTorch's AutoencoderTiny (recorded)."""

import json

import jax
import numpy as np
import pytest

from osed_jax.diffusion import stable_diffusion
from osed_jax.diffusion.sampler import Sampler
from osed_jax.diffusion.tiny_decoder import with_tiny_decoder
from osed_jax.errors import UserError
from tests.oracles import make_formats_oracle as formats
from tests.oracles import make_stable_diffusion_oracle as oracle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    formats.write_model(folder)
    return stable_diffusion.load(str(folder))


def test_latents_are_decoded_as_in_pytorch(model, tmp_path):
    tiny = with_tiny_decoder(model, str(formats.write_tiny(tmp_path / "tiny")))
    latents = np.moveaxis(oracle.noise((2, 4, 8, 8), 0), 1, -1)
    image = jax.jit(tiny.decode_image)(tiny.params[tiny.decoder_part], latents)
    with np.load(formats.FILE) as recorded:
        expected = np.moveaxis(recorded["tiny/decoded"], 1, -1)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_the_sampler_decodes_by_it(model, tmp_path):
    tiny = with_tiny_decoder(model, str(formats.write_tiny(tmp_path / "tiny")))
    settings = {"batch_size": 1, "image_size": 16, "size": 16, "steps": 1, "guidance_scale": 1.0}
    sampler = Sampler(tiny, devices=jax.devices()[:1], scheduler="ddim", **settings)
    latents, made = sampler.from_noise(sampler.noise(0, [0], [0]), ["a car"])
    image = tiny.decode_image(tiny.params["tiny_decoder"], latents)
    np.testing.assert_allclose(made.image, np.round(255 * image), atol=1)
    assert np.ptp(made.image) > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, r"is AutoencoderKL; a decoder is an AutoencoderTiny"),
        ({"latent_channels": 16}, "decodes latents of 16 channels on 2 levels; the model's have 4"),
        ({"act_fn": "silu"}, "act_fn='silu'; only 'relu'"),
        ({"num_decoder_blocks": [1, 1]}, "is missing|surplus"),
    ],
)
def test_other_decoders_are_refused(model, tmp_path, change, message):
    folder = formats.write_tiny(tmp_path / "tiny")
    (folder / "config.json").write_text(json.dumps({**formats.TINY, **change}))
    with pytest.raises(UserError, match=message):
        with_tiny_decoder(model, str(folder))
