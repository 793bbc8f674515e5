"""Image-classification sets of TensorFlow Datasets."""

from typing import Any

import numpy as np
from PIL import Image

from osed_jax.console import progress
from osed_jax.data.decoding import fit
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.errors import UserError


def load_tfds(
    name: str, split: str, *, data_dir: str, image_size: int, max_decoded_gib: float
) -> ImageSet:
    """A split of a TFDS image-classification set, which is downloaded where it is not there.

    TFDS shuffles as it writes; a set whose examples have an `id` (CIFAR: `train_%05d`) is sorted
    by it, which restores the original order that the published subsets refer to.

    Args:
      name: as TFDS knows it, for example `cifar10` or `oxford_flowers102`.
      split: `train` or `test`; where the set has no test split, its validation split is taken.
      data_dir: of TFDS; "" for its default.
      image_size: side in pixels; 0 to keep the size that all images of the set share.
      max_decoded_gib: the set must not be larger than this once decoded, in GiB.

    Raises:
      UserError: for an unknown set, one that is not for image classification or too large, or a
        download that fails.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise UserError(
            f"TFDS set {name!r} has no image with a class label; its features are "
            f"{', '.join(features)}"
        )
    splits = builder.info.splits
    if split == "test" and "test" not in splits:
        split = "validation"
    if split not in splits:
        raise UserError(
            f"TFDS set {name!r} has the splits {', '.join(splits)}; train and test are needed"
        )
    size = image_size or features["image"].shape[0]
    if size is None:
        raise UserError(
            f"the images of TFDS set {name!r} differ in size; set config.dataset.image_size"
        )
    gib = splits[split].num_examples * size**2 * 3 / 2**30
    if gib > max_decoded_gib:
        raise UserError(
            f"the {split} split of TFDS set {name!r} takes {gib:.1f} GiB decoded to "
            f"{size}x{size}, and config.dataset.max_decoded_gib is {max_decoded_gib:g}; raise it, "
            f"lower config.dataset.image_size, or export the set as folders and use "
            f"dataset.name=folder"
        )
    return _read(builder, split, size)


def _prepared(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (tfds.core.DatasetNotFoundError, ValueError, AttributeError) as error:
        raise UserError(
            f"TFDS knows no set {name!r} ({str(error).splitlines()[0]}); see the TFDS catalogue"
        ) from error
    try:
        # The original archive alone: looking for a prepared copy takes minutes without a network.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # a download fails in many ways, each with a class of its own
        raise UserError(
            f"TFDS set {name!r} is not in {builder.data_dir} and could not be prepared "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}"
            f"); prepare it where there is a network, or put the original archive into the "
            f"download folder, and name the folder by config.dataset.data_dir"
        ) from error
    return builder


def _read(builder: Any, split: str, image_size: int) -> ImageSet:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # the accelerators are JAX's
    info = builder.info
    images, labels, ids = [], [], []
    examples = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    total = info.splits[split].num_examples
    for example in progress(examples, total=total, unit="image", label=f"reading {split}"):
        pixels = example["image"]
        if pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        images.append(np.asarray(fit(Image.fromarray(pixels), image_size)))
        labels.append(int(example["label"]))
        ids.append(example.get("id", b""))
    order = np.argsort(np.asarray(ids), kind="stable")
    array, label = np.stack(images)[order], np.asarray(labels, np.int64)[order]
    return ImageSet(ArrayImages(array), label, tuple(info.features["label"].names))
