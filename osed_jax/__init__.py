"""Long-tailed image classification with generated images: OPeN and OSeD in JAX and Flax."""

import os

__version__ = "0.1.0"

# On CPUs jaxlib 0.12 prints two long lines for each compiled program that it reads back from the
# cache, about features that no processor has (prefer-no-gather). Set to 0 to see all of its log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
