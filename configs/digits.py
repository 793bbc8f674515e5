"""Long-tailed handwritten digits: the smallest experiment, with nothing to download.

Data: scikit-learn's 8x8 digits, imbalance ratio 20 (100 ... 5 training images a class).
Net: WideResNet-10-1 on 8x8 pixels; less than a minute on a CPU.
Command: python main.py --config=configs/digits.py:open --workdir=runs/digits/open
"""

from ml_collections import ConfigDict

from configs import default


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = default.get_config(method)
    config.dataset.name = "digits"
    config.dataset.num_max = 100
    config.dataset.imbalance_ratio = 20.0
    config.model.depth = 10
    config.model.widen_factor = 1
    config.model.dropout_rate = 0.0
    config.train.num_epochs = 60
    config.train.batch_size = 32
    # A mirrored digit is not a digit, and 16 pixels are more than there are.
    config.augment.flip = False
    config.augment.crop_padding = 1
    config.augment.cutout = 0
    config.augment.color_jitter_prob = 0.0
    config.augment.grayscale_prob = 0.0
    config.augment.blur_prob = 0.0
    # The generator: a miniature that learns from the digits that the long tail leaves out.
    config.finetune.base = "miniature"
    config.finetune.output_dir = "runs/digits/generator"
    config.finetune.images = "rest"
    config.finetune.image_size = 0
    config.finetune.num_steps = 1500
    config.finetune.batch_size = 64
    config.finetune.learning_rate = 1.5e-3
    config.finetune.ema_decay = 0.998
    config.finetune.samples_per_class = 10
    config.generation.model = config.finetune.output_dir
    config.generation.templates = ("{class}",)  # short: a random text encoder blurs more
    config.generation.batch_size = 50
    config.oversampling.generated_dir = "runs/digits/generated"
    return config
