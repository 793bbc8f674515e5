"""Mixed rows: what they show, whose labels and weights they have, and their kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from osed_jax.batches.mixing import mix, rectangle
from osed_jax.kinds import Kind
from osed_jax.training.losses import LossFacts, ldam
from tests.augmentations import only
from tests.training.test_step import IMAGES, small_step

KIND = np.array([0, 1, 2, 0, 3, 1, 0, 0] * 50)  # natural, generated, noise and padding rows
IMAGE = np.random.RandomState(0).rand(len(KIND), 6, 8, 3).astype(np.float32)
PLAIN = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def mixed(kind=KIND, seed=3, **settings):
    given = only(**PLAIN, **{"mix": "mixup", **settings})
    out = mix(jnp.asarray(IMAGE[: len(kind)]), jnp.asarray(kind), jax.random.key(seed), given)
    return jax.tree.map(np.asarray, out)


def test_mixup_is_the_weighted_mean_of_both_images():
    out = mixed()
    own = out.share[:, None, None, None]
    want = own * IMAGE + (1 - own) * IMAGE[out.partner]
    np.testing.assert_allclose(out.image, want, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_beta(alpha):
    share = mixed(mix_alpha=alpha).share[KIND < Kind.NOISE]
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_every_row_that_may_be_a_partner_is_one_as_often():
    kind = np.array([0, 0, 1, 2, 0, 3])
    drawn = [mixed(kind, seed).partner for seed in range(200)]
    partner = np.array(drawn)[:, [0, 1, 2, 4]].ravel()
    count = np.bincount(partner, minlength=6)
    assert count[3] == count[5] == 0, "neither noise nor padding"
    assert stats.chisquare(count[[0, 1, 2, 4]]).pvalue > 1e-3


@pytest.mark.parametrize("kind_of_mix", ["mixup", "cutmix"])
def test_noise_and_padding_stay_as_they_are(kind_of_mix):
    out = mixed(mix=kind_of_mix)
    kept = KIND >= Kind.NOISE
    np.testing.assert_array_equal(out.image[kept], IMAGE[kept])
    np.testing.assert_array_equal(out.partner[kept], np.flatnonzero(kept))
    assert (out.share[kept] == 1).all() and (out.kind[kept] == KIND[kept]).all()


def test_a_row_is_natural_where_both_images_are():
    out = mixed()
    may = KIND < Kind.NOISE
    both = (KIND == Kind.NATURAL) & (KIND[out.partner] == Kind.NATURAL)
    np.testing.assert_array_equal(out.kind[may], np.where(both, 0, Kind.GENERATED)[may])
    assert {0, 1} == set(out.kind[may]) and (both != (KIND == 0))[may].any()


def test_natural_partners_are_real_images_and_where_there_are_none_nothing_is_mixed():
    out = mixed(mix_partner="natural")
    may = KIND < Kind.NOISE
    assert (KIND[out.partner[may]] == Kind.NATURAL).all()
    np.testing.assert_array_equal(out.kind, KIND)  # a natural row stays natural
    alone = mixed(np.array([1, 1, 2, 3]), mix_partner="natural")
    np.testing.assert_array_equal(alone.image, IMAGE[:4])
    assert (alone.share == 1).all()


def test_so_many_rows_are_mixed_as_the_probability_says():
    out = mixed(mix_prob=0.3)
    may = KIND < Kind.NOISE
    changed = (out.share < 1)[may]
    assert stats.binomtest(int(changed.sum()), int(may.sum()), 0.3).pvalue > 1e-3


def test_cutmix_puts_a_rectangle_of_the_partner_in():
    """Oracle: Yun's bounding box in NumPy; the share is that of the pixels that are left."""
    centre, share = np.array([[0.5, 0.5], [0.0, 0.99], [0.9, 0.2]]), np.array([0.2, 0.6, 0.75])
    got = np.asarray(rectangle(jnp.asarray(centre), jnp.asarray(share), 6, 8))
    for inside, (y, x), outside in zip(got, centre, share):
        want = np.zeros((6, 8))
        middle = int(6 * y), int(8 * x)
        half = [int(size * np.sqrt(1 - outside)) // 2 for size in (6, 8)]
        top, left = (max(m - h, 0) for m, h in zip(middle, half))
        want[top : middle[0] + half[0], left : middle[1] + half[1]] = 1
        np.testing.assert_array_equal(inside, want)
    out = mixed(mix="cutmix")
    own = (out.image == IMAGE).all(axis=-1)
    other = (out.image == IMAGE[out.partner]).all(axis=-1)
    assert (own | other).all()
    apart = out.partner != np.arange(len(KIND))
    np.testing.assert_allclose(out.share[apart], own[apart].mean(axis=(1, 2)), atol=1e-6)
    middle = own[apart & (KIND < Kind.NOISE)].mean()
    assert 0.6 < middle < 0.8, "Beta(1, 1) has mean 1/2; what is cut off at borders adds to it"


def test_the_loss_of_a_mixed_row_is_that_of_both_labels_with_their_weights():
    """Oracle: the loss of each label alone, in NumPy, by share, weight of class and of kind."""
    counts, weights = np.array([9, 4, 1]), np.array([0.5, 2.0, 0.25])
    kind, label = np.array([0, 1, 0, 1, 0, 3]), np.array([0, 1, 2, 0, 1, 2])
    loss_fn = ldam({"label_smoothing": 0.0, "max_margin": 0.5}, LossFacts(counts, 1, 1, 4.0))
    settings = only(**PLAIN, mix="mixup")
    step, state = small_step(
        loss_fn=loss_fn,
        class_weights=lambda epoch: jnp.asarray(weights, jnp.float32),
        generated_weight=0.3,
        augmentation=settings,
    )
    batch = {"image": IMAGES[:6], "label": label, "kind": kind}
    got = step(state, batch, np.uint32(5))[1]

    root = jax.random.fold_in(jax.random.key(5), 1)
    key, _ = jax.random.split(jax.random.fold_in(root, 0))
    x = jnp.asarray((IMAGES[:6] / 255 - 0.5) / 0.25, jnp.float32)
    out = jax.tree.map(np.asarray, mix(x, jnp.asarray(kind), key, settings))
    head = {name: np.asarray(v, float) for name, v in state.params["Dense_0"].items()}
    logits = out.image.mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    total = weight_of_all = right = 0.0
    for i in range(5):
        for j, share in ((i, out.share[i]), (out.partner[i], 1 - out.share[i])):
            z = logits[i].copy()
            z[label[j]] -= 4 * 0.5 * counts[label[j]] ** -0.25
            weight = share * weights[label[j]] * (0.3 if kind[j] == 1 else 1)
            total += weight * (np.log(np.exp(z).sum()) - z[label[j]])
            weight_of_all += weight
        main = label[i] if out.share[i] >= 0.5 else label[out.partner[i]]
        right += out.kind[i] == 0 and logits[i].argmax() == main
    assert float(got["loss"]) == pytest.approx(total / weight_of_all, rel=1e-4)
    assert float(got["natural"]) == (out.kind == 0).sum() and float(got["correct"]) == right
