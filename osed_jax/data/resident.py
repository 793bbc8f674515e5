"""The resident feeder: images stay in device memory, and a plan's rows are gathered there."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from osed_jax.data.images import Bank
from osed_jax.data.sampling import Plan

_SHARE_OF_DEVICE = 0.25  # of a device's memory that images may take; the net needs the rest


class ResidentFeeder:
    """Carries out plans on the device; needs no TensorFlow."""

    def __init__(self, bank: Bank, sharding: NamedSharding):
        """Copies all of `bank` to every device; batches are split as `sharding` says."""
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        self._sharding = sharding
        self._images = jax.device_put(bank.take(np.arange(len(bank))), whole)
        self._gather = jax.jit(
            lambda images, row: images[row],
            in_shardings=(whole, sharding),
            out_shardings=sharding,
        )

    def batches(self, plan: Plan) -> Iterator[dict[str, jax.Array]]:
        """The batches of an epoch in order: see `training.step.Batch`."""
        for label, kind, row in zip(plan.label, plan.kind, plan.row):
            slots = jax.device_put({"label": label, "kind": kind, "row": row}, self._sharding)
            image = self._gather(self._images, slots.pop("row"))
            yield {"image": image, **slots}


def fits(bank: Bank, device: jax.Device) -> bool:
    """Whether `bank` is in memory and small enough to stay on `device`."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return bank.in_memory and (limit is None or bank.nbytes <= _SHARE_OF_DEVICE * limit)
