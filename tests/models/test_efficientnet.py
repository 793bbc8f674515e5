"""EfficientNet-Lite0 against timm's (recorded), with the packaged weights and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from osed_jax.experiment import pretrained
from osed_jax.models.efficientnet import EfficientNetLite0, timm_name
from osed_jax.training.state import create_state, num_parameters
from tests.oracles import make_efficientnet_oracle as oracle

IN_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # axes of a parameter, by their number
KIND = jnp.zeros(4, int)


@pytest.fixture(scope="module")
def recorded():
    with np.load(oracle.FILE) as file:
        return dict(file)


def shapes(classes):
    make = lambda: create_state(EfficientNetLite0(classes), optax.identity(), seed=0, image_size=32)  # noqa: E731
    return jax.eval_shape(make)


def name_of(path):
    """timm's, which calls the last layer otherwise."""
    return pretrained.torch_name(path).replace("fc.", "classifier.")


def test_logits_of_the_packaged_weights_are_those_of_timm(recorded):
    state = pretrained.with_weights(shapes(1000), pretrained.locate("efficientnet_lite0"))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    images = oracle.photographs()
    net = EfficientNetLite0(1000)
    logits = jax.jit(lambda v, x: net.apply(v, x, KIND[:2], train=False))(variables, images)
    np.testing.assert_allclose(logits, recorded["photographs"], atol=1e-4)
    assert logits[1].argmax() == 985  # daisy


@pytest.fixture(scope="module")
def random_weights():
    state = shapes(oracle.CLASSES)
    tree = traverse_util.flatten_dict({"params": state.params, "batch_stats": state.batch_stats})
    values = {}
    for path, leaf in tree.items():
        value = oracle.value(name_of(path), [leaf.shape[axis] for axis in IN_TORCH[leaf.ndim]])
        values[path] = value.transpose({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[leaf.ndim])
    return traverse_util.unflatten_dict(values)


def check(recorded, what, tree):
    """Compares a tree with the recorded arrays whose names begin with `what`."""
    found = {name_of(path): leaf for path, leaf in traverse_util.flatten_dict(tree).items()}
    expected = {n.removeprefix(what): v for n, v in recorded.items() if n.startswith(what)}
    assert len(expected) == 3
    for name, value in expected.items():
        ours = found[name].transpose(IN_TORCH[value.ndim])
        np.testing.assert_allclose(ours, value, atol=1e-4 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("side", oracle.SIDES)
def test_gradients_are_those_of_timm(recorded, random_weights, side):
    net, rows = EfficientNetLite0(oracle.CLASSES), oracle.ROWS[side]

    @jax.jit
    def gradients(params):
        def loss(params):
            logits = net.apply({**random_weights, "params": params}, rows, KIND, train=False)
            return (logits * oracle.OUTPUT_GRADIENT).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    grads, logits = gradients(random_weights["params"])
    np.testing.assert_allclose(logits, recorded[f"eval/{side}"], atol=1e-4)
    check(recorded, f"grad/{side}/", {"params": grads})


@pytest.mark.parametrize("side", oracle.SIDES)
def test_statistics_of_a_batch_are_those_of_timm(recorded, random_weights, side):
    net, rows = EfficientNetLite0(oracle.CLASSES), oracle.ROWS[side]
    train = jax.jit(lambda v: net.apply(v, rows, KIND, train=True, mutable=["batch_stats"]))
    logits, statistics = train(random_weights)
    np.testing.assert_allclose(logits, recorded[f"train/{side}"], atol=1e-4)
    check(recorded, f"stat/{side}/", statistics)


def test_the_size_is_the_published_one():
    state = shapes(1000)
    assert num_parameters(state.params) == 4_652_008
    assert num_parameters(state.batch_stats) == 42_016


def test_names_of_the_package_are_those_of_timm():
    for packaged, timm in {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_bn1.weight": "bn2.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.bias": "blocks.0.0.bn2.bias",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "module._blocks.15._bn2.bias": "module.blocks.6.0.bn3.bias",
        "_fc.bias": "classifier.bias",
        "_blocks.16._bn2.bias": "_blocks.16._bn2.bias",
        "layer1.0.conv1.weight": "layer1.0.conv1.weight",
    }.items():
        assert timm_name(packaged) == timm
