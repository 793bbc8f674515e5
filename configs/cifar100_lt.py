"""CIFAR-100-LT, imbalance ratio 100, WideResNet-28-10: 10,847 training images.

Time: that of cifar10_lt.py, so minutes on a GPU and days on a CPU.
Published top-1, % (Zada): erm 47.1, drs 50.8, open 52.1. It was not run with this code.
Command, on a GPU:
  python main.py --config=configs/cifar100_lt.py:open --workdir=runs/cifar100/open
"""

from ml_collections import ConfigDict

from configs import cifar10_lt


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = cifar10_lt.get_config(method)
    config.dataset.name = "cifar100"
    config.dataset.groups = "thresholds"
    return config
