"""Each augmentation against Pillow, SciPy, colorsys or plain NumPy."""

import colorsys
import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from osed_jax.batches import augment as aug
from osed_jax.batches import crops
from osed_jax.kinds import Kind
from tests.augmentations import only

RANDOM = np.random.RandomState(0)
UINT8 = RANDOM.randint(0, 256, (6, 16, 16, 3)).astype(np.uint8)
UINT8[0] = UINT8[0, ..., :1]  # one grey image: no hue
X = (UINT8 / 255).astype(np.float32)
PLAIN = only(mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))
KEY = jax.random.key(3)


def settings(**changes):
    return dataclasses.replace(PLAIN, **changes)


def seen(image=UINT8, kind=None, key=KEY, **changes):
    """What the net sees, brought back from the normalisation to [0, 1]."""
    kind = np.zeros(len(image), int) if kind is None else kind
    out = aug.augment(jnp.asarray(image), jnp.asarray(kind), key, settings(**changes))
    return np.asarray(out) * np.array(PLAIN.std) + np.array(PLAIN.mean)


def jitter(factors, turn=0.0, order=(0, 1, 2), hue_slot=0):
    n = len(X)
    return np.asarray(
        aug.color_jitter(
            jnp.asarray(X),
            jnp.tile(jnp.asarray([factors]), (n, 1)),
            jnp.full(n, turn),
            jnp.tile(jnp.asarray([order]), (n, 1)),
            jnp.full(n, hue_slot),
        )
    )


def test_without_operations_only_normalises():
    out = aug.augment(jnp.asarray(UINT8), jnp.zeros(6, int), KEY, PLAIN)
    np.testing.assert_allclose(out, (X - PLAIN.mean) / PLAIN.std, atol=1e-4)


def test_the_draws_of_an_operation_follow_from_its_name():
    """Oracle: the centres drawn from the key that is folded with the name's CRC-32."""
    key = jax.random.fold_in(KEY, zlib.crc32(b"cutout"))
    centre = np.asarray(jax.random.randint(key, (6, 2), 0, 16))
    out = seen(np.full_like(UINT8, 255), cutout=2)[..., 0]
    for image, (y, x) in zip(out, centre):
        assert image[y, x] == pytest.approx(0, abs=1e-3)


def test_an_operation_leaves_the_draws_of_the_others_alone():
    """Cutout's squares are black: where they lie is the same with and without other operations."""
    bright = np.full_like(UINT8, 255)
    alone = seen(bright, cutout=4)
    among = seen(bright, cutout=4, flip=True, grayscale_prob=1.0)
    np.testing.assert_allclose(alone, among, atol=1e-3)
    cut = {tuple(np.argwhere(image[..., 0] < 0.5)[0]) for image in alone}
    assert len(cut) > 1, "each image has its own square"


def test_flip_mirrors_about_half_of_the_images():
    many = np.tile(UINT8[1:2], (400, 1, 1, 1))
    out = seen(many, flip=True)
    mirrored = np.isclose(out, X[1][:, ::-1], atol=1e-5).all((1, 2, 3))
    same = np.isclose(out, X[1], atol=1e-5).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert stats.binomtest(int(mirrored.sum()), 400, 0.5).pvalue > 1e-3


