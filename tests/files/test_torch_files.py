"""PyTorch's files against what PyTorch wrote (recorded), and files that are damaged or hostile."""

import io
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from osed_jax.errors import UserError
from osed_jax.files import torch_files, torch_pickle
from tests.oracles import make_torch_files_oracle as oracle

ZIP, OLD = oracle.FILES["zip"], oracle.FILES["old"]


def flat(content):
    """The arrays of an oracle's file by name."""
    return {
        f"{part}/{name}": array
        for part in ("tensors", "state_dict")
        for name, array in content[part].items()
    }


def check_equal(content):
    with np.load(oracle.VALUES) as recorded:
        expected = dict(recorded)
    found = flat(content)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        half = name == "tensors/bfloat16"
        assert array.dtype == (ml_dtypes.bfloat16 if half else expected[name].dtype), name
        np.testing.assert_array_equal(array.astype(expected[name].dtype), expected[name], name)


@pytest.mark.parametrize("name", oracle.FILES)
def test_content_is_what_pytorch_wrote(name):
    file = oracle.FILES[name]
    content = torch_files.read(file)
    check_equal(content)
    assert {key: content[key] for key in oracle.PLAIN} == oracle.PLAIN
    assert content["size"] == (2, 3) and content["score"] == 0.25
    whole, turned = content["tensors"]["whole"], content["tensors"]["transposed"]
    assert np.shares_memory(whole, turned) and not whole.flags.writeable


def rezipped(change, compression=zipfile.ZIP_STORED):
    """The oracle's zip archive, each of its files as `change` of its name and content gives it."""
    made = io.BytesIO()
    with zipfile.ZipFile(ZIP) as old, zipfile.ZipFile(made, "w", compression) as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return made.getvalue()


def test_files_of_big_endian_machines_are_read(tmp_path):
    sizes = {}  # bytes of a number, by the storage's key

    def note(identity):
        key, dtype, _ = torch_files._identified(identity)
        sizes[f"torch_zip/data/{key}"] = dtype.itemsize

    def change(name, content):
        if name.endswith("byteorder"):
            return b"big"
        if name in sizes:
            return np.frombuffer(content, f"u{sizes[name]}").byteswap().tobytes()
        return content

    with zipfile.ZipFile(ZIP) as archive:
        torch_pickle.read(io.BytesIO(archive.read("torch_zip/data.pkl")), note)
    assert set(sizes.values()) == {1, 2, 4, 8}, "the oracle has numbers of all sizes"
    (tmp_path / "big.pt").write_bytes(rezipped(change))
    check_equal(torch_files.read(tmp_path / "big.pt"))


def in_zip(stream, storage=b"\0" * 8):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x/data.pkl", stream)
        archive.writestr("x/data/0", storage)
    return made.getvalue()


