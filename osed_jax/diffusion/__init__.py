"""Stable Diffusion in Flax: text encoder, UNet, decoder, schedulers, sampler, model files.

It knows no store, no run and no long tail.
"""

import os

# Otherwise diffusers imports PyTorch wherever it is installed.
os.environ["USE_TORCH"] = "0"
# Every Flax class logs its end of life in diffusers each time it is built; the pins answer that.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
