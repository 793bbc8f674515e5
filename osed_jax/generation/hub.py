"""Fetching a Stable Diffusion model from the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from osed_jax.errors import UserError

# Names, not patterns over suffixes: model repositories hold the same weights several times.
_FILES = (
    "model_index.json",
    "tokenizer/*",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_flax_model.msgpack",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_flax_model.msgpack",
    "vae/diffusion_pytorch_model.safetensors",
)

_SAFETY_CHECKER_FILES = (
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/flax_model.msgpack",
    "safety_checker/model.safetensors",
)


def locate(model: str, revision: str, *, safety_checker: bool = False) -> tuple[Path, str]:
    """Find a model's folder, downloading what is not here yet.

    Args:
        model: A local folder, or the id of a model on the hub (`owner/name`).
        revision: Branch, tag or commit on the hub; empty for its main branch.
        safety_checker: Whether that is wanted, too; it is larger than the text encoder.

    Returns:
        The folder, and the commit it holds (empty for a local folder).

    Raises:
        UserError: The model cannot be had; the message says which of the many reasons it is.
    """
    if Path(model).is_dir():
        if revision:
            raise UserError(f"revision={revision!r} with the local folder {model}; leave it empty.")
        return Path(model), ""
    wanted = [*_FILES, *(_SAFETY_CHECKER_FILES if safety_checker else ())]
    try:
        folder = Path(snapshot_download(model, revision=revision or None, allow_patterns=wanted))
        return folder, folder.name
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(_hub_problem(model, revision, error)) from error


def _hub_problem(model: str, revision: str, error: Exception) -> str:
    allowed = "a local folder in diffusers' layout, or the id of a model on the Hugging Face hub"
    if isinstance(error, HFValidationError):
        return f"model={model!r}: no such folder, and not a model id. Give {allowed}."
    if isinstance(error, GatedRepoError):
        return (
            f"model={model!r} is gated: its owner wants its terms accepted. Accept them on the "
            "model's page, log in with `hf auth login`, and start again."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"revision={revision!r}: {model} has no such branch, tag or commit. Look on the "
            "model's page under Files, or leave the revision empty for the main branch."
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model={model!r}: no such folder, and no such model on the hub (or a private one). "
            f"Give {allowed}; for a private one log in with `hf auth login`."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return (
            f"model={model!r}: no such folder, not downloaded before, and the hub cannot be "
            "reached. Check the network, or give a local folder in diffusers' layout."
        )
    return f"model={model!r}: the download failed ({error}). Try again, or give a local folder."
