"""New words of prompts, by textual inversion (Gal et al. 2022): vectors beside the tokens'.

A file holds one or several words, each with one or several vectors.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from osed_jax.diffusion.clip import TextConfig, TextTower
from osed_jax.diffusion.model_files.weights import read_addition
from osed_jax.diffusion.stable_diffusion import StableDiffusion
from osed_jax.errors import UserError

_NAMELESS = "emb_params"  # in files of AUTOMATIC1111's web UI the word is the file's name


def with_words(model: StableDiffusion, file: str) -> StableDiffusion:
    """The model that also knows the words of a textual-inversion file.

    Args:
        model: Stable Diffusion 1.x or 2.x.
        file: `.safetensors`: word -> vector `[D]` or vectors `[n, D]`.

    Raises:
        UserError: The file cannot be read, is of another model, or has a word that there is.
    """
    tokenizer, params = model.tokenizer, dict(model.params["text_encoder"]["text_model"])
    embeddings = params["embeddings"]
    table = embeddings["token_embedding"]["embedding"]
    rows = [table[: tokenizer.size]]
    for word, vectors in _read(Path(file), table.shape[1]).items():
        try:
            tokenizer = tokenizer.with_word(word, len(vectors))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        rows.append(jnp.asarray(vectors, table.dtype))
    table = jnp.concatenate(rows)
    embeddings = {**embeddings, "token_embedding": {"embedding": table}}
    params = {"text_model": {**params, "embeddings": embeddings}}
    config = {**model.configs["text_encoder"], "vocab_size": len(table)}
    return dataclasses.replace(
        model,
        configs={**model.configs, "text_encoder": config},
        tokenizer=tokenizer,
        text_encoder=TextTower(TextConfig.from_json(config), model.text_encoder.dtype),
        params={**model.params, "text_encoder": params},
    )


def _read(file: Path, width: int) -> dict[str, np.ndarray]:
    """Vectors `[n, D]` by word."""
    tensors, _ = read_addition(file, "textual-inversion")
    for name, value in tensors.items():
        if value.ndim not in (1, 2) or value.shape[-1] != width or not value.size:
            raise UserError(
                f"{file}: {name} is of {value.shape}; the model's tokens have {width} numbers. "
                "Take a textual inversion that was made for this kind of model."
            )
    return {
        file.stem if name == _NAMELESS else name: np.atleast_2d(value)
        for name, value in tensors.items()
    }
