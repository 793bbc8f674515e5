"""What filters see and say."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from osed_jax.generation.filters import Filters, Opinions, Prototypes, perceptual_hash, ranks
from osed_jax.kinds import Kind
from osed_jax.models.resnet import ResNet
from osed_jax.models.wide_resnet import WideResNet
from osed_jax.store.records import encode, sha256


def smooth(seed: int, size: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def verdicts(filters, images, labels=None):
    """Reasons of images judged one after the other, as the loop does it."""
    labels = np.zeros(len(images), int) if labels is None else np.asarray(labels)
    reasons = []
    for image, label in zip(images, labels):
        score = filters.score(image[None], label[None])[0]
        record = {"label": int(label), "sha256": sha256(encode(image)), **score}
        reasons.append(filters.reason(record))
        if reasons[-1] is None:
            filters.remember(record)
    return reasons


def test_nothing_is_rejected_where_all_filters_are_off():
    black = np.zeros((8, 8, 3), np.uint8)
    assert verdicts(Filters(), [black, black]) == [None, None]
    assert set(Filters().score(black[None], np.zeros(1, int))[0].values()) == {None}


def test_constant_images_are_rejected():
    black = np.zeros((8, 8, 3), np.uint8)
    faint = black + np.arange(8, dtype=np.uint8)[:, None]  # deviates by 2.3 / 255
    filters = Filters(min_deviation=0.02)
    assert verdicts(filters, [black, black + 255, faint, smooth(0)]) == ["constant"] * 3 + [None]
    assert verdicts(Filters(min_deviation=0.005), [faint]) == [None]


def test_duplicates_are_rejected_within_a_class():
    images = [smooth(0), smooth(1), smooth(0), smooth(0)]
    reasons = verdicts(Filters(drop_duplicates=True), images, [0, 0, 0, 1])
    assert reasons == [None, None, "duplicate", None]


def test_near_duplicates_are_rejected_within_a_class():
    bright = np.clip(smooth(0).astype(int) // 2 + 40, 0, 255).astype(np.uint8)
    small = np.asarray(Image.fromarray(smooth(0)).resize((32, 32), Image.Resampling.BOX))
    images = [smooth(0), smooth(1), bright, small, bright]
    reasons = verdicts(Filters(near_duplicate_bits=6), images, [0, 0, 0, 0, 1])
    assert reasons == [None, None, "near duplicate", "near duplicate", None]


def test_a_perceptual_hash_compares_neighbours():
    falling = np.repeat(np.arange(72, 0, -1, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    assert perceptual_hash(falling) == 2**64 - 1
    assert perceptual_hash(falling[:, ::-1].copy()) == 0
    half = falling.copy()
    half[:32] = falling[:32, ::-1]
    assert perceptual_hash(half) == 2**32 - 1, "the upper rows are the first bits"


def test_a_classifiers_opinion_rejects_what_it_does_not_recognise():
    opinions = lambda images, labels: Opinions(np.array([3]), np.array([1.5]))  # noqa: E731
    image = smooth(0)
    assert verdicts(Filters(classifier_top_k=2, opinions=opinions), [image]) == ["not recognised"]
    assert verdicts(Filters(classifier_top_k=3, opinions=opinions), [image]) == [None]
    far = verdicts(Filters(max_feature_distance=1.4, opinions=opinions), [image])
    assert far == ["far from real images"]
    assert verdicts(Filters(max_feature_distance=1.6, opinions=opinions), [image]) == [None]


def test_ranks_count_the_classes_before():
    logits = np.array([[0.1, 3.0, 2.0], [0.1, 3.0, 2.0], [5.0, 0.0, 1.0]])
    np.testing.assert_array_equal(ranks(logits, np.array([2, 0, 0])), [2, 3, 1])


def test_distances_are_in_units_of_real_images():
    angle = np.array([0.0, 0.2, 1.0, 1.4])
    length = np.array([[1.0], [7.0], [2.0], [3.0]])  # has no part in it
    real = length * np.stack([np.cos(angle), np.sin(angle)], 1)
    prototypes = Prototypes(real, np.array([0, 0, 1, 1]), 2)
    own = prototypes.distance(real, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(own, np.sin([0.1, 0.1, 0.2, 0.2]) / np.sin([0.1, 0.2]).mean())
    assert prototypes.distance(real[:1], np.array([1]))[0] > 5


@pytest.mark.parametrize("net", [ResNet(4, depth=8), WideResNet(4, depth=10, widen_factor=1)])
def test_features_are_what_the_last_layer_sees_and_no_parameters(net):
    image, kind = jnp.ones((2, 8, 8, 3)), jnp.full((2,), Kind.NATURAL)
    variables = net.init(jax.random.key(0), image, kind, train=False)
    assert set(variables) == {"params", "batch_stats"}
    logits, seen = net.apply(variables, image, kind, train=False, mutable=["intermediates"])
    features = seen["intermediates"]["features"][0]
    last = nn.Dense(4).apply({"params": variables["params"]["Dense_0"]}, features)
    np.testing.assert_allclose(logits, last, rtol=1e-5)
