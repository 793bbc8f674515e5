"""Plans: what is drawn, how often, and that it depends on seed and epoch alone."""

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from configs import digits
from osed_jax.batches import plan as plans
from osed_jax.config.build import check
from osed_jax.data import long_tail
from osed_jax.errors import UserError
from osed_jax.experiment import build, loading
from osed_jax.kinds import Kind

COUNTS = long_tail.class_counts(5000, 10, 100)
LABEL = np.repeat(np.arange(10), COUNTS)
SYNTHETIC_LABEL = np.repeat(np.arange(10), 40)


def balanced(epoch=0, *, seed=0, replace_ratio=1 / 3, noise_share=0.0, batch_size=128):
    return plans.balanced_plan(
        seed=seed,
        epoch=epoch,
        label=LABEL,
        generated_label=SYNTHETIC_LABEL,
        replace_prob=plans.replace_probability(COUNTS, replace_ratio),
        noise_share=noise_share,
        batch_size=batch_size,
    )


def test_replace_probability_is_the_published_one():
    # Zada et al. at imbalance ratio 100 and delta = 1/3.
    published = [0, 0.1335, 0.2136, 0.2615, 0.2903, 0.3075, 0.3179, 0.3241, 0.3278, 0.33]
    got = plans.replace_probability(COUNTS, 1 / 3)
    np.testing.assert_allclose(got, published, atol=5e-5)
    assert got.mean() == pytest.approx(0.251, abs=5e-4)
    full = plans.replace_probability(COUNTS, 1.0)
    np.testing.assert_allclose(1 - full, np.array(COUNTS) / 5000)
    everywhere = plans.replace_probability(COUNTS, 0.25, in_all_classes=True)
    np.testing.assert_array_equal(everywhere, [0.25] * 10)


@pytest.mark.parametrize("replace_ratio", [1 / 3, 1.0])
def test_frequencies_match_the_formula(replace_ratio):
    epochs = [balanced(epoch, replace_ratio=replace_ratio, noise_share=1.0) for epoch in range(8)]
    label = np.concatenate([p.label[p.kind != Kind.PADDING] for p in epochs])
    kind = np.concatenate([p.kind[p.kind != Kind.PADDING] for p in epochs])
    drawn = np.bincount(label, minlength=10)
    assert stats.chisquare(drawn).pvalue > 1e-3
    for c, p in enumerate(plans.replace_probability(COUNTS, replace_ratio)):
        replaced = int((kind[label == c] == Kind.NOISE).sum())
        assert stats.binomtest(replaced, int(drawn[c]), p).pvalue > 1e-4, c


def test_natural_rows_are_uniform_within_their_class():
    rows = np.concatenate([balanced(e, replace_ratio=0.0).row.ravel() for e in range(20)])
    rarest = rows[rows >= len(LABEL) - COUNTS[-1]] - (len(LABEL) - COUNTS[-1])
    assert stats.chisquare(np.bincount(rarest, minlength=COUNTS[-1])).pvalue > 1e-3


def test_rows_show_an_image_of_their_label():
    plan = balanced(replace_ratio=1.0, noise_share=0.5)
    all_labels = np.concatenate([LABEL, SYNTHETIC_LABEL])
    natural, generated = plan.kind == Kind.NATURAL, plan.kind == Kind.GENERATED
    assert (plan.row[natural] < len(LABEL)).all()
    assert (plan.row[generated] >= len(LABEL)).all()
    shown = natural | generated
    np.testing.assert_array_equal(all_labels[plan.row[shown]], plan.label[shown])
    assert (plan.row[~shown] == 0).all()


def test_every_generated_image_of_a_class_comes_up():
    rows = np.concatenate([balanced(e, replace_ratio=1.0).row.ravel() for e in range(5)])
    # The most frequent class is never replaced; of the others all 40 images are drawn.
    assert len(set(rows[rows >= len(LABEL)])) == 9 * 40


def test_noise_share_mixes_noise_and_generated_images():
    plans = [balanced(e, replace_ratio=1.0, noise_share=0.25) for e in range(4)]
    kind = np.concatenate([p.kind.ravel() for p in plans])
    noise, generated = (int((kind == k).sum()) for k in (Kind.NOISE, Kind.GENERATED))
    assert stats.binomtest(noise, noise + generated, 0.25).pvalue > 1e-3


def test_an_epoch_does_not_get_longer_and_fills_its_last_batch():
    for plan in (balanced(), plans.natural_plan(seed=0, epoch=0, label=LABEL, batch_size=128)):
        assert plan.kind.shape == (97, 128)
        assert (plan.kind == Kind.PADDING).sum() == 97 * 128 - 12_406
        assert (plan.kind[-1] != Kind.PADDING).sum() == 118
        assert all(a.dtype == np.int32 for a in (plan.label, plan.kind, plan.row))


def test_natural_plan_shows_every_image_once():
    plan = plans.natural_plan(seed=1, epoch=2, label=LABEL, batch_size=100)
    natural = plan.kind == Kind.NATURAL
    np.testing.assert_array_equal(np.sort(plan.row[natural]), np.arange(len(LABEL)))
    np.testing.assert_array_equal(LABEL[plan.row[natural]], plan.label[natural])


def test_plans_depend_on_seed_and_epoch_alone():
    for make in (
        balanced,
        lambda epoch, seed=0: plans.natural_plan(
            seed=seed, epoch=epoch, label=LABEL, batch_size=128
        ),
    ):
        np.testing.assert_array_equal(make(3).row, make(3).row)
        assert (make(3).row != make(4).row).any()
        assert (make(3).row != make(3, seed=1).row).any()


def test_methods_share_their_natural_draws():
    resampled, noisy, generated = (
        balanced(replace_ratio=0.0),
        balanced(noise_share=1.0),
        balanced(noise_share=0.0),
    )
    np.testing.assert_array_equal(resampled.label, noisy.label)
    natural = noisy.kind == Kind.NATURAL
    np.testing.assert_array_equal(natural, generated.kind == Kind.NATURAL)
    np.testing.assert_array_equal(resampled.row[natural], noisy.row[natural])


def test_a_run_shows_generated_images_in_the_tail_or_in_all_classes(tmp_path):
    config = digits.get_config("osed")
    config.oversampling.update({"generated_dir": str(tmp_path / "made"), "replace_ratio": 0.5})
    for c in range(1, 10):
        (tmp_path / "made" / str(c)).mkdir(parents=True)
        Image.new("RGB", (8, 8), (c, 9, 9)).save(tmp_path / "made" / str(c) / "0.png")

    def shares():
        resolved = check(config)
        data = loading.load_data(resolved, tmp_path / "cache")
        epochs = range(config.oversampling.start_epoch, config.train.num_epochs)
        plans = [build.make_plan(resolved, data, epoch) for epoch in epochs]
        label = np.concatenate([p.label[p.kind != Kind.PADDING] for p in plans])
        kind = np.concatenate([p.kind[p.kind != Kind.PADDING] for p in plans])
        return [(kind[label == c] == Kind.GENERATED).mean() for c in range(10)]

    tail = shares()
    assert tail[0] == 0 and tail[9] == pytest.approx(0.95 / 2, abs=0.1)
    config.oversampling.replace_in = "all"
    with pytest.raises(UserError, match=r"no generated images of class '0', but .*replace_in=all"):
        shares()
    (tmp_path / "made" / "0").mkdir()
    Image.new("RGB", (8, 8), (200, 9, 9)).save(tmp_path / "made" / "0" / "0.png")
    assert shares() == pytest.approx([0.5] * 10, abs=0.1)
