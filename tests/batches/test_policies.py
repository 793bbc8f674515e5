"""AutoAugment and RandAugment: every operation against Pillow, and what is drawn how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from osed_jax.batches import policies
from osed_jax.batches.augment import augment
from osed_jax.kinds import Kind
from tests.augmentations import only

SIZE = 32


def random_images(count=200):
    """Noise, smooth ones, dark ones, ones of few levels and flat ones."""
    random = np.random.RandomState(0)
    noise = random.randint(0, 256, (count, SIZE, SIZE, 3))
    smooth = np.asarray(
        [
            Image.fromarray(small.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            for small in random.randint(0, 256, (count, 4, 4, 3))
        ]
    )
    image = np.where(np.arange(count)[:, None, None, None] % 2, noise, smooth)
    image[::5] = image[::5] // 4 + 30
    image[::7] = image[::7] // 64 * 64
    image[:2] = 90
    return image.astype(np.uint8)


IMAGES = random_images()
OPERATE = jax.jit(policies.operate, static_argnames="num_levels")


def pillow(name, pixels, part, sign):
    """torchvision's operation at a part of its range, by Pillow alone."""
    image = Image.fromarray(pixels)
    direction = 1 if sign else -1

    def moved(*coefficients):
        return image.transform(image.size, Image.Transform.AFFINE, coefficients)

    shear, shift = direction * 0.3 * part, direction * int(150 / 331 * SIZE * part)
    enhance = {"Brightness": ImageEnhance.Brightness, "Color": ImageEnhance.Color}
    enhance |= {"Contrast": ImageEnhance.Contrast, "Sharpness": ImageEnhance.Sharpness}
    if name in enhance:
        return enhance[name](image).enhance(1 + direction * 0.9 * part)
    return {
        "ShearX": lambda: moved(1, shear, 0, 0, 1, 0),
        "ShearY": lambda: moved(1, 0, 0, shear, 1, 0),
        "TranslateX": lambda: moved(1, 0, -shift, 0, 1, 0),
        "TranslateY": lambda: moved(1, 0, 0, 0, 1, -shift),
        "Rotate": lambda: image.rotate(direction * 30 * part),
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(4 * part)),
        "Solarize": lambda: ImageOps.solarize(image, np.float32(255 * (1 - part))),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Identity": lambda: image,
    }[name]()


@pytest.mark.parametrize("num_levels", [policies.AUTOAUGMENT_LEVELS, policies.RANDAUGMENT_LEVELS])
@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_every_operation_is_within_one_level_of_pillow(name, num_levels):
    n = len(IMAGES)
    level, sign = np.arange(n) % num_levels, np.arange(n) // num_levels % 2
    operation = np.full(n, policies.OPERATIONS.index(name))
    got = OPERATE(jnp.asarray(IMAGES, jnp.int32), operation, level, sign, num_levels=num_levels)
    parts = level / (num_levels - 1)
    want = [np.asarray(pillow(name, *each)) for each in zip(IMAGES, parts, sign)]
    difference = np.abs(np.asarray(got) - np.asarray(want, int))
    assert difference.max() <= 1, f"{(difference > 1).any(axis=(1, 2, 3)).sum()} images"


def called(monkeypatch, draw):
    """What a policy asks for, image by image: [(operation, level, sign)] of each slot."""
    asked = []

    def note(x, operation, level, sign, num_levels):
        asked.append(np.stack([operation, level, sign], axis=1))
        return x

    monkeypatch.setattr(policies, "operate", note)
    draw(jnp.zeros((20_000, 2, 2, 3), jnp.int32))
    return asked


def as_often(seen, expected):
    """Whether what was seen has these probabilities; anything else must not be there."""
    assert set(seen) <= set(expected)
    names = [name for name in expected if expected[name]]
    count = np.asarray([seen.get(name, 0) for name in names])
    want = np.asarray([expected[name] for name in names]) * count.sum()
    return stats.chisquare(count, want).pvalue > 1e-3


def frequencies(rows):
    found, count = np.unique(rows, axis=0, return_counts=True)
    return {tuple(row): int(c) for row, c in zip(found.tolist(), count)}


@pytest.mark.parametrize("slot", [0, 1])
def test_autoaugment_draws_the_published_pairs(monkeypatch, slot):
    asked = called(monkeypatch, lambda x: policies.autoaugment(x, jax.random.key(1)))
    identity, expected = policies.OPERATIONS.index("Identity"), {}
    for pair in policies.AUTOAUGMENT_CIFAR10:
        name, prob, level = pair[slot]
        for sign in (0, 1):
            here = (policies.OPERATIONS.index(name), sign, level)
            none = (identity, sign, 0)
            expected[here] = expected.get(here, 0) + prob / 50
            expected[none] = expected.get(none, 0) + (1 - prob) / 50
    rows = asked[slot][:, [0, 2, 1]]
    rows[rows[:, 0] == identity, 2] = 0  # what is not done has no level
    assert as_often(frequencies(rows), expected)


def test_both_operations_of_a_pair_come_together(monkeypatch):
    first, second = called(monkeypatch, lambda x: policies.autoaugment(x, jax.random.key(2)))
    pairs = {
        tuple(policies.OPERATIONS.index(op[0]) for op in p) for p in policies.AUTOAUGMENT_CIFAR10
    }
    identity = policies.OPERATIONS.index("Identity")
    done = (first[:, 0] != identity) & (second[:, 0] != identity)
    assert {tuple(row) for row in np.stack([first[:, 0], second[:, 0]], axis=1)[done]} <= pairs
    signs = frequencies(np.stack([first[:, 2], second[:, 2]], axis=1))
    assert as_often(signs, dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 0.25))


def test_randaugment_draws_all_operations_alike_at_its_level(monkeypatch):
    asked = called(monkeypatch, lambda x: policies.randaugment(x, jax.random.key(1), 3, 9))
    assert len(asked) == 3 and not np.array_equal(asked[0], asked[1])
    among = [policies.OPERATIONS.index(name) for name in policies.RANDAUGMENT]
    assert len(among) == 14
    expected = {(op, 9, sign): 1 / 28 for op in among for sign in (0, 1)}
    assert all(as_often(frequencies(rows), expected) for rows in asked)


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment"])
def test_a_policy_changes_images_and_leaves_noise_alone(policy):
    kind = jnp.asarray([Kind.NATURAL, Kind.GENERATED, Kind.NOISE] * 10)
    jitted = jax.jit(augment, static_argnums=3)
    unit = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "noise_space": "pixel"}
    plain, changed = (
        np.asarray(jitted(jnp.asarray(IMAGES[10:40]), kind, jax.random.key(0), settings))
        for settings in (only(**unit), only(**unit, policy=policy))
    )
    noise = np.asarray(kind) == Kind.NOISE
    np.testing.assert_allclose(plain[noise], changed[noise], atol=1e-6)
    others = (plain != changed).any(axis=(1, 2, 3))[~noise]
    assert others.mean() > 0.5
    levels = changed[~noise] * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
