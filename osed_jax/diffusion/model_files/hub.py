"""Fetching a Stable Diffusion model from the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from osed_jax.diffusion.model_files.layout import CONFIGS, INDEX, PARTS, read_configs, weight_files
from osed_jax.errors import UserError

_FILES = (INDEX, "tokenizer/*", *CONFIGS.values())  # all but the weights
_SAFETY_CHECKER_FILES = ("feature_extractor/preprocessor_config.json", "safety_checker/config.json")


def locate(model: str, revision: str, *, safety_checker: bool = False) -> tuple[Path, str]:
    """Find a model's folder, downloading what is not here yet: of each part one file of weights.

    Args:
        model: A local folder, or the id of a model on the hub (`owner/name`).
        revision: Branch, tag or commit on the hub; empty for its main branch.
        safety_checker: Whether that is wanted, too; it is larger than the text encoder.

    Returns:
        The folder, and the commit it holds (empty for a local folder).

    Raises:
        UserError: The model cannot be had, or is of another kind; the message says which of the
            many reasons it is.
    """
    if Path(model).is_dir():
        if revision:
            raise UserError(f"revision={revision!r} with the local folder {model}; leave it empty.")
        return Path(model), ""
    if Path(model).is_file():
        raise UserError(
            f"{model} is a single file, which has no safety checker; set "
            "config.generation.safety_checker to False."
        )
    more = _SAFETY_CHECKER_FILES if safety_checker else ()
    parts = (*PARTS, "safety_checker") if safety_checker else PARTS
    try:
        folder = _fetch(model, revision or None, [*_FILES, *more])
        read_configs(model, folder)  # refuses other models before their weights are downloaded
        return _fetch_weights(model, folder, parts), folder.name
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(_hub_problem(model, revision, error)) from error


def locate_tokenizer(model: str, file: Path) -> Path:
    """The folder of the tokenizer of a model on the hub.

    Args:
        model: Its id.
        file: Which has none, for messages.

    Raises:
        UserError: It cannot be had.
    """
    try:
        return _fetch(model, None, ["tokenizer/*"]) / "tokenizer"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{file} has no tokenizer, and that of {model} could not be downloaded ({error}). Put "
            f"the folder tokenizer of such a model at {file.parent / 'tokenizer'}."
        ) from error


def locate_part(part: str) -> Path:
    """The folder of one part of a model, with its config and one file of weights.

    Args:
        part: A local folder, or the id of a part on the hub (`owner/name`).

    Raises:
        UserError: It cannot be had.
    """
    if Path(part).is_dir():
        return Path(part)
    try:
        return _fetch(part, None, ["config.json", "diffusion_pytorch_model.safetensors"])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(_hub_problem(part, "", error)) from error


def _fetch(model: str, revision: str | None, names: list[str]) -> Path:
    return Path(snapshot_download(model, revision=revision, allow_patterns=names))


def _fetch_weights(model: str, folder: Path, parts: tuple[str, ...]) -> Path:
    """Downloads the weights of this commit, unless the hub is out of reach and they are here."""
    try:
        siblings = HfApi().model_info(model, revision=folder.name).siblings or []
    except (HfHubHTTPError, OSError):
        for part in parts:
            weight_files([path.name for path in (folder / part).glob("*")], f"{folder / part}")
        return folder
    files, wanted = [entry.rfilename for entry in siblings], []
    for part in parts:
        names = [name.removeprefix(f"{part}/") for name in files if name.startswith(f"{part}/")]
        if names or part in PARTS:
            chosen = weight_files([n for n in names if "/" not in n], f"{model}/{part}")
            wanted += [f"{part}/{name}" for name in chosen]
    return _fetch(model, folder.name, wanted)


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
