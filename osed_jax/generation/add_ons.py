"""What a config adds to a generator: a LoRA file, new words, another decoder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from osed_jax.config.fields_of_generation import Generation
from osed_jax.diffusion.model_files.hub import locate_part
from osed_jax.diffusion.model_files.layout import weight_paths
from osed_jax.diffusion.model_files.lora_files import with_lora
from osed_jax.diffusion.model_files.textual_inversion import with_words
from osed_jax.diffusion.stable_diffusion import StableDiffusion
from osed_jax.diffusion.tiny_decoder import with_tiny_decoder
from osed_jax.errors import UserError
from osed_jax.files.digests import file_sha256, files_sha256

ADDITIONS = ("lora", "lora_scale", "embeddings", "decoder")


def with_additions(model: StableDiffusion, generation: Generation) -> StableDiffusion:
    """The model with everything that `config.generation` adds to it.

    Raises:
      UserError: a file cannot be read, or does not fit the model.
    """
    if generation.lora:
        model = with_lora(model, generation.lora, generation.lora_scale)
    if generation.embeddings:
        model = with_words(model, generation.embeddings)
    if generation.decoder:
        model = with_tiny_decoder(model, generation.decoder)
    return model


def additions(generation: Generation) -> dict[str, Any]:
    """What names the additions in a store: files by their digest; a field for each that is used."""
    added: dict[str, Any] = {}
    if generation.lora:
        digest = file_sha256(Path(generation.lora))
        added |= {"lora": f"sha256:{digest}", "lora_scale": generation.lora_scale}
    if generation.embeddings:
        added["embeddings"] = f"sha256:{file_sha256(Path(generation.embeddings))}"
    if generation.decoder:
        folder = locate_part(generation.decoder)
        files = [folder / "config.json", *weight_paths(folder)]
        added["decoder"] = f"sha256:{files_sha256(folder, files)}"
    return added


def check_words(words: Sequence[str], texts: Iterable[str]) -> None:
    """Refuses words of `config.generation.embeddings` that have no effect.

    Raises:
      UserError: none of them stands in a prompt.
    """
    everything = "\n".join(texts).lower()
    if words and not any(word.lower() in everything for word in words):
        raise UserError(
            f"config.generation.embeddings gives {', '.join(map(repr, words))}, which is in no "
            "prompt; use it in config.generation.templates, modifiers, prompts_file or "
            "negative_prompt"
        )
