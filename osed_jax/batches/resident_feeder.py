"""The resident feeder: images stay in device memory; the rows of a plan are gathered there."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from osed_jax.batches.plan import Plan
from osed_jax.data.images import Bank
from osed_jax.runtime.sharding import own_rows, place

_SHARE_OF_DEVICE = 0.25  # share of a device's memory for images; the net needs the rest


class ResidentFeeder:
    """Makes the batches of a plan on the device; needs no TensorFlow."""

    def __init__(self, bank: Bank, sharding: NamedSharding):
        """Copies all of `bank` to every device; batches are split as `sharding` says."""
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        self._sharding = sharding
        self._of_epoch = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
        self._images = place(bank.take(np.arange(len(bank))), whole)
        self._batch = jax.jit(
            _batch, in_shardings=(whole, self._of_epoch, None), out_shardings=sharding
        )

    def batches(self, plan: Plan) -> Iterator[dict[str, jax.Array]]:
        """The batches of an epoch in order: see `training.step.Batch`."""
        own = own_rows(self._sharding, plan.row.shape[1])
        slots = {name: array[:, own] for name, array in plan.slots().items()}
        slots = place(slots, self._of_epoch)
        for step in range(len(plan.row)):
            yield self._batch(self._images, slots, np.int32(step))


def _batch(images: jax.Array, slots: dict[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
    """The plan of the epoch is on the device, too: the host only counts steps."""
    of_step = {name: array[step] for name, array in slots.items()}
    return {"image": images[of_step.pop("row")], **of_step}


def fits(bank: Bank, device: jax.Device) -> bool:
    """Whether `bank` is in memory and small enough to stay on `device`."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return bank.in_memory and (limit is None or bank.nbytes <= _SHARE_OF_DEVICE * limit)
