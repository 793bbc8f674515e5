"""Weights of a diffusers folder to Flax parameters and back, without PyTorch.

Both directions walk over the tree of parameters that the Flax module expects, so that a missing,
surplus or misshapen weight cannot pass. Tensors are read, laid out and cast one at a time: beside
the finished parameters there is never more than one tensor of the file in memory.
"""

import contextlib
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from osed_jax.diffusion.model_files.layout import weight_paths
from osed_jax.errors import UserError

Names = tuple[str, ...]
Params = dict[str, Any]

_LISTS = re.compile(
    r"(blocks|resnets|attentions|downsamplers|upsamplers|net|to_out|layers|conv)_(\d+)"
)
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
# PyTorch renamed the VAE's attention; files of both ages are in use, the Flax module has the old.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# transformers 5 saves CLIP's towers without this first part of the name.
_TOWER = re.compile(r"^text_model\.|(?<=^vision_model\.)vision_model\.")
# A buffer that older text encoders saved beside their weights.
_IGNORED = re.compile(r"embeddings\.position_ids$")
_MSGPACK_ARRAY = 1  # flax.serialization's extension type for an array


def read_weights(
    folder: Path, expected: Params, dtype: jnp.dtype, ignored: re.Pattern[str] = _IGNORED
) -> Params:
    """Read one model's weights.

    Args:
        folder: Holds `*.safetensors` (PyTorch's layout; whole or in parts) or `*.msgpack` (Flax's).
        expected: Tree of arrays or shapes, as `jax.eval_shape` of the module's init gives it.
        dtype: What every weight is cast to.
        ignored: Matches names of weights in safetensors that are not wanted.

    Returns:
        The parameters, a tree like `expected`, on the default device.

    Raises:
        UserError: No such file, a damaged file, or a weight missing, surplus or misshapen.
    """
    files = weight_paths(folder)
    try:
        if files[0].suffix == ".msgpack":
            return _read_msgpack(files[0], expected, dtype)
        return _read_safetensors(files, expected, dtype, ignored)
    except (SafetensorError, msgpack.exceptions.UnpackException, EOFError) as error:
        raise UserError(
            f"{files[0]}: not a readable weight file ({error}). Download or save it again."
        ) from error


def save_weights(file: Path, params: Params) -> None:
    """Write parameters as safetensors with PyTorch's names and layout, in their own dtype."""
    flat = traverse_util.flatten_dict(params)
    turned = {path: _turned(np.asarray(value), path) for path, value in flat.items()}
    save_file({torch_name(path): value for path, value in turned.items()}, file, {"format": "pt"})


def random_weights(expected: Params, seed: int, dtype: jnp.dtype) -> Params:
    """Fresh parameters of the usual deviations, each a function of the seed and its own name.

    Kernels are normal with variance 1 / fan-in (LeCun), embeddings normal with deviation 0.02
    (CLIP), scales 1 and biases 0. Made in numpy: compiling the modules' own initialisers takes
    longer than training a small model's first epoch.

    Args:
        expected: Tree of arrays or shapes.
        seed: 0 or more.
        dtype: Of every parameter.
    """

    def draw(path: tuple, leaf: Any) -> jax.Array:
        names = [key.key for key in path]
        if names[-1] in ("scale", "bias"):
            return jnp.full(leaf.shape, names[-1] == "scale", dtype)
        random = np.random.default_rng([seed, zlib.crc32("/".join(names).encode())])
        value = random.standard_normal(leaf.shape, np.float32)
        fan_in = np.prod(leaf.shape[:-1])
        value *= 0.02 if names[-1] == "embedding" else np.float32(fan_in**-0.5)
        return jnp.asarray(value.astype(dtype))

    return jax.tree_util.tree_map_with_path(draw, expected)


def torch_name(path: Names) -> str:
    """PyTorch's name of a Flax parameter: `("net_0", "kernel")` is `net.0.weight`."""
    return _torch_names(path)[0]


def _torch_names(path: Names) -> tuple[str, str, str]:
    """The name that is written, the one in old VAE files, and that of a text encoder of today."""
    *modules, leaf = (_LISTS.sub(r"\1.\2", part) for part in path)
    leaf = _LEAVES.get(leaf, leaf)
    written = ".".join([*(_RENAMED.get(part, part) for part in modules), leaf])
    return written, ".".join([*modules, leaf]), _TOWER.sub("", written)


