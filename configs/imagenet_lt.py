"""ImageNet-LT: 1,000 classes with 1,280 to 5 photographs; ResNet-50 at 224 pixels.

Data (Liu et al., "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019, OLTR): 115,846
training, 20,000 validation and 50,000 test images of ImageNet 2012, named by three lists in
https://github.com/zhmiao/OpenLongTailRecognition-OLTR. DIR is the folder of ImageNet that holds
train/ and val/. Groups of classes: many (more than 100 training images), medium, few (fewer than
20).
Recipe (Kang et al., "Decoupling Representation and Classifier", ICLR 2020): from random weights, 90
epochs, batches of 512, a cosine from 0.2. Their cRT is :erm with --config.train.head_epochs=10.
Theirs crops before it resizes to 256. For an accelerator or several: nothing was run here.
Published top-1, % (the papers' figures): docs/reference/methods.md has them.
Command:
  python main.py --config=configs/imagenet_lt.py:la --workdir=runs/imagenet_lt/la
      --config.dataset.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import default
from configs.folder_pretrained import show_224_pixels

LISTS = "data/ImageNet_LT/ImageNet_LT"  # where OLTR keeps them


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = default.get_config(method)
    show_224_pixels(config)
    config.dataset.name = "list"
    config.dataset.train_list = f"{LISTS}_train.txt"
    config.dataset.validation_list = f"{LISTS}_val.txt"
    config.dataset.test_list = f"{LISTS}_test.txt"
    config.dataset.imbalance_profile = "none"
    config.dataset.groups = "thresholds"
    config.model.name = "resnet50"
    config.train.num_epochs = 90
    config.train.batch_size = 512
    config.optimizer.learning_rate = 0.2
    config.optimizer.head_learning_rate = 0.2
    config.optimizer.weight_decay = 5e-4
    config.optimizer.warmup_epochs = 0
    config.optimizer.schedule = "cosine"
    return config
