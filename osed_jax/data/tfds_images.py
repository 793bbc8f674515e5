"""Image-classification sets of TensorFlow Datasets."""

from typing import Any

import numpy as np
from PIL import Image

from osed_jax.data.bit_depth import scale, white_of
from osed_jax.data.decoding import fit
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.errors import UserError
from osed_jax.runtime.console import progress, say


def load_tfds(
    name: str, split: str, *, data_dir: str, image_size: int, max_decoded_gib: float
) -> ImageSet:
    """A split of a TFDS image-classification set, which is downloaded if it is not there.

    TFDS shuffles as it writes; a set whose examples have an `id` (CIFAR: `train_%05d`) is sorted
    by it, which restores the original order that the published subsets refer to.

    Args:
      name: as TFDS knows it, for example `cifar10` or `oxford_flowers102`.
      split: `train` or `test`; if the set has no test split, or hides its labels, its validation
        split is used.
      data_dir: of TFDS; "" for its default.
      image_size: side in pixels; 0 to keep the size that all images of the set share.
      max_decoded_gib: the set must not be larger than this once decoded, in GiB.

    Raises:
      UserError: for an unknown set, one that is not for image classification, too large or without
        labels, or a download that fails.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise UserError(
            f"TFDS set {name!r} has no images with class labels; its features are "
            f"{', '.join(features)}; choose an image classification set"
        )
    splits = builder.info.splits
    if split == "test":
        split = _judged_split(name, builder)
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
    found = _read(builder, split, size)
    if found.label.min() < 0:
        raise UserError(_hidden(name, split))
    return found


def _judged_split(name: str, builder: Any) -> str:
    """The split for testing: the first of test and validation that has labels."""
    there = [s for s in ("test", "validation") if s in builder.info.splits]
    labelled = [s for s in there if _has_labels(builder, s)]
    if there and not labelled:
        raise UserError(_hidden(name, " and ".join(there)))
    if labelled and labelled[0] != "test":
        why = "hides the labels of its test split" if "test" in there else "has no test split"
        say(f"note: TFDS set {name!r} {why}, so its validation split is the test set here")
    return labelled[0] if labelled else "test"


def _has_labels(builder: Any, split: str) -> bool:
    """Whether a split has labels. Hidden labels are all -1, so one example is enough."""
    import tensorflow_datasets as tfds

    for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False).take(1)):
        return int(example["label"]) >= 0
    return True


def _hidden(name: str, split: str) -> str:
    return (
        f"the {split} split of TFDS set {name!r} has hidden labels (-1), so nets cannot be judged "
        f"on it; export labelled images as folders and use dataset.name=folder"
    )


def _prepared(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except (tfds.core.DatasetNotFoundError, ValueError, AttributeError) as error:
        raise UserError(
            f"TFDS has no set {name!r} ({str(error).splitlines()[0]}); see the TFDS catalogue"
        ) from error
    try:
        # Only the original archive: looking for a prepared copy takes minutes without a network.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # a failed download can raise many kinds of error
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

    tf.config.set_visible_devices([], "GPU")  # accelerators are left to JAX
    info = builder.info
    images, labels, ids = [], [], []
    examples = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
    total = info.splits[split].num_examples
    white = _white_of(builder, split)
    for example in progress(examples, total=total, unit="image", label=f"reading {split}"):
        pixels = example["image"]
        if pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        if white:
            pixels = scale(pixels, white)
        images.append(np.asarray(fit(Image.fromarray(pixels), image_size)))
        labels.append(int(example["label"]))
        ids.append(example.get("id", b""))
    order = np.argsort(np.asarray(ids), kind="stable")
    array, label = np.stack(images)[order], np.asarray(labels, np.int64)[order]
    return ImageSet(ArrayImages(array, white=white), label, tuple(info.features["label"].names))


def _white_of(builder: Any, split: str) -> float:
    """The white value of a split with more than 8 bits per value; 0 for 8 bits."""
    import tensorflow_datasets as tfds

    white = 0.0
    for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)):
        if example["image"].dtype == np.uint8:
            return 0.0
        white = max(white, white_of(example["image"]))
    say(f"note: the {split} images have more than 8 bits per value; {white:,.6g} is taken as white")
    return white
