"""CIFAR-10-LT with 500 to 5 images of a class, the paper's 200 epochs: few images, on two cores.

The recipe of cifar10_lt.py on 1,236 images, a tenth of each class in the published order (the same
shuffle; imbalance ratio 100), with WideResNet-16-1 and no dropout. 500 images of each class that
are not in this subset are held out to choose on; the test set is whole.
With generated images a larger net is better (results/nets):
--config.model.widen_factor=2 takes more than twice as long.
Command: python main.py --config=configs/cifar10_lt_tenth.py:fill --workdir=runs/cifar10_tenth/fill
"""

from ml_collections import ConfigDict

from configs import cifar10_lt


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = cifar10_lt.get_config(method)
    config.dataset.num_max = 500
    config.dataset.validation_fraction = 0.1
    config.model.depth = 16
    config.model.widen_factor = 1
    config.model.dropout_rate = 0.0
    return config
