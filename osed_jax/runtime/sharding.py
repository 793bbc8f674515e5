"""Devices: one axis, `data`, over which every batch is split, and arrays placed on them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from osed_jax.errors import UserError


def make_mesh() -> Mesh:
    """A mesh of all devices along the axis `data`; those of one process are neighbours."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), ("data",))


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises UserError if a global batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        raise UserError(
            f"{name} is {batch_size}, which cannot be split evenly over {mesh.size} devices; "
            f"use a multiple of {mesh.size}"
        )


def split(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of a tree on every device."""
    return jax.device_put(tree, replicated(mesh))


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of a tree (of arrays or shapes) replicated over the mesh."""
    whole = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree
    )


def compiler_options(dtype: DTypeLike) -> dict[str, str] | None:
    """Options for a program that computes in `dtype`.

    On CPUs jaxlib 0.11.2 and 0.12.0.1 get fused sums of bfloat16 wrong: the features of a
    WideResNet come out as NaN. So nothing is fused by XLA's YNNPACK fusions, which came with 0.10.2
    (jax issues 39103 and 40412 are about their sums, too). 0.10.1 gets them right.
    """
    wrong = jnp.dtype(dtype) == jnp.bfloat16 and jax.__version_info__ >= (0, 10, 2)
    if wrong and jax.default_backend() == "cpu":
        return {"xla_cpu_experimental_ynn_fusion_type": ""}
    return None


def jit_train_step(train_step: Callable, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> Callable:
    """Jits (state, batch, seed) -> (state, metrics); the state is donated, whole on every device.

    The program works on the global batch: all sums over it, those of batch norm too, are global.
    The net computes in `dtype`.
    """
    whole, parts = replicated(mesh), split(mesh)
    return jax.jit(
        train_step,
        in_shardings=(whole, parts, whole),
        out_shardings=(whole, whole),
        donate_argnames="state",
        compiler_options=compiler_options(dtype),
    )


def jit_eval_step(eval_step: Callable, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> Callable:
    """Jits (state, image) -> outputs; images are split over the devices, outputs whole on each."""
    whole, parts = replicated(mesh), split(mesh)
    return jax.jit(
        eval_step,
        in_shardings=(whole, parts),
        out_shardings=whole,
        compiler_options=compiler_options(dtype),
    )


def shared_evenly(sharding: NamedSharding, size: int) -> int:
    """The smallest number of rows, at least `size`, that splits evenly over the devices."""
    return -(-size // sharding.num_devices) * sharding.num_devices


def own_rows(sharding: NamedSharding, size: int) -> slice:
    """The range of rows that this process holds, of `size` rows split by `sharding`."""
    indices = sharding.addressable_devices_indices_map((size,)).values()
    bounds = [index[0].indices(size) for index in indices if index]
    return slice(min(first for first, *_ in bounds), max(last for _, last, _ in bounds))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """A tree of global arrays, made from the part that each process holds."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
    )
