"""The step, its optimizer and the feeders."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from osed_jax.batches import plan as plans
from osed_jax.batches.resident_feeder import ResidentFeeder
from osed_jax.batches.tfdata_feeder import TfDataFeeder
from osed_jax.data.images import ArrayImages, Bank, FileImages
from osed_jax.errors import UserError
from osed_jax.kinds import Kind
from osed_jax.models.layers import HEAD
from osed_jax.models.wide_resnet import WideResNet
from osed_jax.runtime import sharding as mesh_lib
from osed_jax.training.losses import LossFacts, cross_entropy
from osed_jax.training.optimizer import learning_rate_by_epoch, learning_rate_fn, sgd
from osed_jax.training.predict import Predictor
from osed_jax.training.state import TrainState, adopt_auxiliary, create_state
from osed_jax.training.step import make_eval_step, make_train_step
from tests.augmentations import only

RANDOM = np.random.RandomState(0)
AUGMENTATION = only(
    mean=(0.5,) * 3, std=(0.25,) * 3, noise_space="pixel", flip=True, crop_padding=1, blur_prob=0.5
)
PLAN = plans.balanced_plan(
    seed=0,
    epoch=0,
    label=np.repeat(np.arange(3), [30, 9, 5]),
    generated_label=np.repeat(np.arange(3), 7),
    replace_prob=np.array([0.0, 0.7, 0.8]),
    noise_share=0.5,
    batch_size=16,
)
IMAGES = RANDOM.randint(0, 256, (44 + 21, 8, 8, 3)).astype(np.uint8)
BANK = Bank(ArrayImages(IMAGES[:44]), ArrayImages(IMAGES[44:]))


def some_devices(count):
    return Mesh(np.asarray(jax.devices()[:count]), ("data",))


def make_parts(model, mesh, num_classes=3):
    tx = sgd(lambda step: 0.05, momentum=0.9, weight_decay=2e-4)
    facts = LossFacts(np.ones(num_classes), num_epochs=1, start_epoch=1)
    step = make_train_step(
        model=model,
        tx=tx,
        loss_fn=cross_entropy({"label_smoothing": 0.0}, facts),
        augmentation=AUGMENTATION,
        num_classes=num_classes,
        steps_per_epoch=3,
    )
    state = create_state(model, tx, seed=0, image_size=8)
    return mesh_lib.jit_train_step(step, mesh), mesh_lib.replicate(state, mesh)


def train_on(count, feeder=ResidentFeeder, bank=BANK, **norms):
    """Losses and last state of one epoch on so many devices."""
    mesh = some_devices(count)
    step, state = make_parts(WideResNet(num_classes=3, depth=10, widen_factor=1, **norms), mesh)
    losses = []
    for batch in feeder(bank, mesh_lib.split(mesh)).batches(PLAN):
        state, metrics = step(state, batch, np.uint32(0))
        losses.append(metrics)
    assert step._cache_size() == 1  # one program for all steps, the half-empty last one included
    return jax.device_get(losses), jax.device_get(state)


def test_the_initial_state_is_what_flax_initialises():
    model, tx = (
        WideResNet(num_classes=3, depth=10, widen_factor=1),
        sgd(lambda step: 0.1, momentum=0.9, weight_decay=0),
    )
    state = create_state(model, tx, seed=np.uint32(7), image_size=8)
    image, kind = np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.int32)
    want = jax.jit(lambda: model.init(jax.random.key(7), image, kind, train=False))()
    got = {"params": state.params, "batch_stats": state.batch_stats}
    equal = functools.partial(np.testing.assert_allclose, rtol=1e-6)  # each is compiled otherwise
    jax.tree.map(equal, got, dict(want))
    assert state.step == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))


@pytest.fixture(scope="module")
def on_one_device():
    return train_on(1, noise_norm="dar", generated_norm="aux")


@pytest.mark.parametrize("count", [2, 4])
def test_losses_are_the_same_on_any_number_of_devices(on_one_device, count):
    noise = (PLAN.kind == Kind.NOISE).reshape(len(PLAN), count, -1).sum(axis=-1)
    assert (noise != noise[:, :1]).any()  # the devices' counts of noise rows are unequal
    losses, state = train_on(count, noise_norm="dar", generated_norm="aux")
    for got, want in zip(losses, on_one_device[0]):
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=2e-4)
        assert got["natural"] == want["natural"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=2e-3),
        (state.params, state.batch_stats),
        (on_one_device[1].params, on_one_device[1].batch_stats),
    )


def test_both_feeders_make_the_same_batches_to_the_bit(tmp_path):
    from PIL import Image

    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = FileImages([tmp_path / f"{i}.png" for i in range(len(IMAGES))], 8)
    sharding = mesh_lib.split(some_devices(4))
    feeders = [
        ResidentFeeder(BANK, sharding),
        TfDataFeeder(BANK, sharding),
        TfDataFeeder(Bank(files), sharding),
    ]
    epochs = [list(f.batches(PLAN)) for f in feeders]
    assert [len(e) for e in epochs] == [len(PLAN)] * 3
    for batches in zip(*epochs):
        for name in ("image", "label", "kind"):
            first, *others = (b[name] for b in batches)
            for other in others:
                assert other.dtype == first.dtype and other.sharding == first.sharding
                np.testing.assert_array_equal(first, other)
    image = np.asarray(epochs[0][0]["image"])
    np.testing.assert_array_equal(image, IMAGES[PLAN.row[0]])


def test_a_file_that_breaks_while_it_is_streamed_is_named(tmp_path):
    from PIL import Image

    for i in range(2):
        Image.fromarray(IMAGES[i]).save(tmp_path / f"{i}.png")
    feeder = TfDataFeeder(
        Bank(FileImages([tmp_path / "0.png", tmp_path / "1.png"], 8)),
        mesh_lib.split(some_devices(1)),
    )
    (tmp_path / "1.png").write_bytes(b"")
    plan = plans.natural_plan(seed=0, epoch=0, label=np.array([0, 1]), batch_size=2)
    with pytest.raises(UserError, match=r"1\.png: the file is empty"):
        list(feeder.batches(plan))


class MeanColour(nn.Module):
    """A linear layer on the mean colour: a step of it compiles fast."""

    @nn.compact
    def __call__(self, image, kind, train):  # noqa: D102
        return nn.Dense(3, name=HEAD)(image.mean(axis=(1, 2)))


def small_step(**settings):
    """A step of `MeanColour` without augmentation, jitted, and its state."""
    model, tx = MeanColour(), sgd(lambda step: 0.05, momentum=0.9, weight_decay=0)
    steady = only(mean=(0.5,) * 3, std=(0.25,) * 3)
    given = {"model": model, "tx": tx, "augmentation": steady, "num_classes": 3}
    step = make_train_step(**{**given, "steps_per_epoch": 3, **settings})
    return jax.jit(step), create_state(model, tx, seed=0, image_size=8)


def test_rows_have_the_weights_of_their_classes_in_the_mean_of_the_loss():
    """Oracle: sum(w l) / sum(w) over rows, as PyTorch has it, in the epochs that have weights."""
    kind, label = np.array([0, 1, 0, 2, 1, 3]), np.array([0, 1, 2, 0, 1, 2])
    weights = np.array([0.5, 2.0, 0.25], np.float32)
    step, state = small_step(
        loss_fn=lambda logits, target, epoch: jnp.arange(6.0) + 0 * logits.sum(),
        class_weights=lambda epoch: jnp.where(epoch >= 2, weights, 1.0),
        generated_weight=0.3,
    )

    def loss(epoch):
        batch = {"image": IMAGES[:6], "label": label, "kind": kind}
        now = state.replace(step=jnp.int32(3 * epoch))
        return float(step(now, batch, np.uint32(0))[1]["loss"])

    of_kind = np.array([1, 0.3, 1, 1, 0.3, 0])
    assert loss(1) == pytest.approx(np.average(np.arange(6), weights=of_kind))
    assert loss(2) == pytest.approx(np.average(np.arange(6), weights=of_kind * weights[label]))


def test_padding_rows_have_no_part_in_a_step():
    mesh = some_devices(1)
    step, state = make_parts(
        WideResNet(num_classes=3, depth=10, widen_factor=1, dropout_rate=0), mesh
    )
    kind = np.array([0, 2, 0, 1, 3, 3])
    batch = {"image": IMAGES[:6], "label": np.array([0, 1, 2, 0, 0, 0]), "kind": kind}
    other = {**batch, "image": IMAGES[[0, 1, 2, 3, 20, 21]], "label": np.array([0, 1, 2, 0, 2, 1])}
    results = [step(jax.tree.map(jnp.copy, state), b, np.uint32(0)) for b in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert results[0][1]["natural"] == 2


def test_schedule_is_that_of_the_papers():
    settings = {"num_epochs": 200, "learning_rate": 0.1, "decay_at": (0.8, 0.9)}
    rate = learning_rate_by_epoch(**settings, schedule="steps", warmup_epochs=5, decay_factor=0.01)
    np.testing.assert_allclose(rate[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    np.testing.assert_allclose(rate[[159, 160, 179, 180, 199]], [0.1, 1e-3, 1e-3, 1e-5, 1e-5])
    schedule = learning_rate_fn(rate, steps_per_epoch=97)
    for step, epoch in [(0, 0), (96, 0), (97, 1), (160 * 97 - 1, 159), (160 * 97, 160)]:
        assert float(schedule(jnp.asarray(step))) == pytest.approx(rate[epoch])


def test_the_cosine_is_that_of_pytorch():
    # torch.optim.lr_scheduler.CosineAnnealingLR(SGD(lr=0.2), T_max=10), one step an epoch.
    cosine = [0.2, 0.1951056516, 0.1809016994, 0.1587785252, 0.1309016994]
    cosine += [0.1, 0.0690983006, 0.0412214748, 0.0190983006, 0.0048943484]
    settings = {"schedule": "cosine", "decay_at": (0.8, 0.9), "decay_factor": 0.01}
    rate = learning_rate_by_epoch(num_epochs=10, learning_rate=0.2, warmup_epochs=2, **settings)
    np.testing.assert_allclose(rate, [0.1, *cosine[1:]], atol=1e-9)


def test_sgd_is_that_of_pytorch():
    # torch.optim.SGD: g += wd * p; buf = momentum * buf + g; p -= lr * buf.
    param, buffer = np.array([1.0, -2.0]), np.zeros(2)
    tx = sgd(lambda step: 0.1 / (step + 1), momentum=0.9, weight_decay=0.01)
    got = jnp.asarray(param)
    state = tx.init(got)
    for i in range(4):
        grad = RANDOM.randn(2)
        buffer = 0.9 * buffer + grad + 0.01 * param
        param = param - 0.1 / (i + 1) * buffer
        update, state = tx.update(jnp.asarray(grad), state, got)
        got = got + update
    np.testing.assert_allclose(got, param, rtol=1e-5)


def test_auxiliary_norms_begin_as_copies_without_momentum():
    def make(norm):
        model = WideResNet(num_classes=3, depth=10, widen_factor=1, noise_norm=norm)
        tx = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0)
        return create_state(model, tx, seed=0, image_size=8)

    plain = make("natural")
    plain = plain.replace(
        params=jax.tree.map(lambda x: x + 1, plain.params),
        opt_state=jax.tree.map(lambda x: x + 2, plain.opt_state),
    )
    fresh = make("aux")
    got = adopt_auxiliary(plain, fresh)
    assert jax.tree.structure(got) == jax.tree.structure(fresh)
    norm = got.params["_Block_0"]["RoutedBatchNorm_0"]
    np.testing.assert_array_equal(norm["noise_scale"], norm["scale"])
    np.testing.assert_array_equal(norm["noise_scale"], 2)
    trace = got.opt_state[1][0].trace["_Block_0"]["RoutedBatchNorm_0"]
    assert (trace["scale"] == 2).all() and not trace["noise_scale"].any()


def seen_sizes(predictor):
    """The sizes of the batches that a predictor is about to compute, as it computes them."""
    step, sizes = predictor._eval_step, []

    def watched(state, image):
        sizes.append(len(image))
        return step(state, image)

    predictor._eval_step = watched
    return sizes


def test_evaluation_counts_every_image_once():
    mesh = some_devices(4)
    model = WideResNet(num_classes=3, depth=10, widen_factor=1)
    _, state = make_parts(model, mesh)
    step = jax.jit(make_eval_step(model=model, augmentation=AUGMENTATION))
    images = ArrayImages(IMAGES[:23])
    one_by_one = [step(state, IMAGES[i : i + 1]) for i in range(23)]
    # 5 and 25 are rounded up to what 4 devices share; 23 images fill no batch of 500.
    for batch_size, size in ((8, 8), (5, 8), (25, 28), (500, 32)):
        predictor = Predictor(model, AUGMENTATION, mesh, batch_size=batch_size)
        sizes = seen_sizes(predictor)
        for got, want in zip(predictor.of_images(state, images), zip(*one_by_one)):
            np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-3, atol=1e-4)
        assert sizes == [size] * -(-23 // size)


def test_outputs_that_are_not_finite_are_never_scored():
    mesh = some_devices(1)
    model = WideResNet(num_classes=3, depth=10, widen_factor=1)
    _, state = make_parts(model, mesh)
    broken = jax.tree.map(lambda leaf: leaf.at[...].set(jnp.nan), state.batch_stats)
    predictor = Predictor(model, AUGMENTATION, mesh, batch_size=8)
    with pytest.raises(UserError, match="not finite after step 0"):
        predictor.of_images(state.replace(batch_stats=broken), ArrayImages(IMAGES[:8]))


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(UserError, match="multiple of 4"):
        mesh_lib.check_batch_size("config.train.batch_size", 126, some_devices(4))


def test_state_is_donated():
    mesh = some_devices(1)
    step, state = make_parts(WideResNet(num_classes=3, depth=10, widen_factor=1), mesh)
    batch = {"image": IMAGES[:4], "label": np.zeros(4, int), "kind": np.zeros(4, int)}
    new, _ = step(state, batch, np.uint32(0))
    assert isinstance(new, TrainState)
    assert jax.tree.leaves(state.params)[0].is_deleted()
