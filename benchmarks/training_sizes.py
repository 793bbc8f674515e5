"""What `benchmarks/training.py` trains: a net, a batch size and an augmentation."""

import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs import cifar10_lt_resnet32, default
from osed_jax.config.build import check
from osed_jax.errors import UserError
from osed_jax.experiment import build
from osed_jax.models.layers import Conv

NUM_CLASSES, IMAGE_SIZE = 10, 32
RECIPE, FLIP_CROP = "recipe", "flip-crop"
WANTED = "NET:BATCH or NET:BATCH:flip-crop, NET resnetDEPTH or wrn-DEPTH-WIDTH"


class Size(NamedTuple):
    """What each contender trains.

    Attributes:
      net: resnetDEPTH or wrn-DEPTH-WIDTH.
      batch: rows of a batch.
      augmentation: RECIPE, or FLIP_CROP for flip and crop alone.
    """

    net: str
    batch: int
    augmentation: str = RECIPE

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Reads NET:BATCH[:AUGMENTATION].

        Raises:
          SystemExit: it is not written like this, or the project has no such net.
        """
        found = re.fullmatch(r"(resnet\d+|wrn-\d+-\d+):(\d+)(?::(flip-crop))?", text)
        if not found:
            raise SystemExit(f"--sizes: {text!r} is not {WANTED}")
        size = cls(found[1], int(found[2]), found[3] or RECIPE)
        try:
            size.config()
        except UserError as error:
            raise SystemExit(f"--sizes: {text!r}: {error}") from None
        return size

    def __str__(self) -> str:
        return ":".join(map(str, self if self.augmentation != RECIPE else self[:2]))

    def model(self) -> dict[str, Any]:
        """The section `model` of the config, without what is at its default."""
        if self.net.startswith("resnet"):
            return {"name": "resnet", "depth": int(self.net.removeprefix("resnet"))}
        depth, width = map(int, self.net.removeprefix("wrn-").split("-"))
        return {"name": "wide_resnet", "depth": depth, "widen_factor": width}

    def config(self, dtype: str = "float32") -> dict[str, Any]:
        """The checked config of OPeN with this net, batch size and augmentation."""
        config = default.get_config("open")
        config.model.update(self.model())
        config.model.dtype = dtype
        config.train.batch_size = self.batch
        if self.augmentation == FLIP_CROP:
            config.augment.update(cifar10_lt_resnet32.get_config().augment)
        return check(config)

    def forward_flops(self) -> float:
        """Multiplications and additions of convolutions and the last layer for one image."""
        flops = 0

        def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            nonlocal flops
            result = call(*args, **kwargs)
            if isinstance(context.module, Conv | nn.Dense) and context.method_name == "__call__":
                pixels = result.size // result.shape[-1]
                flops += 2 * pixels * context.module.variables["params"]["kernel"].size
            return result

        model = build.make_model(self.config(), NUM_CLASSES, routed=False)
        image = jax.ShapeDtypeStruct((1, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
        kind = jax.ShapeDtypeStruct((1,), jnp.int32)
        with nn.intercept_methods(count):
            jax.eval_shape(
                lambda x, k: model.init(jax.random.key(0), x, k, train=False), image, kind
            )
        return float(flops)