def test_crop_cuts_from_the_padded_image():
    corner = np.array([[0, 0], [4, 4], [8, 8], [1, 7], [3, 0], [8, 2]])
    out = aug.crop(jnp.asarray(X), jnp.asarray(corner), 4)
    padded = np.pad(X, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for image, big, (y, x) in zip(out, padded, corner):
        np.testing.assert_array_equal(image, big[y : y + 16, x : x + 16])


def test_every_crop_comes_up():
    image = np.zeros((2000, 16, 16, 3), np.uint8)
    image[:, 8, 8] = 255  # where the bright pixel lands tells the corner
    out = seen(image, crop_padding=2)[..., 0]
    landed = out.reshape(len(out), -1).argmax(1)
    y, x = landed // 16 - 6, landed % 16 - 6
    count = np.bincount(5 * y + x, minlength=25)
    assert count.shape == (25,) and stats.chisquare(count).pvalue > 1e-3


@pytest.mark.parametrize("size", [7, 24])
def test_a_part_is_resized_as_pillow_does(size):
    """Within and at the borders, made smaller and larger; Pillow in float, channel by channel."""
    boxes = np.array([[0, 0, 16, 16], [2, 5, 9, 11], [1, 0, 3, 15], [10, 12, 6, 4], [0, 7, 1, 1]])
    got = crops.resized(jnp.asarray(X[1:]), jnp.asarray(boxes, jnp.float32), size)
    for image, (y, x, height, width), out in zip(X[1:], boxes, np.asarray(got)):
        for c in range(3):
            plane = Image.fromarray(np.ascontiguousarray(image[..., c]))
            box = (x, y, x + width, y + height)
            want = plane.resize((size, size), Image.Resampling.BILINEAR, box=box)
            np.testing.assert_allclose(out[..., c], np.asarray(want), atol=1e-5)


def test_random_parts_have_the_areas_and_ratios_of_torchvision():
    """Oracle: torchvision's RandomResizedCrop in NumPy, image by image."""
    draw = jax.jit(crops.random_boxes, static_argnums=(1, 2, 3, 4))
    n, size, scale, ratio = 4000, 64, (0.08, 1.0), (3 / 4, 4 / 3)
    y, x, height, width = np.asarray(draw(KEY, n, size, scale, ratio)).T
    for first, side in ((y, height), (x, width)):
        assert (first >= 0).all() and (first + side <= size).all() and (side >= 1).all()
        assert (first == np.round(first)).all() and (side == np.round(side)).all()
        free = size - side > 8
        assert abs((first[free] / (size - side[free])).mean() - 0.5) < 0.02
    random, want = np.random.RandomState(0), []
    for _ in range(n):
        for _ in range(10):
            area = size**2 * random.uniform(*scale)
            aspect = np.exp(random.uniform(*np.log(ratio)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if w <= size and h <= size:
                break
        else:
            w = h = size
        want.append((h, w))
    for got, expected in zip((height, width), np.transpose(want)):
        assert stats.ks_2samp(got, expected).pvalue > 0.01
    assert stats.ks_2samp(width / height, [w / h for h, w in want]).pvalue > 0.01


def test_with_a_crop_the_net_sees_a_part_in_training_and_the_middle_at_test_time():
    cropping = settings(crop_size=12)

    @jax.jit
    def views(image):
        boxes = crops.random_boxes(
            aug.named(KEY, "random_resized_crop"), 6, 16, (0.08, 1.0), (3 / 4, 4 / 3)
        )
        return (
            aug.augment(image, jnp.zeros(6, int), KEY, cropping),
            aug.normalise(crops.resized(image / 255, boxes, 12), cropping),
            aug.at_test_time(image, cropping),
            aug.at_test_time(image, PLAIN),
        )

    training, part, middle, whole = views(jnp.asarray(UINT8))
    assert training.shape == (6, 12, 12, 3)
    np.testing.assert_allclose(training, part, atol=1e-4)
    np.testing.assert_allclose(middle, (X[:, 2:14, 2:14] - PLAIN.mean) / PLAIN.std, atol=1e-4)
    np.testing.assert_allclose(whole, (X - PLAIN.mean) / PLAIN.std, atol=1e-4)


def test_cutout_blackens_a_square():
    centre = np.array([[8, 8], [0, 0], [15, 15], [3, 12], [0, 15], [7, 1]])
    out = aug.cutout(jnp.asarray(X), jnp.asarray(centre), 6)
    for image, source, (y, x) in zip(out, X, centre):
        want = source.copy()
        want[max(y - 3, 0) : y + 3, max(x - 3, 0) : x + 3] = 0
        np.testing.assert_array_equal(image, want)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_brightness_contrast_saturation_equal_pillow(which, factor):
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
    factors = [1.0, 1.0, 1.0]
    factors[which] = factor
    got = jitter(factors)
    for image, pixels in zip(got, UINT8):
        want = np.asarray(enhance(Image.fromarray(pixels)).enhance(factor)) / 255
        np.testing.assert_allclose(image, want, atol=2.5 / 255)  # Pillow rounds to 8 bits


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.07, 0.5])
def test_hue_equals_colorsys(turn):
    got = np.asarray(aug.adjust_hue(jnp.asarray(X), jnp.full(6, turn)))
    hsv = np.array([colorsys.rgb_to_hsv(*p) for p in X.reshape(-1, 3).astype(float)])
    want = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]
    np.testing.assert_allclose(got.reshape(-1, 3), want, atol=1e-5)


