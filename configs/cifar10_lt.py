"""CIFAR-10-LT, imbalance ratio 100, WideResNet-28-10: the benchmark of Zada et al. 2022.

Data: 12,406 training images, the subset of Cao et al. 2019.
Published top-1, % (Zada | MLRC): erm 79.6 | 81.18, ros 75.1 | 74.82, drs 83.0 | 83.22,
open 84.6 | 85.04. This program's, on JPEG images: results/full_size.
Command: python main.py --config=configs/cifar10_lt.py:open --workdir=runs/cifar10/open
"""

from ml_collections import ConfigDict

from configs import default

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = default.get_config(method)
    config.dataset.name = "cifar10"
    config.dataset.mean = MEAN
    config.dataset.std = STD
    return config
