"""Starting from weights that others trained, in safetensors with torchvision's or timm's names."""

import re
from pathlib import Path

import numpy as np
from flax import traverse_util

from osed_jax.errors import UserError
from osed_jax.models.layers import HEAD
from osed_jax.runtime.console import say
from osed_jax.training.state import TrainState

_HUB_FILE = "model.safetensors"  # what timm's models on the hub have
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HEAD = "fc"
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_COUNTER = ".num_batches_tracked"  # of PyTorch's batch norm; nothing here needs it


def locate(weights: str) -> Path:
    """The file of `init.weights`: itself, or that of a hub id, downloaded where it is not here.

    Raises:
      UserError: if there is no such file and it cannot be had from the hub.
    """
    try:  # of the extra `generation`, so not at the top
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        raise UserError(
            f"config.init.weights needs the package {error.name}; install the project with its "
            f"extra generation, or leave init.weights empty"
        ) from error
    file = Path(weights)
    if file.is_file():
        return file
    if file.suffix == ".safetensors" or not _HUB_ID.fullmatch(weights):
        raise UserError(
            f"config.init.weights is {weights!r}, and there is no such file; give a .safetensors "
            f"file, or the id of a model on the Hugging Face hub (owner/name)"
        )
    try:
        return Path(hf_hub_download(weights, _HUB_FILE))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"config.init.weights is {weights!r}: no such file, and {_HUB_FILE} cannot be had from "
            f"the hub ({' '.join(str(error).split())}); check the id and the network, or give a "
            f".safetensors file"
        ) from error


def with_weights(state: TrainState, file: Path) -> TrainState:
    """The state with parameters and running statistics of a file, as NumPy arrays.

    The last layer is that of `state` where the file has another number of classes or none, which
    is said.

    Raises:
      UserError: naming every tensor that is missing, of another shape or not of this net.
    """
    expected = traverse_util.flatten_dict(
        {"params": state.params, "batch_stats": state.batch_stats}
    )
    found = _read(file)
    head, own = found.get(f"{_HEAD}.bias"), state.params[HEAD].get("bias")
    if head is None or own is None or head.shape != own.shape:
        count = "no last layer" if head is None else f"{len(head):,} classes"
        say(f"note: {file} has {count}; the last layer begins anew")
        found = {name: v for name, v in found.items() if not name.startswith(f"{_HEAD}.")}
        expected = {path: v for path, v in expected.items() if path[1] != HEAD}
    values = {path: _turned(found[n]) for path in expected if (n := torch_name(path)) in found}
    _check(file, expected, values, found)
    kept = traverse_util.unflatten_dict(values)
    return state.replace(params={**state.params, **kept["params"]}, batch_stats=kept["batch_stats"])


def torch_name(path: tuple[str, ...]) -> str:
    """PyTorch's name: `("params", "layer1_0", "conv1", "kernel")` is `layer1.0.conv1.weight`."""
    _, *modules, leaf = path
    modules = [_HEAD if m == HEAD else m.replace("_", ".") for m in modules]
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _read(file: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            names = [
                name
                for name in tensors.keys()  # noqa: SIM118 - no mapping
                if not name.endswith(_COUNTER)
            ]
            return {name: tensors.get_tensor(name).astype(np.float32) for name in names}
    except (SafetensorError, TypeError, OSError) as error:
        raise UserError(
            f"{file} is no readable safetensors file ({error}); download or save it again"
        ) from error


def _turned(value: np.ndarray) -> np.ndarray:
    """Kernels are [out, in, height, width] or [out, in] in PyTorch, the other way here."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _check(file: Path, expected: dict, values: dict, found: dict) -> None:
    missing = [torch_name(path) for path in expected if path not in values]
    surplus = sorted(found.keys() - {torch_name(path) for path in expected})
    misshapen = [
        f"{torch_name(path)} {found[torch_name(path)].shape}"
        for path, value in values.items()
        if value.shape != expected[path].shape
    ]
    problems = [
        f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for what, names in (
            ("without", missing),
            ("with tensors of another shape:", misshapen),
            ("with tensors that the net does not have:", surplus),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"the weights in {file} do not fit the net: {'; '.join(problems)}; give weights of the "
            f"net that config.model.name names"
        )
