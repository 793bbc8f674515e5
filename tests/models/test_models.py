"""The nets: sizes, initial weights, and their forward pass against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import signal, stats

from configs import default
from osed_jax.config.build import check
from osed_jax.experiment import build
from osed_jax.kinds import Kind
from osed_jax.models.batch_norm import EPSILON
from osed_jax.models.cpu import convolution
from osed_jax.models.cpu.convolution import _convolve, convolve
from osed_jax.models.imagenet_resnet import ResNet18
from osed_jax.models.layers import HEAD, make_head
from osed_jax.models.resnet import ResNet
from osed_jax.models.wide_resnet import WideResNet
from osed_jax.runtime.sharding import make_mesh
from osed_jax.training.predict import Predictor
from osed_jax.training.state import create_state, num_parameters

RANDOM = np.random.RandomState(0)


def sizes(model, image_size=32):
    variables = jax.eval_shape(
        lambda: model.init(
            jax.random.key(0),
            jnp.zeros((1, image_size, image_size, 3)),
            jnp.zeros(1, int),
            train=False,
        )
    )
    return num_parameters(variables["params"]), num_parameters(variables["batch_stats"])


def test_sizes_are_the_published_ones():
    assert sizes(WideResNet(num_classes=10)) == (36_479_194, 17_952)
    assert sizes(WideResNet(num_classes=10, depth=10, widen_factor=1))[0] == 77_850
    assert sizes(ResNet(num_classes=10)) == (464_154, 2 * 1136)
    # Global pooling: the size of the image changes nothing; each class costs 640 + 1.
    assert sizes(WideResNet(num_classes=13), image_size=48)[0] == 36_479_194 + 3 * 641


def test_auxiliary_norms_add_a_scale_and_a_bias_for_each_norm():
    plain = sizes(WideResNet(num_classes=10))[0]
    both = WideResNet(num_classes=10, generated_norm="aux", noise_norm="aux")
    assert sizes(both) == (plain + 2 * 17_952, 17_952)


@pytest.mark.parametrize(("fan", "model"), [(1, WideResNet), (0, ResNet)])
def test_convolutions_are_he_normal(fan, model):
    depth = {"depth": 10, "widen_factor": 4} if model is WideResNet else {"depth": 8}
    variables = jax.jit(
        lambda: model(num_classes=10, **depth).init(
            jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, int), train=False
        )
    )()
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if leaf.ndim == 4
    ]
    for kernel in kernels:
        taps, channels = kernel.shape[0] * kernel.shape[1], kernel.shape[2 + fan]
        std = np.sqrt(2 / (taps * channels))
        assert np.std(kernel) == pytest.approx(std, rel=5 / np.sqrt(2 * kernel.size))
        # A truncated normal, Flax's usual choice, would stop at 2.3 standard deviations.
        assert np.abs(kernel).max() > 2.5 * std


def numpy_convolve(x, kernel, stride):
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = [
        sum(
            signal.correlate2d(image[..., c], kernel[..., c, d], mode="valid")
            for c in range(x.shape[-1])
        )[::stride, ::stride]
        for image in x
        for d in range(kernel.shape[-1])
    ]
    out = np.stack(out).reshape(len(x), kernel.shape[-1], *out[0].shape)
    return out.transpose(0, 2, 3, 1)


def numpy_norm(x, params, stats):
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON)
    return x * params["scale"] + params["bias"]


def numpy_wide_resnet(x, params, stats, depth):
    """Written from Zagoruyko & Komodakis, table 1 and figure 1."""
    x = numpy_convolve(x, params["Conv_0"]["kernel"], 1)
    for i in range(3 * (depth - 4) // 6):
        p, s = params[f"_Block_{i}"], stats[f"_Block_{i}"]
        stride = 2 if i in (1, 2) else 1  # depth 10: one block in each group
        y = np.maximum(numpy_norm(x, p["RoutedBatchNorm_0"], s["RoutedBatchNorm_0"]), 0)
        y = numpy_convolve(y, p["Conv_0"]["kernel"], stride)
        y = np.maximum(numpy_norm(y, p["RoutedBatchNorm_1"], s["RoutedBatchNorm_1"]), 0)
        y = numpy_convolve(y, p["Conv_1"]["kernel"], 1)
        if "Conv_2" in p:
            x = numpy_convolve(x, p["Conv_2"]["kernel"], stride)
        x = x + y
    x = np.maximum(numpy_norm(x, params["RoutedBatchNorm_0"], stats["RoutedBatchNorm_0"]), 0)
    return x.mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def numpy_resnet(x, params, stats, depth):
    """Written from He et al., section 4.2."""

    def conv_norm(x, i, stride=1):
        x = numpy_convolve(x, params[f"Conv_{i}"]["kernel"], stride)
        name = f"RoutedBatchNorm_{i}"
        return numpy_norm(x, params[name], stats[name])

    x = np.maximum(conv_norm(x, 0), 0)
    for i in range(3 * (depth - 2) // 6):
        stride = 2 if i in (1, 2) else 1  # depth 8: one block in each group
        y = np.maximum(conv_norm(x, 2 * i + 1, stride), 0)
        y = conv_norm(y, 2 * i + 2)
        if stride == 2:
            c = x.shape[-1]
            x = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (c // 2, c // 2)))
        x = np.maximum(x + y, 0)
    return x.mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


@pytest.mark.parametrize("image_size", [8, 11])
@pytest.mark.parametrize(
    ("model", "oracle"),
    [
        (WideResNet(num_classes=4, depth=10, widen_factor=1), numpy_wide_resnet),
        (ResNet(num_classes=4, depth=8), numpy_resnet),
    ],
)
def test_forward_pass_equals_numpy(model, oracle, image_size):
    x = RANDOM.randn(2, image_size, image_size, 3).astype(np.float32)
    kind = jnp.zeros(2, int)
    variables = jax.jit(lambda: model.init(jax.random.key(1), x, kind, train=False))()
    moved = jax.tree.map(
        lambda leaf: (
            np.abs(leaf + 0.3 * RANDOM.randn(*leaf.shape)).astype(np.float32)
            if leaf.ndim == 1
            else np.asarray(leaf)
        ),
        variables,
    )
    want = oracle(x.astype(np.float64), moved["params"], moved["batch_stats"], model.depth)
    got = jax.jit(lambda v: model.apply(v, x, kind, train=False))(moved)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("size", "stride", "side", "channels"),
    [
        (3, 1, 6, (4, 5)),  # pairs of pixels
        (3, 1, 7, (4, 5)),  # odd: no pairs
        (3, 2, 6, (4, 5)),
        (3, 2, 7, (4, 5)),
        (1, 2, 7, (4, 5)),
        (3, 1, 7, (16, 17)),  # odd: no tiles of two by two
        (3, 1, 6, (16, 17)),  # the filter gradient alone by minimal filtering
        (3, 1, 12, (32, 130)),  # all three of them
    ],
)
@pytest.mark.parametrize("devices", [1, 4])
def test_convolution_and_its_gradients_equal_numpy_and_lax(
    size, stride, side, channels, devices, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(convolution, "_BLOCK_ROWS", 40)  # blocks of one image or of three
    x = RANDOM.randn(3, side, side, channels[0]).astype(np.float32)
    kernel = RANDOM.randn(size, size, *channels).astype(np.float32)
    np.testing.assert_allclose(
        convolve(x, kernel, stride), numpy_convolve(x, kernel, stride), rtol=1e-4, atol=1e-4
    )

    def loss(convolution):
        return lambda x, kernel: jnp.sin(convolution(x, kernel, stride)).sum()

    got = jax.grad(loss(convolve), argnums=(0, 1))(x, kernel)
    want = jax.grad(loss(_convolve), argnums=(0, 1))(x, kernel)
    for g, w in zip(got, want):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5 * np.abs(w).max())


def test_each_way_to_convolve_is_taken(monkeypatch):
    def program(side, channels, convolve=convolve):
        x, kernel = jnp.ones((3, side, side, channels)), jnp.ones((3, 3, channels, channels))
        gradients = jax.grad(lambda *a: convolve(*a, 1).sum(), argnums=(0, 1))
        return str(jax.make_jaxpr(gradients)(x, kernel))

    def convolutions_and_products(text):
        return text.count("conv_general_dilated["), text.count("dot_general[")

    # On four devices: 9 products by taps, 16 by minimal filtering.
    assert convolutions_and_products(program(6, 4)) == (2, 9)
    assert convolutions_and_products(program(6, 16)) == (2, 16)
    assert convolutions_and_products(program(12, 130)) == (0, 48)
    # On one: a product in a loop over blocks, where there are few channels.
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert convolutions_and_products(program(6, 16)) == (2, 1)
    assert convolutions_and_products(program(12, 130)) == (0, 48)


@pytest.mark.parametrize("model", [WideResNet, ResNet])
@pytest.mark.parametrize(("norm", "reached"), [("dar", 2), ("dar_grad", "all")])
def test_noise_with_dar_norms_reaches_the_last_layer_alone(model, norm, reached):
    size = {"depth": 10, "widen_factor": 1} if model is WideResNet else {"depth": 8}
    net = model(num_classes=3, noise_norm=norm, **size)
    x = jnp.asarray(RANDOM.randn(6, 8, 8, 3), jnp.float32)
    kind = jnp.asarray([0, 0, 0, 2, 2, 2])
    variables = net.lazy_init(jax.random.key(1), x, kind, train=False)

    @jax.jit
    def noise_gradient(params):
        def loss(params):
            logits, _ = net.apply(
                {**variables, "params": params},
                x,
                kind,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.where((kind == Kind.NOISE)[:, None], jnp.sin(logits), 0).sum()

        return jax.grad(loss)(params)

    norms = {
        jax.tree_util.keystr(path): float(jnp.abs(leaf).max())
        for path, leaf in jax.tree_util.tree_leaves_with_path(noise_gradient(variables["params"]))
    }
    nonzero = {name for name, norm in norms.items() if norm > 0}
    if reached == "all":
        assert nonzero == set(norms)
    else:
        assert nonzero == {"['Dense_0']['bias']", "['Dense_0']['kernel']"}


def test_dropout_enters_the_statistics_of_the_second_batch_norm():
    """Behind the first convolution, as in MLRC: E[y^2] grows by 1 / (1 - rate), not the mean."""
    x, kind = jnp.asarray(RANDOM.randn(64, 8, 8, 3), jnp.float32), jnp.zeros(64, int)

    def moments(rate):
        net = WideResNet(num_classes=3, depth=10, widen_factor=1, dropout_rate=rate)
        variables = net.init(jax.random.key(1), x[:1], kind[:1], train=False)
        keys = {"dropout": jax.random.key(0)}
        seen = net.apply(variables, x, kind, train=True, mutable=["batch_stats"], rngs=keys)[1]
        kept = seen["batch_stats"]["_Block_0"]["RoutedBatchNorm_1"]  # 0.9 of it is the start's
        return kept["mean"] / 0.1, (kept["var"] - 0.9) / 0.1

    (mean, var), (mean_dropped, var_dropped) = moments(0.0), moments(0.5)
    expected = (var + mean**2) / 0.5 - mean**2
    np.testing.assert_allclose(var_dropped, expected, rtol=0.1)
    np.testing.assert_allclose(mean_dropped, mean, atol=0.1)


def test_the_last_layer_of_resnet_starts_kaiming_normal():
    x, kind = jnp.ones((1, 8, 8, 3)), jnp.zeros(1, int)
    kernel = ResNet(num_classes=400, depth=8).init(jax.random.key(0), x, kind, train=False)
    kernel = np.asarray(kernel["params"]["Dense_0"]["kernel"])
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / 64), rel=0.02)
    assert stats.kstest(kernel.ravel() / np.sqrt(2 / 64), "norm").pvalue > 1e-3


def test_dropout_is_between_the_convolutions_and_only_in_training():
    net = WideResNet(num_classes=3, depth=10, widen_factor=1, dropout_rate=0.5)
    x, kind = jnp.ones((2, 8, 8, 3)), jnp.zeros(2, int)
    variables = net.lazy_init(jax.random.key(1), x, kind, train=False)

    @jax.jit
    def train(key):
        return net.apply(
            variables, x, kind, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )[0]

    assert (train(jax.random.key(0)) == train(jax.random.key(0))).all()
    assert (train(jax.random.key(0)) != train(jax.random.key(1))).any()


def test_bfloat16_computes_near_float32_and_keeps_parameters():
    x = jnp.asarray(RANDOM.randn(4, 8, 8, 3), jnp.float32)
    kind = jnp.zeros(4, int)
    full = WideResNet(num_classes=3, depth=10, widen_factor=1)
    half = WideResNet(num_classes=3, depth=10, widen_factor=1, dtype=jnp.bfloat16)
    variables = half.lazy_init(jax.random.key(1), x, kind, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    want, got = (
        jax.jit(lambda v, n=n: n.apply(v, x, kind, train=False))(variables) for n in (full, half)
    )
    assert got.dtype == jnp.float32 and (got != want).any()
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()) + 0.02)


def test_bfloat16_classifies_images_on_every_platform():
    """On CPUs a fault of XLA makes the features NaN, unless the program is compiled without it."""
    config = default.get_config()
    config.model.update(depth=10, widen_factor=1)
    facts = {"class_counts": [1] * 10, "mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 32}
    image = RANDOM.randint(256, size=(40, 32, 32, 3)).astype(np.uint8)
    found = {}
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        checked = check(config)
        model = build.make_model(checked, 10, routed=False)
        state = create_state(model, optax.sgd(0.1), seed=0, image_size=32)
        augmentation = build.make_augmentation(checked, facts, noise=False)
        predictor = Predictor(model, augmentation, make_mesh(), batch_size=40)
        found[dtype] = predictor.of_array(state, image).features
    np.testing.assert_allclose(found["bfloat16"], found["float32"], atol=0.05, rtol=0.05)


def test_a_cosine_head_gives_cosines_times_its_scale():
    """Oracle: NumPy's cosines; features of length 0 have none, and their gradient is finite."""
    head = make_head(4, 30.0, jax.nn.initializers.zeros)
    x = jnp.asarray(RANDOM.randn(5, 7), jnp.float32).at[4].set(0)
    params = head.init(jax.random.key(0), x)["params"]
    kernel = np.asarray(params["kernel"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    logits = head.apply({"params": {"kernel": 3 * params["kernel"]}}, x)
    features = np.asarray(x[:4], np.float64)
    cosine = features @ kernel / np.linalg.norm(features, axis=1)[:, None]
    np.testing.assert_allclose(logits[:4], 30 * cosine, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits[4], 0)
    grad = jax.grad(lambda x: head.apply({"params": params}, x).sum())(x)
    assert jnp.isfinite(grad).all()


@pytest.mark.parametrize("model", [WideResNet, ResNet, ResNet18])
def test_every_net_may_have_a_cosine_head(model):
    def head(**settings):
        net = model(num_classes=10, **settings)
        image, kind = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, int)
        made = jax.eval_shape(lambda: net.init(jax.random.key(0), image, kind, train=False))
        return set(made["params"][HEAD])

    assert head() == {"kernel", "bias"} and head(cosine_scale=30.0) == {"kernel"}