def _turned(value: np.ndarray, path: Names, *, from_torch: bool = False) -> np.ndarray:
    """Kernels are [out, in, height, width] or [out, in] in PyTorch, the other way in Flax."""
    if path[-1] != "kernel":
        return value
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose((2, 3, 1, 0) if from_torch else (3, 2, 0, 1)))
    return np.ascontiguousarray(value.T)


def _read_safetensors(
    files: list[Path], expected: Params, dtype: jnp.dtype, ignored: re.Pattern[str]
) -> Params:
    """Of one file, or of all parts of one."""
    with contextlib.ExitStack() as stack:
        opened = [(f, stack.enter_context(safe_open(f, framework="numpy"))) for f in files]
        left = {name: part for part in opened for name in part[1].keys()}  # noqa: SIM118
        left = {name: part for name, part in left.items() if not ignored.search(name)}
        return place_weights(left, expected, dtype, files[0])


def place_weights(
    left: dict[str, tuple[Path, Any]], expected: Params, dtype: jnp.dtype, where: Path
) -> Params:
    """Parameters from tensors with PyTorch's names.

    Args:
        left: Name -> its file, and what gives it: an opened safetensors file, or the like.
        expected: As of `read_weights`.
        dtype: What every weight is cast to.
        where: The file that messages name.

    Raises:
        UserError: A weight is missing, surplus, misshapen or of 8 bits.
    """
    params = {}
    for path, shape in traverse_util.flatten_dict(expected).items():
        name = next((n for n in _torch_names(path) if n in left), None)
        if name is None:
            raise _misfit(where, f"the weight {torch_name(path)} is missing")
        file, tensors = left.pop(name)
        refuse_8_bits(file, tensors, [name])
        value = _turned(tensors.get_tensor(name), path, from_torch=True)
        _check_shape(file, name, value, shape)
        params[path] = jnp.asarray(value.astype(dtype))
    if left:
        raise _misfit(where, f"{len(left)} surplus weights, the first is {min(left)}")
    return traverse_util.unflatten_dict(params)


def refuse_8_bits(file: Path | str, tensors: Any, names: Iterable[str]) -> None:
    """Raises UserError where an opened safetensors file has weights that NumPy cannot hold."""
    for name in names:
        if (kind := tensors.get_slice(name).get_dtype()).startswith("F8"):
            raise UserError(f"{file}: weights of 8 bits ({kind}) are not read; take float16.")


def read_addition(file: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a safetensors file that is added to a model, by name, and its metadata.

    Args:
        file: `.safetensors`.
        what: Kind of file, for messages: `LoRA`.

    Raises:
        UserError: It is a pickle or of another kind, cannot be read, or has weights of 8 bits.
    """
    if file.suffix != ".safetensors":
        raise UserError(
            f"{file}: {what} files are read as .safetensors only. Pickles (.bin, .pt, .ckpt) can "
            "run any code and are never loaded; save it as .safetensors."
        )
    try:
        with safe_open(file, framework="numpy") as opened:
            names = list(opened.keys())
            refuse_8_bits(file, opened, names)
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a readable {what} file ({error}).") from error


def _read_msgpack(file: Path, expected: Params, dtype: jnp.dtype) -> Params:
    def decode(code: int, data: bytes) -> jax.Array:
        if code != _MSGPACK_ARRAY:
            raise _misfit(file, f"an entry has the unknown type {code}")
        shape, name, buffer = msgpack.unpackb(data)
        return jnp.asarray(np.frombuffer(buffer, jnp.dtype(name)).reshape(shape), dtype)

    with file.open("rb") as stream:
        # A stream, so that the undecoded file is not kept beside the parameters.
        unpacker = msgpack.Unpacker(stream, ext_hook=decode, max_buffer_size=0)
        params = traverse_util.flatten_dict(unpacker.unpack())
    flat = traverse_util.flatten_dict(expected)
    for path, shape in flat.items():
        if path not in params:
            raise _misfit(file, f"the weight {'/'.join(path)} is missing")
        _check_shape(file, "/".join(path), params[path], shape)
    surplus = sorted("/".join(path) for path in params.keys() - flat.keys())
    if surplus:
        raise _misfit(file, f"{len(surplus)} surplus weights, the first is {surplus[0]}")
    return traverse_util.unflatten_dict(params)


def _check_shape(file: Path, name: str, value: Any, expected: Any) -> None:
    if value.shape != expected.shape:
        raise _misfit(
            file, f"the weight {name} has shape {value.shape} where {expected.shape} is expected"
        )


def _misfit(file: Path, what: str) -> UserError:
    return UserError(
        f"{file}: {what}. The file does not belong to the config.json beside it; take both from "
        "the same model (Stable Diffusion 1.x or 2.x)."
    )
