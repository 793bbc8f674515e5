"""TFDS sets, in TFDS' own record format: a small CIFAR-10 that the test writes with it."""

import hashlib

import numpy as np
import pytest

from osed_jax.data import long_tail
from osed_jax.data.datasets import load
from osed_jax.errors import UserError

RANDOM = np.random.RandomState(0)
NAMES = tuple(f"class {c}" for c in range(10))
COUNTS = {"train": 60, "test": 20}
LABEL = {split: RANDOM.randint(0, 10, n) for split, n in COUNTS.items()}
IMAGE = {
    split: RANDOM.randint(0, 256, (n, 32, 32, 3)).astype(np.uint8) for split, n in COUNTS.items()
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """TFDS' cifar10 builder, fed with our images instead of the download."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("cifar10", data_dir=folder)

    def examples(split):
        for i in range(COUNTS[split]):
            key = f"{split}_{i:05d}"
            yield key, {"id": key, "image": IMAGE[split][i], "label": int(LABEL[split][i])}

    def split_generators(*_, **__):
        builder.info.features["label"].names = NAMES  # where the real one reads the archive's
        return {split: examples(split) for split in COUNTS}

    builder._split_generators = split_generators
    builder.download_and_prepare()
    return folder


def read(data_dir, split="train", name="cifar10", image_size=0):
    return load(
        name,
        split,
        data_dir=str(data_dir),
        lists={},
        image_size=image_size,
        cache_dir=data_dir,
        max_decoded_gib=1.0,
    )


def test_tfds_did_shuffle(data_dir):
    import tensorflow_datasets as tfds

    stored = tfds.builder("cifar10", data_dir=data_dir).as_dataset(
        split="train", shuffle_files=False
    )
    ids = [example["id"] for example in tfds.as_numpy(stored)]
    assert ids != sorted(ids)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["cifar10", "tfds:cifar10"])
def test_the_original_order_is_restored(data_dir, split, name):
    data = read(data_dir, split, name)
    np.testing.assert_array_equal(data.label, LABEL[split])
    np.testing.assert_array_equal(data.images.take(np.arange(COUNTS[split])), IMAGE[split])
    assert data.class_names == NAMES


def test_so_the_subset_is_the_canonical_one(data_dir):
    counts = np.minimum(np.bincount(LABEL["train"], minlength=10), 3)
    random, chosen = np.random.RandomState(0), []
    for c, n in enumerate(counts):  # Cao et al.'s code, on the original labels
        index = np.where(LABEL["train"] == c)[0]
        random.shuffle(index)
        chosen += index[:n].tolist()
    want = hashlib.sha256(np.sort(chosen).astype("<i8").tobytes()).hexdigest()
    got = long_tail.canonical_subset(read(data_dir).label, counts)
    assert long_tail.subset_sha256(got) == want


def test_images_are_resized_where_asked(data_dir):
    assert read(data_dir, image_size=16).images.take(np.arange(2)).shape == (2, 16, 16, 3)


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no set 'no_such_set'"):
        read(tmp_path, name="tfds:no_such_set")


def test_a_set_that_cannot_be_prepared_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'imagenet2012' is not in .* could not be prepared"):
        read(tmp_path, name="tfds:imagenet2012")  # its archive must be put there by hand


def written(folder, name, splits):
    """A TFDS set of its own: split -> (images, labels)."""
    import tensorflow_datasets as tfds

    shape, dtype = splits["train"][0].shape[1:], splits["train"][0].dtype
    image = (
        tfds.features.Image(shape=shape)
        if dtype == np.uint8
        else tfds.features.Tensor(shape=shape, dtype=dtype)
    )
    features = tfds.features.FeaturesDict(
        {"image": image, "label": tfds.features.ClassLabel(names=["a", "b"])}
    )

    with tfds.core.registered.skip_registration():

        class Written(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, manager):
                return {s: self._generate_examples(*both) for s, both in splits.items()}

            def _generate_examples(self, images, labels):
                for i, (one, label) in enumerate(zip(images, labels)):
                    yield i, {"image": one, "label": int(label)}

        Written.name = name
    builder = Written(data_dir=folder / "-".join(splits))
    builder.download_and_prepare()
    return builder


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    def use(splits):
        builder = written(tmp_path, "small_set", splits)
        monkeypatch.setattr("osed_jax.data.tfds_images._prepared", lambda *_: builder)

    return use


def test_a_test_split_without_labels_gives_way_to_validation(prepared, tmp_path, capsys):
    image = RANDOM.randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    shown, hidden = (image, [0, 1, 0, 1]), (image, [-1] * 4)
    prepared({"train": shown, "test": hidden, "validation": shown})
    assert sorted(read(tmp_path, "test", "tfds:small_set").label) == [0, 0, 1, 1]
    assert "hides the labels of its test split, so its validation" in capsys.readouterr().out
    prepared({"train": shown, "test": hidden})
    with pytest.raises(UserError, match=r"the test split of .* has hidden labels"):
        read(tmp_path, "test", "tfds:small_set")


def test_images_deeper_than_8_bits_fill_the_range(prepared, tmp_path):
    image = RANDOM.randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    image[0, 0, 0] = 255
    deep = (image.astype(np.float32) / 255, [0, 1, 0, 1])
    prepared({"train": deep})
    seen = read(tmp_path, "train", "tfds:small_set").images
    assert {i.tobytes() for i in seen.take(np.arange(4))} == {i.tobytes() for i in image}
