"""Tensors by name from both kinds of files, told by their content."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from osed_jax.errors import UserError
from osed_jax.files.tensor_files import opened
from tests.files.test_torch_files import in_zip, tensor
from tests.oracles import make_torch_files_oracle as oracle


def content(file):
    with opened(file) as tensors:
        found = {name: tensors.read(name) for name in tensors.names}
        assert {name: tensors.shape(name) for name in found} == {
            n: v.shape for n, v in found.items()
        }
        return found, tensors.metadata


def test_the_content_tells_the_kind(tmp_path):
    weights = {"a": np.float32([1.5, -2]), "b": np.zeros((2, 3), np.float16)}
    for name in ("a.safetensors", "a.bin", "a"):
        save_file(weights, tmp_path / name, {"format": "pt"})
        found, metadata = content(tmp_path / name)
        assert metadata == {"format": "pt"} and found.keys() == weights.keys()
        for key, value in weights.items():
            np.testing.assert_array_equal(found[key], value)
    with np.load(oracle.VALUES) as recorded:
        expected = {
            name.removeprefix("state_dict/"): recorded[name]
            for name in recorded
            if name.startswith("state_dict/")
        }
    for kind, file in oracle.FILES.items():
        (tmp_path / kind).write_bytes(file.read_bytes())
        found, metadata = content(tmp_path / kind)
        assert metadata == {} and found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value)


def saved(tmp_path, *pairs):
    """A file of a dictionary, of pickled keys and values."""
    items = b"".join(
        b"X" + len(key).to_bytes(4, "little") + key.encode() + value for key, value in pairs
    )
    (tmp_path / "a.pth").write_bytes(in_zip(b"\x80\x02}(" + items + b"u."))
    return tmp_path / "a.pth"


def test_weights_beside_other_things_are_found(tmp_path):
    array = tensor()[2:-1]
    inner = b"}(X\1\0\0\0w" + array + b"X\5\0\0\0epochK\1u"
    assert list(content(saved(tmp_path, ("w", array), ("epoch", b"K\1")))[0]) == ["w"]
    for place in ("state_dict", "model", "model_state_dict", "net", "string_to_param"):
        file = saved(tmp_path, ("best", array), (place, inner), ("optimizer", b"}"))
        assert list(content(file)[0]) == ["w"]
    # A name of its own kind is no place.
    assert list(content(saved(tmp_path, ("model", array), ("net", b"K\1")))[0]) == ["model"]


def test_what_has_no_tensors_by_name_is_told(tmp_path):
    for pickle in (tensor(), b"\x80\x02].", b"\x80\x02}.", b"\x80\x02}X\5\0\0\0model}s."):
        (tmp_path / "a.pth").write_bytes(in_zip(pickle))
        with pytest.raises(UserError, match=r"a\.pth has no tensors by name"):
            content(tmp_path / "a.pth")


def test_other_files_are_told(tmp_path):
    cases = {
        "a.safetensors": (b"no weights", "not a readable safetensors file"),
        "b.pth": (b"no weights", "not a readable PyTorch file"),
        "c": (b"no weights", "not a readable safetensors file"),
        "d.bin": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "e.pth": (b"", "not a readable PyTorch file"),
    }
    for name, (start, message) in cases.items():
        (tmp_path / name).write_bytes(start)
        with pytest.raises(UserError, match=message):
            content(tmp_path / name)
    for name in (".", "none.pth"):
        with pytest.raises(UserError, match="no such file"):
            content(tmp_path / name)


def test_dtypes_that_numpy_lacks_are_told(tmp_path):
    for kind, message in (("F8_E4M3", r"8 bits \(F8_E4M3\)"), ("XYZ", "not a readable")):
        header = json.dumps({"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2]}}).encode()
        start = len(header).to_bytes(8, "little") + header
        (tmp_path / "a.safetensors").write_bytes(start + b"\0\0")
        with pytest.raises(UserError, match=message):
            content(tmp_path / "a.safetensors")
