"""Tensors by name, from files that others saved: safetensors, and PyTorch's (`torch_files`)."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.errors import UserError
from osed_jax.files import torch_files

SUFFIXES = (".safetensors", *torch_files.SUFFIXES)

_TORCH_STARTS = (b"PK\x03\x04", b"\x80")  # of a zip archive, of a pickle
_POINTER = b"version https://git-lfs.github.com/"
# Where a checkpoint of PyTorch has its weights beside other things; the first that it has.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "string_to_param")


@dataclasses.dataclass(frozen=True)
class Tensors:
    """An opened file.

    Attributes:
      names: of its tensors.
      shape: of a tensor, by its name.
      read: a tensor, by its name; raises UserError if NumPy cannot hold it.
      metadata: texts beside the tensors; PyTorch's files have none.
    """

    names: list[str]
    shape: Callable[[str], tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    metadata: Mapping[str, str]


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Tensors]:
    """The tensors of a file, whose kind its content tells. Each is read when it is asked for.

    Raises:
      UserError: there is no such file, it is damaged, or of another kind.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    with file.open("rb") as stream:
        start = stream.read(len(_POINTER))
    if start == _POINTER:
        raise UserError(f"{file} only points to the file (Git LFS); download it: git lfs pull")
    safe = start[8:9] == b"{"  # behind the length of its header
    if not safe and (start.startswith(_TORCH_STARTS) or file.suffix in torch_files.SUFFIXES):
        arrays = _arrays(torch_files.read(file), file)
        yield Tensors(list(arrays), lambda name: arrays[name].shape, arrays.__getitem__, {})
    else:
        with _opened_safetensors(file) as tensors:
            yield tensors


@contextlib.contextmanager
def _opened_safetensors(file: Path) -> Iterator[Tensors]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise UserError(
            f"{file} needs the package {error.name}; install the project with its extra generation"
        ) from error

    def unreadable(error: Exception) -> UserError:
        return UserError(
            f"{file}: not a readable safetensors file ({error}); download or save it again"
        )

    def read(name: str) -> np.ndarray:
        if (kind := content.get_slice(name).get_dtype()).startswith("F8"):
            raise UserError(f"{file}: weights of 8 bits ({kind}) are not read; take float16")
        try:
            return content.get_tensor(name)
        except (SafetensorError, TypeError) as error:  # TypeError: a dtype that NumPy lacks
            raise unreadable(error) from error

    with contextlib.ExitStack() as stack:
        try:
            content = stack.enter_context(safe_open(file, framework="numpy"))
        except (SafetensorError, OSError) as error:
            raise unreadable(error) from error
        shape = lambda name: tuple(content.get_slice(name).get_shape())  # noqa: E731
        yield Tensors(list(content.keys()), shape, read, content.metadata() or {})


def _arrays(content: Any, file: Path) -> dict[str, np.ndarray]:
    """The arrays with a name, in what PyTorch saved: its weights, or these beside other things."""
    top = content if isinstance(content, dict) else {}
    for place in (*(top[name] for name in _PLACES if name in top), top):
        if not isinstance(place, dict):
            continue
        arrays = {
            name: value
            for name, value in place.items()
            if isinstance(name, str) and isinstance(value, np.ndarray)
        }
        if arrays:
            return arrays
    raise UserError(
        f"{file} has no tensors by name, neither at its top nor under {', '.join(_PLACES)}; save "
        "them where PyTorch is installed: torch.save(model.state_dict(), 'weights.pth')"
    )
