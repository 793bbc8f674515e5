"""CIFAR-10-LT, imbalance ratio 100, ResNet-32 with flip and crop alone: MLRC's second net.

Data: 12,406 training images, as in cifar10_lt.py.
Published top-1, % (MLRC): erm 71.70, drs 75.78, open 77.52, open with a shared batch norm 74.37.
This program's, on JPEG images: results/full_size.
Command: python main.py --config=configs/cifar10_lt_resnet32.py:open --workdir=runs/resnet32/open
"""

from ml_collections import ConfigDict

from configs import cifar10_lt


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = cifar10_lt.get_config(method)
    config.model.name = "resnet"
    config.model.depth = 32
    config.augment.cutout = 0
    config.augment.color_jitter_prob = 0.0
    config.augment.grayscale_prob = 0.0
    config.augment.blur_prob = 0.0
    return config
