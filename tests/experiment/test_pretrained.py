"""ResNets as on ImageNet against PyTorch, and starting from weights that others trained."""

import hashlib
import zlib

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from osed_jax.config.build import check, get_config
from osed_jax.errors import UserError
from osed_jax.experiment import loading, pretrained, workdir
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.experiment.trainer import Trainer
from osed_jax.files import records
from osed_jax.models.imagenet_resnet import ResNet18, ResNet50
from osed_jax.runtime.sharding import make_mesh
from osed_jax.training import optimizer
from osed_jax.training.state import create_state, num_parameters

# torchvision 0.29.1 on PyTorch 2.14.1, in eval mode, with the weights of `value` and this image:
# resnet18(num_classes=3) and resnet50(num_classes=3). Those of timm 1.0.31, whose tensors have the
# same names, give the same.
IMAGE = np.random.RandomState(0).standard_normal((2, 3, 70, 70)).astype(np.float32)
LOGITS = {
    ResNet18: [[2.38498, 1.31617, -0.62845], [2.39413, 1.38747, -0.65328]],
    ResNet50: [[0.35541, 1.75783, -1.35256], [0.36862, 1.88551, -1.31096]],
}


def value(name, shape):
    """A tensor of PyTorch's shape that follows from its name."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    x = x.astype(np.float32)
    if name.endswith("running_var"):
        return np.abs(x) + np.float32(0.5)
    if name.endswith("weight") and len(shape) == 1:
        return 1 + x * np.float32(0.1)
    return x * np.float32(np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1)


def shapes(net, classes):
    make = lambda: create_state(net(classes), optax.identity(), seed=0, image_size=32)  # noqa: E731
    return jax.eval_shape(make)


def tensors(net, classes=3):
    """A file's tensors: PyTorch's names and shapes."""
    like = shapes(net, classes)
    flat = traverse_util.flatten_dict({"params": like.params, "batch_stats": like.batch_stats})
    out = {"bn1.num_batches_tracked": np.array(7)}
    for path, leaf in flat.items():
        shape = leaf.shape[::-1] if leaf.ndim < 4 else tuple(leaf.shape[i] for i in (3, 2, 0, 1))
        out[pretrained.torch_name(path)] = value(pretrained.torch_name(path), shape)
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of ResNet-18, and its tensors."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    saved = tensors(ResNet18)
    save_file(saved, file)
    return file, saved


@pytest.mark.parametrize("net", [ResNet18, ResNet50])
def test_logits_are_those_of_torchvision(net, small, tmp_path):
    file = small[0]
    if net is ResNet50:
        file = tmp_path / "resnet50.safetensors"
        save_file(tensors(net), file)
    state = pretrained.with_weights(shapes(net, 3), file)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    image, kind = jnp.asarray(IMAGE.transpose(0, 2, 3, 1)), jnp.zeros(2, int)
    logits = jax.jit(lambda v: net(3).apply(v, image, kind, train=False))(variables)
    np.testing.assert_allclose(logits, LOGITS[net], atol=1e-4)


def test_sizes_are_those_of_torchvision():
    assert num_parameters(shapes(ResNet18, 1000).params) == 11_689_512
    assert num_parameters(shapes(ResNet50, 1000).params) == 25_557_032


def test_the_last_layer_begins_anew_for_other_classes(small, capsys):
    file, saved = small
    head = {"kernel": np.ones((512, 5)), "bias": np.ones(5)}
    state = shapes(ResNet18, 5)
    state = state.replace(params={**state.params, "Dense_0": head})
    loaded = pretrained.with_weights(state, file)
    assert loaded.params["Dense_0"] is head
    np.testing.assert_array_equal(
        loaded.params["conv1"]["kernel"], saved["conv1.weight"].transpose(2, 3, 1, 0)
    )
    assert "3 classes; the last layer begins anew" in capsys.readouterr().out


def test_tensors_that_do_not_fit_are_all_named(small, tmp_path):
    saved = dict(small[1])
    del saved["layer2.0.downsample.1.running_var"]
    saved["layer1.0.conv1.weight"] = np.zeros((64, 64, 1, 1), np.float32)
    saved["layer9.weight"] = np.zeros(3, np.float32)
    save_file(saved, tmp_path / "odd.safetensors")
    with pytest.raises(UserError) as error:
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "odd.safetensors")
    message = str(error.value)
    assert "without layer2.0.downsample.1.running_var" in message
    assert "layer1.0.conv1.weight (64, 64, 1, 1)" in message
    assert "does not have: layer9.weight" in message


def test_the_pretrained_part_learns_at_its_own_rate():
    params = {"conv1": jnp.ones(2), "Dense_0": jnp.ones(2)}
    tx = optimizer.sgd(lambda step: 0.5, momentum=0, weight_decay=0, pretrained_factor=0.1)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["conv1"], -0.05)
    np.testing.assert_allclose(updates["Dense_0"], -0.5)


def test_a_run_starts_from_the_weights_and_knows_them(small, tmp_path):
    file, saved = small
    config = get_config("erm")
    config.model.name, config.init.weights = "resnet18", str(file)
    config = check(config)
    data = loading.load_training_data(config, tmp_path / "cache")
    facts = loading.with_weights_digest(config, data).facts
    assert facts["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert workdir.changed_images(facts, data.facts) == []  # who only reads it needs no weights
    begun = tmp_path / "begun"
    (begun / "checkpoints" / "1").mkdir(parents=True)
    records.write_json(begun / "dataset.json", facts)
    with pytest.raises(UserError, match=r"the weights have changed since .*weights_sha256"):
        workdir.keep_facts(begun, {**facts, "weights_sha256": "another"})
    with Checkpoints.reading(tmp_path) as none:
        state, epochs = Trainer(config, tmp_path, make_mesh(), data)._starting_point(none)
    assert epochs == 0
    kernel = saved["layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(state.params["layer4_1"]["conv2"]["kernel"], kernel)
    assert state.params["Dense_0"]["bias"].shape == (10,)


def test_a_damaged_file_and_a_missing_one_are_one_line(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="no readable safetensors file"):
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="there is no such file"):
        pretrained.locate(str(tmp_path / "b.safetensors"))


def test_a_hub_id_is_found_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--timm--resnet18.tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"here")
    refs = tmp_path / "models--timm--resnet18.tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert pretrained.locate("timm/resnet18.tiny").read_bytes() == b"here"
    try:
        with pytest.raises(UserError, match="cannot be had from the hub"):
            pretrained.locate("timm/another")
    finally:
        huggingface_hub.utils.reset_sessions()  # the sessions of this thread stay offline otherwise
