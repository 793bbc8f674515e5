"""The feeders: two ways to carry out a plan. Both give the same batches, to the bit.

tf.data makes batches on the host, ahead of the device. The resident feeder keeps all images in
device memory and gathers them there; it needs no TensorFlow. Noise is drawn by neither of them, but
in the training step, on the device.
"""

import collections
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from osed_jax.batches.plan import Plan
from osed_jax.data.images import Bank
from osed_jax.errors import UserError
from osed_jax.runtime.sharding import own_rows, place

_SHARE_OF_DEVICE = 0.25  # share of a device's memory for images; the net needs the rest
_AHEAD = 2  # batches on the device that the step has not reached yet


class TfDataFeeder:
    """A tf.data pipeline over the slots of a plan, which mixes real and generated images.

    Images in memory are gathered by tf.gather, without any Python in the loop. Images in files are
    decoded by Pillow: its pixels, colour conversion and resizing are those of images in memory.
    """

    def __init__(self, bank: Bank, sharding: NamedSharding):
        """Prepares feeding from `bank` to devices as `sharding` splits the leading axis.

        Raises:
          UserError: if TensorFlow is not installed.
        """
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise UserError(
                "the images go through tf.data (config.train.feeder), which needs TensorFlow; "
                "install it with pip install -r requirements.txt, or give "
                "--config.train.feeder=resident, which gives the same batches"
            ) from error
        tf.config.set_visible_devices([], "GPU")  # accelerators are left to JAX
        self._tf, self._bank, self._sharding = tf, bank, sharding
        # An eager tensor: a constant of the graph would be copied and may not exceed 2 GB.
        self._images = tf.constant(bank.take(np.arange(len(bank)))) if bank.in_memory else None

    def batches(self, plan: Plan) -> Iterator[dict[str, jax.Array]]:
        """The batches of an epoch in order: see `training.step.Batch`.

        Raises:
          UserError: if an image file cannot be read.
        """
        failed: list[Exception] = []
        ahead: collections.deque[dict[str, jax.Array]] = collections.deque()
        on_host = self.dataset(plan, failed).as_numpy_iterator()
        try:
            for batch in on_host:
                ahead.append(place(batch, self._sharding))  # the copy runs while steps do
                if len(ahead) > _AHEAD:
                    yield ahead.popleft()
        except self._tf.errors.OpError:
            if failed:
                raise failed[0] from None
            raise
        yield from ahead

    def dataset(self, plan: Plan, failed: list[Exception]) -> Any:
        """The tf.data.Dataset of this process's part of every batch, as NumPy arrays.

        Args:
          plan: of the epoch.
          failed: gets the error of a file that cannot be read; tf.data keeps only its text.
        """
        tf, own = self._tf, own_rows(self._sharding, plan.row.shape[1])

        def with_images(slots: dict[str, Any]) -> dict[str, Any]:
            image = self._gathered(slots["row"], own.stop - own.start, failed)
            return {"image": image, **{n: slot for n, slot in slots.items() if n != "row"}}

        slots = {name: array[:, own] for name, array in plan.slots().items()}
        return (
            tf.data.Dataset.from_tensor_slices(slots)
            .map(with_images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def _gathered(self, rows: Any, count: int, failed: list[Exception]) -> Any:
        """The images of these rows, uint8 [count, H, W, 3]."""
        if self._images is not None:
            return self._tf.gather(self._images, rows)

        def take(rows: np.ndarray) -> np.ndarray:
            try:
                return self._bank.take(rows)
            except Exception as error:
                failed.append(error)
                raise

        image = self._tf.numpy_function(take, [rows], self._tf.uint8)
        image.set_shape((count, self._bank.image_size, self._bank.image_size, 3))
        return image


class ResidentFeeder:
    """Keeps the images in device memory; the rows of a plan are gathered there."""

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


def make_feeder(name: str, bank: Bank, sharding: NamedSharding) -> TfDataFeeder | ResidentFeeder:
    """The feeder that `config.train.feeder` names; `auto`: resident if the images fit.

    Raises:
      UserError: if it is resident and they do not fit, or tf.data is not installed.
    """
    fits = _fits(bank, jax.local_devices()[0])
    if name == "resident" and not fits:
        raise UserError(
            f"config.train.feeder is resident, but the {bank.nbytes / 2**30:.1f} GiB of images "
            f"do not fit in device memory or are streamed from files; use tfdata or auto"
        )
    if name == "tfdata" or not fits:
        return TfDataFeeder(bank, sharding)
    return ResidentFeeder(bank, sharding)


def _batch(images: jax.Array, slots: dict[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
    """The plan of the epoch is on the device, too: the host only counts steps."""
    of_step = {name: array[step] for name, array in slots.items()}
    return {"image": images[of_step.pop("row")], **of_step}


def _fits(bank: Bank, device: jax.Device) -> bool:
    """Whether `bank` is in memory and small enough to stay on `device`."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return bank.in_memory and (limit is None or bank.nbytes <= _SHARE_OF_DEVICE * limit)
