"""What PyTorch's modules compute where diffusers' Flax modules differ from them.

The models were trained with PyTorch's modules. Left alone, the Flax modules of a UNet with four
levels end 4.6e-3 from them in the final latents (6 steps of DDIM;
tests/diffusion/test_stable_diffusion.py).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax.numpy as jnp
from diffusers.models.attention_flax import FlaxGEGLU, FlaxTransformer2DModel
from flax import linen as nn

_ATTENTION_EPSILON = 1e-6  # of the norm before attention; the Flax module has 1e-5


def exact() -> AbstractContextManager[None]:
    """Within it, modules that are applied compute as in PyTorch; for training, too."""
    return nn.intercept_methods(_as_in_pytorch)


def _as_in_pytorch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    module = context.module
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    if isinstance(module, FlaxGEGLU):  # GELU itself, not its tanh approximation
        linear, gate = jnp.split(module.proj(args[0]), 2, axis=-1)
        return linear * nn.gelu(gate, approximate=False)
    if isinstance(module, nn.GroupNorm | nn.LayerNorm):
        # E[x²] - E[x]² loses digits. The bound module belongs to this call alone.
        object.__setattr__(module, "use_fast_variance", False)
        if isinstance(module.parent, FlaxTransformer2DModel):
            object.__setattr__(module, "epsilon", _ATTENTION_EPSILON)
    return call(*args, **kwargs)
