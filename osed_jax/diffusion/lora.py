"""Low-rank updates of the UNet's attention (Hu et al. 2021, "LoRA"), merged into its weights."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from osed_jax.diffusion.model_files.weights import Params

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out_0")


def init_lora(params: Params, rank: int, seed: int) -> Params:
    """Factors that change nothing yet: `down` is random, `up` is zero.

    Args:
      params: those of the UNet, or their shapes.
      rank: of the updates.
      seed: of `down`, normal with variance 1 / fan-in.

    Returns:
      `{"a/b/query": {"down": [in, rank], "up": [rank, out]}, ...}`, float32, one entry for each
      projection of self- and cross-attention.
    """
    factors = {}
    for path, kernel in traverse_util.flatten_dict(params).items():
        if path[-1] != "kernel" or path[-2] not in _PROJECTIONS:
            continue
        name, (fan_in, fan_out) = "/".join(path[:-1]), kernel.shape
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        down = random.standard_normal((fan_in, rank), np.float32) * np.float32(fan_in**-0.5)
        factors[name] = {"down": jnp.asarray(down), "up": jnp.zeros((rank, fan_out))}
    return factors


def merge(params: Params, factors: Params) -> Params:
    """The parameters with `down @ up` added to each kernel that has factors; differentiable.

    Kernels keep their dtype. Those of convolutions, `[h, w, in, out]`, have `down`
    `[h, w, in, rank]`.
    """
    flat = dict(traverse_util.flatten_dict(params))
    for name, factor in factors.items():
        path = (*name.split("/"), "kernel")
        update = jnp.matmul(factor["down"], factor["up"], precision=jax.lax.Precision.HIGHEST)
        flat[path] = (flat[path] + update).astype(flat[path].dtype)
    return traverse_util.unflatten_dict(flat)
