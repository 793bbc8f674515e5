"""The tf.data feeder: the batches of a plan are made on the host, ahead of the device."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from osed_jax.batches.plan import Plan
from osed_jax.data.images import Bank
from osed_jax.runtime.sharding import own_rows, place


class TfDataFeeder:
    """Makes the batches of a plan with tf.data, from images in memory or in files."""

    def __init__(self, bank: Bank, sharding: NamedSharding):
        """Prepares feeding from `bank` to devices as `sharding` splits the leading axis."""
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # accelerators are left to JAX
        self._tf, self._bank, self._sharding = tf, bank, sharding

    def batches(self, plan: Plan) -> Iterator[dict[str, jax.Array]]:
        """The batches of an epoch in order: see `training.step.Batch`.

        Raises:
          UserError: if an image file cannot be read.
        """
        tf, size = self._tf, self._bank.image_size
        own = own_rows(self._sharding, plan.row.shape[1])
        failed: list[Exception] = []

        def take(rows: np.ndarray) -> np.ndarray:
            try:
                return self._bank.take(rows)
            except Exception as error:  # tf.data would keep only the text of the error
                failed.append(error)
                raise

        def with_images(slots: dict) -> dict:
            image = tf.numpy_function(take, [slots["row"]], tf.uint8)
            image.set_shape((own.stop - own.start, size, size, 3))
            return {"image": image, **{n: slot for n, slot in slots.items() if n != "row"}}

        slots = {name: array[:, own] for name, array in plan.slots().items()}
        batches = (
            tf.data.Dataset.from_tensor_slices(slots)
            .map(with_images, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )
        try:
            for batch in batches.as_numpy_iterator():
                yield place(batch, self._sharding)
        except tf.errors.OpError:
            if failed:
                raise failed[0] from None
            raise
