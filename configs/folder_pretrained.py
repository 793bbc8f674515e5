"""Your own photographs at 224 pixels: a ResNet that starts from ImageNet's weights, on a GPU.

Images: DIR/train/CLASS/* and DIR/test/CLASS/*, of any format and size. They are kept at 256 pixels.
The net sees a random part of each in training and its middle in evaluation.
Weights: torchvision's ResNet-18, from the hub; the last layer begins anew. For ResNet-50 give
--config.model.name=resnet50 --config.init.weights=timm/resnet50.tv_in1k. A safetensors or PyTorch
file with torchvision's or timm's names does as well.
Recipe: that of Liu et al. 2019 (OLTR) for Places-LT, also from ImageNet's weights: 30 epochs, the
last layer at a learning rate of 0.1 and all else at a hundredth of it. OLTR crops before it resizes
to 256. No accuracy was measured with it here.
Command:
  python main.py --config=configs/folder_pretrained.py:fill --workdir=runs/mine/fill
      --config.dataset.data_dir=DIR --config.oversampling.generated_dir=GENERATED
"""

from ml_collections import ConfigDict

from configs import folder

# Of ImageNet, as torchvision has them: what the weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = folder.get_config(method)
    show_224_pixels(config)
    config.model.name = "resnet18"
    config.init.weights = "timm/resnet18.tv_in1k"
    config.train.num_epochs = 30
    config.optimizer.pretrained_factor = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_at = (1 / 3, 2 / 3)
    config.optimizer.decay_factor = 0.1
    return config


def show_224_pixels(config: ConfigDict) -> None:
    """Sets, in the config itself, what OLTR shows its nets."""
    config.dataset.image_size = 256
    config.dataset.mean = MEAN
    config.dataset.std = STD
    config.augment.crop_size = 224
    config.augment.crop_padding = 0
    config.augment.cutout = 0
    config.augment.color_jitter = (0.4, 0.4, 0.4, 0.0)
    config.augment.color_jitter_prob = 1.0
    config.augment.grayscale_prob = 0.0
    config.augment.blur_prob = 0.0
    config.evaluate.batch_size = 128  # images of 224 pixels are 49 times those of 32
