"""Record small files of PyTorch, in both of its containers, and what is in them.

Run by hand where PyTorch is installed, from the repository's root:

    pip install torch==2.13.0 numpy==2.4.6
    python -m tests.oracles.make_torch_files_oracle

It writes `tests/oracles/torch_zip.pt`, `torch_zip_protocol_4.pt`, `torch_old.pt`, and the values of
their tensors by name, `torch_files.npz`; the few numbers without a dtype in NumPy as float32.
"""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
VALUES = FOLDER / "torch_files.npz"
FILES = {name: FOLDER / f"torch_{name}.pt" for name in ("zip", "zip_protocol_4", "old")}
# Beside the tensors: what is read as it is.
PLAIN = {
    "epoch": 3,
    "accuracy": 0.5,
    "best": None,
    "done": True,
    "large": 2**70,
    "names": ["a", ("b", -1), {"é": 1e300}],
    7: "a number as a key",
}


def main() -> None:
    """Write the files."""
    import torch

    torch.manual_seed(0)
    base = torch.arange(24.0).reshape(4, 6) / 8
    tensors = {
        "whole": base,
        "transposed": base.T,  # of the same storage
        "every_other": base[1::2, 1::3],
        "repeated": torch.tensor([1.5, 2.5]).expand(3, 2),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.arange(16.0).reshape(1, 2, 2, 4).permute(0, 3, 1, 2),
        "parameter": torch.nn.Parameter(torch.tensor([-1.0])),
    }
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        tensors[dtype] = torch.tensor([0, 1, 100]).to(getattr(torch, dtype))
    tensors["bool"] = torch.tensor([True, False])
    marked = torch.nn.Parameter(torch.tensor([3.0]))
    marked.note = "an attribute of its own"
    tensors["marked"] = marked
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    saved = {
        **PLAIN,
        "tensors": tensors,
        "size": torch.Size([2, 3]),
        "score": np.float64(0.25),
        "state_dict": net.state_dict(),
    }
    torch.save(saved, FILES["old"], _use_new_zipfile_serialization=False)
    torch.save(saved, FILES["zip"])
    torch.save(saved, FILES["zip_protocol_4"], pickle_protocol=4)
    values = {f"tensors/{name}": tensor for name, tensor in tensors.items()}
    values |= {f"state_dict/{name}": tensor for name, tensor in net.state_dict().items()}
    as_numpy = {
        name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy()
        for name, v in values.items()
    }
    np.savez_compressed(VALUES, **as_numpy)


if __name__ == "__main__":
    main()
