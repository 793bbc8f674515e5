"""Your own images: DIR/train/CLASS/* and DIR/test/CLASS/*, any format, size and mode.

Command:
  python main.py --config=configs/folder.py:osed --workdir=runs/mine/osed
      --config.dataset.data_dir=DIR --config.oversampling.generated_dir=GENERATED
All training images are used as they are. To cut a long tail out of a balanced set, add
--config.dataset.imbalance_profile=exp --config.dataset.imbalance_ratio=100.
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
