"""PyTorch's files (`.pth`, `.pt`, `.bin`, `.ckpt`), read without PyTorch and without their pickles.

There are two containers. Since PyTorch 1.6 (2020) it is an uncompressed zip archive with one pickle
and a file for each storage. Before that it was five pickles (a magic number, the version, the
machine, the object, the keys of its storages) and then all storages, each behind its length.

Of libraries, ptloader 0.3.0 does not read the old container, tinygrad's `torch_load` imports what a
pickle names, and the scanners (picklescan, modelscan, fickling) give no tensors.
"""

import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from osed_jax.errors import UserError
from osed_jax.files import torch_pickle
from osed_jax.files.torch_pickle import STORAGES, RefusedError, must_be

SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")

_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a file in a zip: the lengths of its name and extras
_ENCRYPTED = 1
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the old container
_LENGTH = struct.Struct("<q")


def read(file: Path) -> Any:
    """What `torch.save` wrote.

    Args:
      file: of either container.

    Returns:
      Numbers, strings, bytes, None and arrays, in lists, tuples and dictionaries. The arrays are
      read-only views of the file, in the dtype of their tensor.

    Raises:
      UserError: it is no such file, is damaged, or holds something else, which is named.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        with file.open("rb") as opened:
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return _read_zip(file, data) if data[: len(_ZIP)] == _ZIP else _read_old(data)
    except RefusedError as error:
        raise UserError(
            f"{file} holds {_shown(error)}. A pickle can run any code, so of PyTorch's files only "
            "tensors, numbers, strings, lists, tuples and dictionaries are read. If you trust the "
            "file, save its weights alone where PyTorch is installed: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere
        raise UserError(
            f"{file}: not a readable PyTorch file ({_shown(error)}); download or save it again"
        ) from error


def _shown(error: Exception) -> str:
    """In one short line, whatever names are in the file."""
    text = str(error).encode("unicode_escape").decode()
    return text[:200] or type(error).__name__


def _read_zip(file: Path, data: mmap.mmap) -> Any:
    with zipfile.ZipFile(file) as archive:
        files = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in files if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"a zip archive with {len(roots) or 'no'} data.pkl")
    (root,) = roots
    if f"{root}constants.pkl" in files:
        raise RefusedError("a TorchScript program")
    order = f"{root}byteorder"
    big = order in files and _content(data, files[order]) == b"big"
    storages: dict[str, np.ndarray] = {}

    def storage(identity: tuple) -> np.ndarray:
        key, dtype, count = _identified(identity)
        if key not in storages:
            content = _content(data, files[f"{root}data/{key}"])
            array = np.ndarray(count, dtype, content)
            storages[key] = _swapped(array) if big else array
        return storages[key]

    return torch_pickle.read(io.BytesIO(_content(data, files[f"{root}data.pkl"])), storage)


def _swapped(array: np.ndarray) -> np.ndarray:
    """With the other order of bytes; NumPy's byteswap does not know bfloat16."""
    return array.view(f"u{array.itemsize}").byteswap().view(array.dtype)


def _content(data: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    """Of one file in a zip archive, checked."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
        raise ValueError(f"{info.filename} is compressed or encrypted, which PyTorch never does")
    name, extras = _LOCAL_HEADER.unpack_from(data, info.header_offset)
    start = info.header_offset + _LOCAL_HEADER.size + name + extras
    content = memoryview(data)[start : start + info.file_size]
    if len(content) != info.file_size:
        raise ValueError(f"{info.filename} is cut off")
    if info.CRC and zlib.crc32(content) != info.CRC:  # 0: PyTorch was told not to compute it
        raise ValueError(f"{info.filename} has changed since it was written")
    return content


def _read_old(data: mmap.mmap) -> Any:
    """Its object is read twice: only then it is known how long which storage is."""
    if torch_pickle.read(data, _no_storage) != _MAGIC:
        raise ValueError("it does not begin as one")
    if (version := torch_pickle.read(data, _no_storage)) != _VERSION:
        raise ValueError(f"version {version} instead of {_VERSION}")
    torch_pickle.read(data, _no_storage)  # the machine; numbers are little-endian of every machine
    begin = data.tell()
    sizes: dict[str, tuple[np.dtype, int]] = {}

    def note(identity: tuple) -> None:
        key, dtype, count = _identified(identity)
        sizes[key] = dtype, count

    torch_pickle.read(data, note)
    storages: dict[str, np.ndarray] = {}
    keys = torch_pickle.read(data, _no_storage)
    place = data.tell()
    for key in keys:
        dtype, count = sizes[key]
        if _LENGTH.unpack_from(data, place) != (count,):
            raise ValueError("two lengths of the same storage")
        place += _LENGTH.size
        storages[key] = np.ndarray(count, dtype, data, place)
        place += storages[key].nbytes
    data.seek(begin)
    return torch_pickle.read(data, lambda identity: storages[_identified(identity)[0]])


def _no_storage(identity: tuple) -> None:
    raise ValueError("a storage where none belongs")


def _identified(identity: tuple) -> tuple[str, np.dtype, int]:
    """Key, dtype and length of the storage that a pickle's persistent id names."""
    kind, storage, key, _, count, *view = identity
    if kind != "storage" or any(view):
        raise RefusedError("a view of a storage" if kind == "storage" else "external data")
    if must_be(str, storage) not in STORAGES:
        raise RefusedError(storage)
    if must_be(int, count) < 0:
        raise ValueError(f"a storage of {count} numbers")
    return must_be(str, key), STORAGES[storage], count
