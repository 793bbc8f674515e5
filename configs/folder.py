"""Your own images: DIR/train/CLASS/* and DIR/test/CLASS/*, of any format and size.

They are resized to 32 pixels. WideResNet-28-10 and 200 epochs take a GPU; on a CPU add
--config.model.depth=16 --config.model.widen_factor=1 --config.model.dropout_rate=0.
All training images are used as they are. To cut a long tail out of a balanced set, add
--config.dataset.imbalance_profile=exp --config.dataset.imbalance_ratio=100.
docs/guide/own-images.md goes through it step by step.
Commands:
  python main.py --config=configs/folder.py:la --workdir=runs/mine/la
      --config.dataset.data_dir=DIR
  python main.py --config=configs/folder.py:fill --workdir=runs/mine/fill
      --config.dataset.data_dir=DIR --config.oversampling.generated_dir=GENERATED
"""

from ml_collections import ConfigDict

from configs import default


def get_config(method: str = "erm") -> ConfigDict:
    """Returns the configuration; `method` is the part after the colon."""
    config = default.get_config(method)
    config.dataset.name = "folder"
    config.dataset.image_size = 32
    config.dataset.imbalance_profile = "none"
    return config
