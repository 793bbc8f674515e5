"""CIFAR-10-LT in a short training for a CPU: WideResNet-16-1, 40 epochs.

The recipe of cifar10_lt.py with its schedule scaled from 200 epochs: warm-up in the first, decay
at 32 and 36, deferred methods from 32. No dropout, as the net is small and the training short. A
tenth of the training images is held out to choose on. So the most frequent class has 4,500 images,
and the training set has 11,165, all of them part of the published subset.
Time: 20 minutes on one core. Top-1: results/forty_epochs.
Command:
  python main.py --config=configs/cifar10_lt_small.py:open --workdir=runs/cifar10_small/open
"""

from ml_collections import ConfigDict

from configs import cifar10_lt


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = cifar10_lt.get_config(method)
    config.train.num_epochs = 40
    config.train.eval_every_epochs = 8
    config.dataset.validation_fraction = 0.1
    config.model.depth = 16
    config.model.widen_factor = 1
    config.model.dropout_rate = 0.0
    return config
