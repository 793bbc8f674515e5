"""Every field at its default: the CIFAR-10-LT recipe of Zada and MLRC, on handwritten digits.

Data: scikit-learn's digits, which need no download.
docs/reference/configuration.md lists all fields.
"""

from ml_collections import ConfigDict

from osed_jax.config import build


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    return build.get_config(method)
