"""Loads the training or test set that `config.dataset.name` names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from osed_jax.config.choices import DATA_SETS
from osed_jax.data.folder import check_folder, load_folder
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.data.lists import check_lists, load_list
from osed_jax.data.tfds_images import load_tfds
from osed_jax.errors import UserError

_DIGITS_TEST_IMAGES = 50  # of each class


def load(
    name: str,
    split: str,
    *,
    data_dir: str,
    lists: Mapping[str, str],
    image_size: int,
    cache_dir: Path,
    max_decoded_gib: float,
) -> ImageSet:
    """Loads the whole training set (from which a long-tailed part is taken) or the test set.

    Args:
      name: one of `DATA_SETS`.
      split: `train` or `test`; of lists also `validation`.
      data_dir: the folder of images, of TFDS, or where the paths of lists begin.
      lists: split -> its list of images, for `list`.
      image_size: side in pixels to which images are resized; 0: their own size.
      cache_dir: where decoded folders are kept.
      max_decoded_gib: a folder or list that is larger is streamed from its files.

    Raises:
      UserError: for an unknown name or a data set that cannot be used.
    """
    if name == "digits":
        return load_digits(split, image_size)
    if name == "folder":
        return load_folder(
            data_dir,
            split,
            image_size=image_size,
            cache_dir=cache_dir,
            max_decoded_gib=max_decoded_gib,
        )
    if name == "list":
        return load_list(
            lists,
            split,
            root=data_dir,
            image_size=image_size,
            cache_dir=cache_dir,
            max_decoded_gib=max_decoded_gib,
        )
    if name in ("cifar10", "cifar100") or name.startswith("tfds:"):
        return load_tfds(
            name.removeprefix("tfds:"),
            split,
            data_dir=data_dir,
            image_size=image_size,
            max_decoded_gib=max_decoded_gib,
        )
    raise UserError(f"unknown data set {name!r}; use one of {', '.join(DATA_SETS)}")


def check_names(name: str, data_dir: str, lists: Mapping[str, str]) -> None:
    """Checks, before any image is decoded, that a data set in files is complete.

    Raises:
      UserError: if something is missing.
    """
    if name == "folder":
        check_folder(data_dir)
    if name == "list":
        check_lists(lists, data_dir)


def load_digits(split: str, image_size: int = 0) -> ImageSet:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey, as RGB.

    50 images of each class, chosen with a fixed seed, are the test set; the other 1,297 are the
    training set. A long-tailed run uses a part of it.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    if image_size not in (0, digits.images.shape[1]):
        raise UserError(
            f"config.dataset.image_size is {image_size}, but digits are 8x8 pixels; use 8 or 0"
        )
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    data = ImageSet(
        ArrayImages(np.repeat(grey[..., None], 3, axis=-1)),
        digits.target.astype(np.int64),
        tuple(str(d) for d in range(10)),
    )
    random = np.random.RandomState(0)
    of_class = [random.permutation(np.where(data.label == c)[0]) for c in range(10)]
    test = np.sort(np.concatenate([rows[:_DIGITS_TEST_IMAGES] for rows in of_class]))
    train = np.setdiff1d(np.arange(len(data.label)), test)
    return data.select(test if split == "test" else train)
