"""Every norm of batch norm against NumPy: forward, running statistics and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from osed_jax.kinds import NORMS, Kind
from osed_jax.models.batch_norm import RoutedBatchNorm

EPSILON = 1e-5
KIND = np.array([0, 2, 1, 0, 2, 0, 3, 1, 0, 0, 2, 3])  # unequal on any split over devices
RANDOM = np.random.RandomState(0)
X = (RANDOM.randn(12, 4, 5, 3) * [1, 2, 0.5] + [0, 3, -1]).astype(np.float32)
X[KIND == Kind.NOISE] = 4 * X[KIND == Kind.NOISE] + 1  # far from the natural rows
COTANGENT = RANDOM.randn(*X.shape).astype(np.float32)
COTANGENT[KIND == Kind.PADDING] = 0  # as the masked loss gives
AFFINE = {
    "scale": np.array([1.5, -0.5, 2.0], np.float32),
    "bias": np.array([0.1, 0.2, -0.3], np.float32),
    "generated_scale": np.array([0.7, 1.1, 0.9], np.float32),
    "generated_bias": np.array([1.0, 0.0, 0.5], np.float32),
    "noise_scale": np.array([2.7, 0.1, 1.9], np.float32),
    "noise_bias": np.array([0.0, -1.0, 0.4], np.float32),
}


def oracle(generated_norm: str, noise_norm: str) -> dict:
    """Output, gradients and batch statistics, group by group, in float64."""
    norm = {Kind.GENERATED: generated_norm, Kind.NOISE: noise_norm}
    joined = [Kind.NATURAL] + [k for k, r in norm.items() if r == "shared"]
    groups = [(np.isin(KIND, joined), "shared", "")]
    groups += [(k == KIND, r, f"{k.name.lower()}_") for k, r in norm.items() if r != "shared"]
    y, dx = np.zeros(X.shape), np.zeros(X.shape)
    grads = {name: np.zeros(3) for name in AFFINE}
    stats = None
    for member, setting, prefix in groups:
        prefix = prefix if setting == "aux" else ""
        x, dy = X[member].astype(np.float64), COTANGENT[member].astype(np.float64)
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        stats = (mean, var) if stats is None else stats
        inverse = 1 / np.sqrt(var + EPSILON)
        normed = (x - mean) * inverse
        scale, bias = AFFINE[f"{prefix}scale"], AFFINE[f"{prefix}bias"]
        y[member] = normed * scale + bias
        if setting == "dar":
            continue
        grads[f"{prefix}scale"] += (dy * normed).sum((0, 1, 2))
        grads[f"{prefix}bias"] += dy.sum((0, 1, 2))
        count = x.size / 3
        centred = dy - dy.sum((0, 1, 2)) / count - normed * (dy * normed).sum((0, 1, 2)) / count
        dx[member] = scale * inverse * centred
    return {"y": y, "dx": dx, "grads": grads, "mean": stats[0], "var": stats[1]}


def run(generated_norm, noise_norm, x=X, kind=KIND):
    norm = RoutedBatchNorm(generated_norm, noise_norm)
    variables = norm.init(jax.random.key(0), jnp.asarray(x), jnp.asarray(kind), train=False)
    params = {name: jnp.asarray(AFFINE[name]) for name in variables["params"]}

    def weighted(params, x):
        y, updated = norm.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            x,
            jnp.asarray(kind),
            train=True,
            mutable=["batch_stats"],
        )
        return (y * COTANGENT[: len(x)]).sum(), (y, updated["batch_stats"])

    grad = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))
    (params_grad, x_grad), (y, stats) = grad(params, jnp.asarray(x))
    return {"y": y, "dx": x_grad, "grads": params_grad, **stats}


@pytest.mark.parametrize("generated_norm", NORMS)
@pytest.mark.parametrize("noise_norm", NORMS)
def test_every_pair_of_norms_agrees_with_numpy(generated_norm, noise_norm):
    want, got = oracle(generated_norm, noise_norm), run(generated_norm, noise_norm)
    real = KIND != Kind.PADDING
    np.testing.assert_allclose(got["y"][real], want["y"][real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["dx"][real], want["dx"][real], rtol=1e-4, atol=2e-5)
    for name, grad in got["grads"].items():
        np.testing.assert_allclose(grad, want["grads"][name], rtol=1e-4, atol=1e-4)
    # Flax momentum 0.9 from the initial 0 and 1, with the biased variance.
    np.testing.assert_allclose(got["mean"], 0.1 * want["mean"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["var"], 0.9 + 0.1 * want["var"], rtol=1e-5)
    auxiliary = {"generated_": generated_norm, "noise_": noise_norm}
    expected = {"scale", "bias"} | {
        prefix + name for prefix, r in auxiliary.items() if r == "aux" for name in ("scale", "bias")
    }
    assert set(got["grads"]) == expected


def test_dar_rows_pass_no_gradient_and_change_nothing():
    got = run("shared", "dar")
    noise = KIND == Kind.NOISE
    assert not np.asarray(got["dx"])[noise].any()
    other = X.copy()
    other[noise] *= -3
    np.testing.assert_array_equal(run("shared", "dar", other)["y"][~noise], got["y"][~noise])
    np.testing.assert_array_equal(run("shared", "dar", other)["mean"], got["mean"])


def test_padding_has_no_influence():
    other = X.copy()
    other[KIND == Kind.PADDING] = 1e4
    for norm in NORMS:
        one, two = run(norm, norm), run(norm, norm, other)
        real = KIND != Kind.PADDING
        np.testing.assert_array_equal(one["y"][real], two["y"][real])
        np.testing.assert_array_equal(one["var"], two["var"])


def test_natural_rows_alone_equal_flax_batch_norm():
    kind = np.zeros(len(X), int)
    flax = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=EPSILON)
    variables = flax.init(jax.random.key(0), X)
    params = {"scale": AFFINE["scale"], "bias": AFFINE["bias"]}
    y, updated = flax.apply({**variables, "params": params}, X, mutable=["batch_stats"])
    got = run("aux", "dar", kind=kind)
    np.testing.assert_allclose(got["y"], y, rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(got[name], updated["batch_stats"][name], rtol=1e-5)


@pytest.mark.parametrize("norm", ["dar", "dar_grad", "aux"])
def test_two_halves_equal_two_norms(norm):
    kind = np.repeat([Kind.NATURAL, Kind.NOISE], 6)
    both = run("shared", norm, kind=kind)
    half = run("shared", norm, X[6:], kind[:6])  # the noise half, taken for natural
    scale, bias = (AFFINE[("noise_" if norm == "aux" else "") + n] for n in ("scale", "bias"))
    normed = (np.asarray(half["y"]) - AFFINE["bias"]) / AFFINE["scale"]
    np.testing.assert_allclose(both["y"][6:], normed * scale + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_without_natural_rows_keeps_the_running_statistics(norm):
    got = run(norm, "dar", kind=np.full(len(X), Kind.NOISE))
    np.testing.assert_array_equal(got["mean"], np.zeros(3))
    np.testing.assert_array_equal(got["var"], np.ones(3))
    assert np.isfinite(got["y"]).all() and np.isfinite(got["dx"]).all()


@pytest.mark.parametrize("norm", ["shared", "dar_grad"])
def test_padding_beside_a_single_row_does_not_grow_from_norm_to_norm(norm):
    """One image of one pixel has variance 0: each norm would make padding 316 times as large."""
    x, kind = X[:3, :1, :1], jnp.array([Kind.NATURAL, Kind.PADDING, Kind.PADDING])
    norm = RoutedBatchNorm(norm, norm)
    variables = norm.init(jax.random.key(0), x, kind, train=False)

    def deep(params, x):
        def layer(x, _):
            of_layer = {**variables, "params": params}
            return norm.apply(of_layer, x, kind, train=True, mutable="batch_stats")

        y, updated = jax.lax.scan(layer, x, length=12)
        return y[0].sum(), (y, updated)

    grads, (y, updated) = jax.jit(jax.grad(deep, has_aux=True))(variables["params"], x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, updated)))
    np.testing.assert_array_equal(y[1:], 0)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_statistics_are_global_whatever_falls_on_a_device(norm, devices):
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    kind = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 0, 2, 2])  # one device without a natural row
    norm = RoutedBatchNorm(norm, norm)
    variables = norm.init(jax.random.key(0), jnp.asarray(X), jnp.asarray(kind), train=False)

    @jax.jit
    def apply(x, kind):
        return norm.apply(variables, x, kind, train=True, mutable=["batch_stats"])

    whole = apply(jnp.asarray(X), jnp.asarray(kind))
    spread = apply(jax.device_put(X, rows), jax.device_put(kind, rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole, spread)


def test_test_time_uses_the_running_statistics_for_every_row():
    norm = RoutedBatchNorm("aux", "dar")
    variables = norm.init(jax.random.key(0), jnp.asarray(X), jnp.asarray(KIND), train=False)
    stats = {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([4.0, 1.0, 0.25])}
    y = norm.apply({**variables, "batch_stats": stats}, X, jnp.asarray(KIND), train=False)
    want = (X - np.array([1, 2, 3])) / np.sqrt(np.array([4, 1, 0.25]) + EPSILON)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_statistics():
    norm = RoutedBatchNorm("shared", "dar", jnp.bfloat16)
    x = jnp.asarray(X, jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x, jnp.asarray(KIND), train=False)
    y, updated = norm.apply(variables, x, jnp.asarray(KIND), train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, updated)))
    want = 0.1 * np.asarray(x, np.float32)[(KIND == 0) | (KIND == 1)].mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], want, rtol=1e-4, atol=1e-5)