def in_old(stream, storage=b"\0" * 8):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    keys = pickle.dumps(["0"], 2) + struct.pack("<q", len(storage) // 4) + storage
    return b"".join(pickle.dumps(part, 2) for part in head) + stream + keys


def tensor(kind=b"torch\nFloatStorage", key=b"X\1\0\0\x000", count=2, offset=0, size=2, stride=1):
    """A pickle of one tensor, made by hand."""
    numbers = [b"J" + struct.pack("<i", n) for n in (count, offset, size, stride)]
    identity = b"(X\7\0\0\0storagec" + kind + b"\n" + key + b"X\3\0\0\0cpu" + numbers[0] + b"tQ"
    rest = numbers[1] + numbers[2] + b"\x85" + numbers[3] + b"\x85\x89Nt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + identity + rest + b"R."


@pytest.mark.parametrize("container", [in_zip, in_old])
def test_a_tensor_made_by_hand(tmp_path, container):
    file = tmp_path / "a.pt"
    file.write_bytes(container(tensor(), struct.pack("<2f", 1.5, -2)))
    np.testing.assert_array_equal(torch_files.read(file), np.float32([1.5, -2]))
    file.write_bytes(container(tensor(offset=1, size=1, stride=-9), struct.pack("<2f", 1.5, -2)))
    with pytest.raises(UserError, match="strides"):
        torch_files.read(file)


class Calls:
    """A pickle of this calls a function with an argument."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def memo_bomb(depth):
    """Lists in lists, each twice the one before: 2 ** depth if they were printed or compared."""
    value = []
    for _ in range(depth):
        value = [value, value]
    return value


REFUSED = {
    "os.system": (pickle.dumps(Calls(os.system, "touch made"), 2), "holds posix.system"),
    "eval": (pickle.dumps(Calls(eval, "1"), 4), r"holds (__builtin__|builtins).eval"),
    "inside a state_dict": (pickle.dumps({"a": [Calls(exec, "1")]}), r"holds builtins.exec"),
    "a class": (b"\x80\x02cdatetime\ndate\n.", "holds datetime.date"),
    "a whole net": (b"\x80\x02ctorchvision.models.resnet\nResNet\n)\x81.", "models.resnet.ResNet"),
    "a name as a function": (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
    "a text as a function": (b"\x80\x02X\4\0\0\0evil)R.", "a call of evil"),
    "an instance": (b"\x80\x02(itorch\nSize\n.", "the pickle instruction INST"),
    "an extension": (b"\x80\x02\x82\x01.", "the pickle instruction EXT1"),
    "a set": (b"\x80\x04\x8f.", "the pickle instruction EMPTY_SET"),
    "a tuple as a key": (pickle.dumps({(1, 2): 3}, 2), "a dictionary with tuple as a key"),
    "complex numbers": (tensor(b"torch\nComplexFloatStorage"), "holds torch.ComplexFloatStorage"),
    "quantized": (tensor(b"torch\nQInt8Storage"), "holds torch.QInt8Storage"),
    "NumPy objects": (b"\x80\x02cnumpy\ndtype\nX\2\0\0\0O8\x85R.", "a NumPy array of object"),
    "long bytes": (pickle.dumps(b"\xff" * 99, 2), "holds bytes"),
}
DAMAGED = {
    "nothing": b"",
    "no end": b"\x80\x02]",
    "no value": b"\x80\x02.",
    "two values": b"\x80\x02NN.",
    "nothing to take": b"\x80\x02a.",
    "no mark": b"\x80\x02Nt.",
    "not remembered": b"\x80\x02h\5.",
    "half a pair": b"\x80\x02}(Nu.",
    "a list as a call": b"\x80\x02]]R.",
    "beyond the file": b"\x80\x04\x8d" + struct.pack("<q", 2**62) + b".",
    "an unknown instruction": b"\x80\x02\xff.",
    "a text of digits as a number": b"\x80\x02I" + b"9" * 5000 + b"\n.",
    "beyond its storage": tensor(offset=1),
    "strides beyond it": tensor(stride=9),
    "a negative offset": tensor(offset=-1),
    "a negative size": tensor(size=-1),
    "more than its storage has": tensor(count=10**9, size=10**9),
    "less than none": tensor(count=-1, size=0),
    "a storage that is not there": tensor(key=b"X\1\0\0\x009"),
    "a number as its key": tensor(key=b"K\0"),
    "a bomb as its key": tensor(key=pickle.dumps(memo_bomb(60), 2)[2:-1]),
    "a bomb as its kind": b"\x80\x02" + pickle.dumps(memo_bomb(60), 2)[2:-1] + b"\x85Q.",
    "a bomb as a function": b"\x80\x02" + pickle.dumps(memo_bomb(60), 2)[2:-1] + b")R.",
}


@pytest.mark.parametrize("container", [in_zip, in_old])
@pytest.mark.parametrize("case", REFUSED)
def test_whatever_is_no_plain_value_is_refused_by_name(tmp_path, monkeypatch, case, container):
    monkeypatch.chdir(tmp_path)
    stream, message = REFUSED[case]
    (tmp_path / "a.pt").write_bytes(container(stream))
    with pytest.raises(UserError, match=message) as error:
        torch_files.read(tmp_path / "a.pt")
    assert "can run any code" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"], "nothing ran"


@pytest.mark.parametrize("container", [in_zip, in_old])
@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_one_line(tmp_path, case, container):
    (tmp_path / "a.pt").write_bytes(container(DAMAGED[case]))
    with pytest.raises(UserError, match=r"a\.pt: not a readable PyTorch file \(.+\); ") as error:
        torch_files.read(tmp_path / "a.pt")
    assert len(str(error.value)) < 400


def test_compressed_archives_are_refused_unread(tmp_path):
    """So that no few bytes can become gigabytes."""
    made = rezipped(lambda name, content: content, zipfile.ZIP_DEFLATED)
    (tmp_path / "bomb.pt").write_bytes(made)
    with pytest.raises(UserError, match="is compressed or encrypted"):
        torch_files.read(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rezipped(lambda name, content: None), "not a readable PyTorch file"),
        (in_zip(b"\x80\x02N.").replace(b"x/data.pkl", b"x/else.pkl"), "no data.pkl"),
        (b"\x80\x02K\1.", "does not begin as one"),
        (pickle.dumps({"a": 1}), "does not begin as one"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02K\1.", "version 1 instead of 1001"),
        (b"<!DOCTYPE html><html>", "not a readable PyTorch file"),
    ],
)
def test_other_files_are_told(tmp_path, content, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(UserError, match=message):
        torch_files.read(tmp_path / "a.bin")


def test_a_torchscript_program_and_a_missing_file_are_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02N.")
        archive.writestr("x/constants.pkl", b"\x80\x02N.")
    with pytest.raises(UserError, match="holds a TorchScript program"):
        torch_files.read(tmp_path / "a.pt")
    for name in ("none.pt", "."):
        with pytest.raises(UserError, match="no such file"):
            torch_files.read(tmp_path / name)


@pytest.mark.parametrize("file", [ZIP, OLD])
def test_no_damage_ends_in_another_error_or_in_other_weights_of_a_zip_archive(tmp_path, file):
    whole, random = file.read_bytes(), np.random.RandomState(0)
    noticed = 0
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[random.randint(len(whole)) :]
        else:
            for place in random.randint(len(whole), size=1 + trial % 5):
                damaged[place] = random.randint(256)
        (tmp_path / "a.pt").write_bytes(damaged)
        try:
            content = torch_files.read(tmp_path / "a.pt")
            if file == ZIP:  # padding, or an entry that is not needed
                check_equal(content)
        except UserError:
            noticed += 1
    assert noticed > 150, "the damage is in what is read"


def test_an_archive_without_checksums_is_read(tmp_path):
    """As `torch.serialization.set_crc32_options(False)` writes it: 0 in their place."""
    whole = bytearray(ZIP.read_bytes())
    with zipfile.ZipFile(ZIP) as archive:
        for info in archive.infolist():
            place = whole.index(info.filename.encode(), archive.start_dir)
            whole[place - 30 : place - 26] = bytes(4)
    (tmp_path / "a.pt").write_bytes(whole)
    check_equal(torch_files.read(tmp_path / "a.pt"))


def test_names_of_lightning_callbacks_are_kept_as_names(tmp_path):
    name = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    (tmp_path / "a.ckpt").write_bytes(in_zip(b"\x80\x02}" + name + b"K\1s."))
    read = torch_files.read(tmp_path / "a.ckpt")
    assert read == {"pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": 1}
    (tmp_path / "a.ckpt").write_bytes(in_zip(b"\x80\x02" + name + b")R."))
    with pytest.raises(UserError, match="a call of pytorch_lightning"):
        torch_files.read(tmp_path / "a.ckpt")