def test_jitter_follows_its_order():
    def numpy_jitter(x, factors, turn, order, hue_slot):
        def luma(x):
            return (x @ [0.2989, 0.587, 0.114])[..., None]

        others = (lambda x: 0 * x, lambda x: luma(x).mean(), luma)
        steps = [
            lambda x, w=w: np.clip(factors[w] * x + (1 - factors[w]) * others[w](x), 0, 1)
            for w in order
        ]

        def hue(x):
            turned = [colorsys.rgb_to_hsv(*p) for p in x.reshape(-1, 3)]
            back = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in turned]
            return np.array(back).reshape(x.shape)

        for step in [*steps[:hue_slot], hue, *steps[hue_slot:]]:
            x = step(x)
        return x

    factors, turn = (1.4, 0.6, 1.3), 0.1
    for order, hue_slot in [((0, 1, 2), 0), ((2, 0, 1), 1), ((1, 2, 0), 3), ((2, 1, 0), 2)]:
        got = jitter(factors, turn, order, hue_slot)
        want = np.stack([numpy_jitter(x, factors, turn, order, hue_slot) for x in X.astype(float)])
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_random_jitter_stays_in_its_range_and_is_each_image_own():
    many = np.tile(np.full((1, 4, 4, 3), 100, np.uint8), (500, 1, 1, 1))
    out = seen(many, color_jitter=(0.4, 0.0, 0.0, 0.0), color_jitter_prob=1.0)
    factor = out[:, 0, 0, 0] / (100 / 255)
    assert stats.kstest((factor - 0.6) / 0.8, "uniform").pvalue > 1e-3


def test_greyscale_is_luma():
    out = seen(grayscale_prob=1.0)
    want = np.repeat((X @ [0.2989, 0.587, 0.114])[..., None], 3, -1)
    np.testing.assert_allclose(out, want, atol=1e-5)


def test_blur_equals_scipy():
    sigma = np.array([0.1, 0.3, 0.5, 1.0, 1.5, 2.0], np.float32)
    got = aug.gaussian_blur(jnp.asarray(X), jnp.asarray(sigma))
    for image, source, s in zip(got, X, sigma):
        # SciPy's "mirror" is the reflection that leaves the border pixel single.
        want = ndimage.gaussian_filter(source, (s, s, 0), mode="mirror", radius=(1, 1, 0))
        np.testing.assert_allclose(image, want, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "extra"),
    [
        ("color_jitter_prob", {"color_jitter": (0.4, 0.4, 0.4, 0.1)}),
        ("grayscale_prob", {}),
        ("blur_prob", {"blur_sigma": (1.0, 2.0)}),
    ],
)
def test_probabilities_hold(field, extra):
    many = np.tile(UINT8[1:2], (600, 1, 1, 1))
    changed = ~np.isclose(seen(many, **{field: 0.3}, **extra), X[1], atol=1e-4).all((1, 2, 3))
    assert stats.binomtest(int(changed.sum()), 600, 0.3).pvalue > 1e-3


def test_noise_has_the_distribution_of_the_paper():
    kind = np.full(2000, Kind.NOISE)
    blank = np.zeros((2000, 8, 8, 3), np.uint8)
    everything = {"flip": True, "cutout": 4, "blur_prob": 1.0, "noise_space": "pixel"}
    out = seen(blank, kind, **everything)
    for c in range(3):
        mean, std = PLAIN.mean[c], PLAIN.std[c]
        clipped = np.clip(stats.norm(mean, std).rvs(200_000, random_state=0), 0, 1)
        # Neither augmented nor correlated: the distribution of single pixels is the drawn one.
        assert out[..., c].mean() == pytest.approx(clipped.mean(), abs=2e-3)
        assert out[..., c].std() == pytest.approx(clipped.std(), abs=2e-3)
        assert out[..., c].min() > -1e-6 and out[..., c].max() <= 1 + 1e-6
    correlation = np.corrcoef(out[:, 0, 0, 0], out[:, 0, 1, 0])[0, 1]
    assert abs(correlation) < 0.1


def test_normalised_noise_is_not_normalised_again():
    kind = np.full(2000, Kind.NOISE)
    blank = jnp.zeros((2000, 8, 8, 3), jnp.uint8)
    out = np.asarray(aug.augment(blank, jnp.asarray(kind), KEY, settings(noise_space="normalised")))
    np.testing.assert_allclose(out.mean((0, 1, 2)), PLAIN.mean, atol=0.01)
    assert out.min() >= 0 and out.max() <= 1


def test_only_noise_rows_become_noise():
    kind = np.array([Kind.NATURAL, Kind.GENERATED, Kind.NOISE, Kind.NATURAL, Kind.NOISE, 1])
    out = seen(kind=kind, noise_space="pixel")
    kept = kind != Kind.NOISE
    np.testing.assert_allclose(out[kept], X[kept], atol=1e-5)
    assert (np.abs(out[~kept] - X[~kept]).mean((1, 2, 3)) > 0.05).all()
    assert np.abs(out[2] - out[4]).mean() > 0.05


def test_randomness_comes_from_the_key_alone():
    changes = {
        "flip": True,
        "crop_padding": 2,
        "cutout": 4,
        "color_jitter": (0.4, 0.4, 0.4, 0.1),
        "color_jitter_prob": 0.8,
        "grayscale_prob": 0.2,
        "blur_prob": 0.5,
    }
    np.testing.assert_array_equal(seen(**changes), seen(**changes))
    assert (seen(**changes) != seen(key=jax.random.key(4), **changes)).any()
