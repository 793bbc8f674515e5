"""Arrays of the host on devices, which other processes may hold a part of."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding


def shared_evenly(sharding: NamedSharding, size: int) -> int:
    """The number of rows, at least `size`, that the devices of `sharding` share evenly."""
    return -(-size // sharding.num_devices) * sharding.num_devices


def own_rows(sharding: NamedSharding, size: int) -> slice:
    """Which of `size` rows, split by `sharding` along their axis, this process holds: a range."""
    indices = sharding.addressable_devices_indices_map((size,)).values()
    bounds = [index[0].indices(size) for index in indices if index]
    return slice(min(first for first, *_ in bounds), max(last for _, last, _ in bounds))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """A tree of global arrays, of which each process gives the part that it holds."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
    )
