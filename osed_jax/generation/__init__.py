"""Images from class names: prompts, Stable Diffusion and the store it fills."""

import os

# Otherwise diffusers imports PyTorch wherever it is installed.
os.environ["USE_TORCH"] = "0"
# Every Flax class logs its end of life in diffusers each time it is built; the pins answer that.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
