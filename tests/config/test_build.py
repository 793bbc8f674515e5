"""The schema, its overrides and what is refused."""

import json

import numpy as np
import pytest

from configs import (
    cifar10_lt,
    cifar10_lt_small,
    cifar100_lt,
    default,
    digits,
    folder,
    folder_pretrained,
    imagenet_lt,
)
from docs.configuration_page import as_markdown
from osed_jax.config.build import as_plain, check, from_plain, method_of
from osed_jax.config.compare import differences
from osed_jax.config.conflicts import doubts
from osed_jax.config.fields_of_data import Augment
from osed_jax.config.fields_of_training import Model, Optimizer
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import FIELDS
from osed_jax.errors import UserError
from osed_jax.experiment.build import learning_rates
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "module",
    [cifar10_lt, cifar10_lt_small, cifar100_lt, digits, folder, folder_pretrained, imagenet_lt],
)
@pytest.mark.parametrize("method", METHODS)
def test_every_config_and_method_is_valid(module, method):
    config = module.get_config(method)
    if METHODS[method].sets["oversampling.mode"] == "generated":
        config.oversampling.generated_dir = "somewhere"
    checked = check(config)
    plain = {"noise": "open"} if method == "noise" else {method: "fill"}
    assert method_of(checked) == (plain[method] if METHODS[method].variant else method)
    assert from_plain(json.loads(json.dumps(as_plain(checked)))) == checked


def test_the_default_recipe_is_that_of_the_papers():
    config = check(cifar10_lt.get_config("open"))
    assert config.oversampling.start_epoch == 160
    assert config.oversampling.replace_ratio == pytest.approx(1 / 3)
    assert config.train.num_epochs == 200 and config.train.batch_size == 128
    assert config.optimizer == Optimizer(
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=2e-4,
        warmup_epochs=5,
        schedule="steps",
        decay_at=(0.8, 0.9),
        decay_factor=0.01,
        pretrained_factor=1.0,
        head_learning_rate=0.1,
    )
    assert config.model == Model(
        name="wide_resnet",
        depth=28,
        widen_factor=10,
        dropout_rate=0.3,
        dtype="float32",
        cosine_scale=0.0,
    )
    assert config.augment == Augment(
        flip=True,
        crop_padding=4,
        crop_size=0,
        crop_scale=(0.08, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        cutout=16,
        color_jitter=(0.4, 0.4, 0.4, 0.1),
        color_jitter_prob=0.8,
        grayscale_prob=0.2,
        blur_prob=0.5,
        blur_sigma=(0.1, 2.0),
        policy="none",
        randaugment_count=2,
        randaugment_level=9,
        mix="none",
        mix_alpha=1.0,
        mix_prob=1.0,
        mix_partner="any",
    )
    assert config.dataset.mean == (0.4914, 0.4822, 0.4465)
    assert config.dataset.std == (0.2023, 0.1994, 0.2010)
    assert config.dataset.imbalance_ratio == 100


@pytest.mark.parametrize("num_epochs", range(2, 62))
def test_deferral_starts_where_the_learning_rate_decays(num_epochs):
    config = cifar10_lt.get_config("open")
    config.train.num_epochs = num_epochs
    rate = learning_rates(check(config))
    decayed = np.flatnonzero(rate < 0.01 * rate.max() * 1.001)
    assert decayed[0] == config.oversampling.start_epoch


def test_what_follows_from_num_epochs_moves_along():
    config = cifar10_lt.get_config("open")
    config.train.num_epochs = 40
    assert config.oversampling.start_epoch == 32
    assert config.optimizer.warmup_epochs == 1
    config.oversampling.start_epoch = 10
    assert (config.oversampling.start_epoch, config.train.num_epochs) == (10, 40)
    early = default.get_config("ros")
    early.train.num_epochs = 40
    assert early.oversampling.start_epoch == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("train.num_epochs", 0),
        ("train.batch_size", 0),
        ("train.feeder", "fast"),
        ("dataset.name", "mnist"),
        ("dataset.data_dir", "caf\udce9"),  # bytes that are not UTF-8, as Python keeps them
        ("dataset.name", "tfds:"),
        ("dataset.imbalance_profile", "linear"),
        ("dataset.imbalance_ratio", 0.5),
        ("dataset.imbalance_ratio", float("nan")),
        ("dataset.groups", "three"),
        ("dataset.mean", (0.5,)),
        ("dataset.std", (0.2, 0.2, 0.0)),
        ("dataset.validation_fraction", 1.0),
        ("dataset.validation_folds", 1),
        ("oversampling.replace_schedule", "cosine"),
        ("oversampling.generated_classes", ("cat", "cat")),
        ("oversampling.max_gap", -1.0),
        ("oversampling.soft_label_exponent", -1.0),
        ("loss.generated_weight", -0.5),
        ("train.head_epochs", -1),
        ("optimizer.head_learning_rate", 0.0),
        ("oversampling.mode", "noize"),
        ("oversampling.replace_in", "head"),
        ("oversampling.real_only_epochs", -1),
        ("oversampling.replace_ratio", 1.5),
        ("oversampling.noise_share", -0.1),
        ("oversampling.noise_space", "latent"),
        ("oversampling.noise_norm", "dar-bn"),
        ("oversampling.generated_norm", "none"),
        ("augment.color_jitter", (0.4, 0.4, 0.4)),
        ("augment.color_jitter", (0.4, 0.4, 0.4, 0.6)),
        ("augment.blur_sigma", (2.0, 0.1)),
        ("augment.flip", "yes"),
        ("model.name", "vit"),
        ("model.depth", 27),
        ("model.dropout_rate", 1.0),
        ("model.dtype", "float16"),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.decay_at", (0.8, 1.5)),
        ("optimizer.schedule", "linear"),
        ("loss.label_smoothing", 1.0),
        ("augment.policy", "trivial"),
        ("augment.randaugment_count", 0),
        ("augment.randaugment_level", 31),
        ("augment.mix", "manifold"),
        ("augment.mix_alpha", 0.0),
        ("augment.mix_prob", 1.5),
        ("augment.mix_partner", "noise"),
        ("loss.name", "focal"),
        ("loss.tau", -1.0),
        ("loss.max_margin", 0.0),
        ("loss.class_weights", "always"),
        ("loss.beta", 1.0),
        ("model.cosine_scale", -1.0),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(field, value):
    config = default.get_config("open")
    *path, name = field.split(".")
    part = config
    for each in path:
        part = part[each]
    try:
        part[name] = value
    except TypeError:  # the schema's type already refuses it
        return
    with pytest.raises(UserError, match=f"config.{field} is"):
        check(config)


def test_all_problems_come_at_once():
    config = default.get_config()
    config.train.batch_size = 0
    config.model.dtype = "int8"
    with pytest.raises(UserError, match=r"batch_size is 0; .*; config\.model\.dtype is 'int8'"):
        check(config)


def test_unknown_and_missing_fields_are_named():
    config = default.get_config()
    config.train.speed = 3
    with pytest.raises(UserError, match=r"no field config\.train\.speed"):
        check(config)
    config = default.get_config()
    del config.train.feeder
    with pytest.raises(UserError, match=r"config\.train\.feeder is missing"):
        check(config)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("open", {"oversampling.start_epoch": 200}, "would never start"),
        ("open", {"oversampling.noise_share": 0.5}, "oversampling.mode=generated only"),
        ("drs", {"oversampling.real_only_epochs": 1}, "mode is 'resample'"),
        (
            "drs",
            {"oversampling.replace_schedule": "linear"},
            "config.oversampling.mode is 'resample'",
        ),
        (
            "open",
            {"oversampling.generated_classes": ("a",)},
            "generated only; config.oversampling.mode is 'noise'",
        ),
        (
            "drs",
            {"oversampling.soft_label_exponent": 1.0},
            "generated only; config.oversampling.mode is 'resample'",
        ),
        (
            "open",
            {"oversampling.max_gap": 1.0},
            "generated only; config.oversampling.mode is 'noise'",
        ),
        (
            "erm",
            {"loss.generated_weight": 0.5},
            "generated only; config.oversampling.mode is 'none'",
        ),
        ("erm", {"dataset.validation_fold": 2}, "validation_folds=0 it must be less than 1"),
        (
            "erm",
            {"dataset.validation_folds": 3, "dataset.validation_fraction": 0.1},
            "use one of the two, and set the other to 0",
        ),
        ("osed", {"oversampling.real_only_epochs": 40}, "real_only_epochs must be less than"),
        (
            "drs",
            {"oversampling.replace_in": "all"},
            "generated only; config.oversampling.mode is 'resample'",
        ),
        (
            "osed",
            {"oversampling.replace_in": "all", "oversampling.replace_ratio": 1.0},
            "shows no real image; give a number below 1",
        ),
        ("erm", {"init.fork_from": "x"}, "a mode other than none"),
        ("ros", {"init.fork_from": "x"}, "start_epoch of at least 1"),
        ("erm", {"init.weights": "x"}, "one of resnet18, resnet50, efficientnet_lite0; it is wide"),
        ("erm", {"optimizer.pretrained_factor": 0.1}, "with config.init.weights only"),
        ("osed", {"generation.lora_scale": 0.5}, "with config.generation.lora only"),
        ("erm", {"dataset.mean": (0.5, 0.5, 0.5)}, "both config.dataset.mean and"),
        ("erm", {"dataset.name": "folder"}, "need a size"),
        (
            "erm",
            {"dataset.groups": "thresholds", "dataset.few_below": 200},
            "in both groups",
        ),
        ("erm", {"dataset.name": "list", "dataset.image_size": 8}, "test_list is empty"),
        ("erm", {"augment.crop_size": 224, "dataset.image_size": 128}, "8/7 of it, 256"),
        (
            "erm",
            {"augment.crop_size": 8, "dataset.image_size": 8},
            "use one of the two, and set the other to 0",
        ),
        ("erm", {"dataset.test_list": "a.txt"}, "with config.dataset.name=list only"),
        (
            "erm",
            {
                "dataset.name": "list",
                "dataset.validation_list": "a.txt",
                "dataset.validation_folds": 3,
            },
            "validation_folds is 3, but config.dataset.validation_list names",
        ),
        ("erm", {"model.name": "resnet"}, r"6n\+2"),
        ("erm", {"augment.randaugment_level": 5}, "with config.augment.policy=randaugment only"),
        (
            "erm",
            {"augment.mix_alpha": 0.2},
            "with config.augment.mix=mixup or cutmix only; config.augment.mix is 'none'",
        ),
        (
            "erm",
            {"augment.mix_partner": "natural"},
            "with config.augment.mix=mixup or cutmix only; config.augment.mix is 'none'",
        ),
        ("erm", {"loss.tau": 2.0}, "with config.loss.name=logit_adjustment only"),
        (
            "erm",
            {"optimizer.schedule": "cosine", "optimizer.decay_at": (0.5,)},
            "config.optimizer.schedule=steps only; config.optimizer.schedule is 'cosine'",
        ),
        ("erm", {"loss.max_margin": 0.2}, "with config.loss.name=ldam only"),
        ("erm", {"loss.beta": 0.99}, "loss.class_weights=class_balanced or deferred only"),
        ("erm", {"loss.name": "ldam"}, "give config.model.cosine_scale, such as 30"),
        (
            "erm",
            {"loss.class_weights": "deferred", "oversampling.start_epoch": 200},
            "class_weights=deferred would never start",
        ),
        (
            "erm",
            {"model.name": "resnet18", "model.depth": 18, "model.widen_factor": 1},
            "has depth 18, widen_factor 1, but ResNet18 has one size",
        ),
    ],
)
def test_conflicts_between_fields_are_explained(method, changes, said):
    config = default.get_config(method)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=said):
        check(config)


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("erm", {"loss.name": "logit_adjustment"}, []),
        ("ros", {}, []),
        ("ros", {"loss.name": "logit_adjustment", "loss.tau": 0.0}, []),
        ("drs", {"loss.name": "balanced_softmax"}, ["loss.name=balanced_softmax", "=resample"]),
        ("fill", {"loss.class_weights": "deferred"}, ["class_weights=deferred", "=generated"]),
        (
            "erm",
            {"loss.name": "logit_adjustment", "train.head_epochs": 2},
            ["loss.name=logit_adjustment", "draws of train.head_epochs"],
        ),
        (
            "erm",
            {"loss.name": "balanced_softmax", "loss.class_weights": "class_balanced"},
            ["loss.name=balanced_softmax", "class_weights=class_balanced", "2 times"],
        ),
    ],
)
def test_an_imbalance_that_is_corrected_twice_is_said_in_one_line(method, changes, said):
    config = default.get_config(method)
    config.update_from_flattened_dict(changes)
    found = list(doubts(check(config)))
    assert len(found) == bool(said) and all(part in found[0] for part in said)


def test_differences_name_the_fields():
    old, new = ({"a": {"b": 1, "c": [1, 2]}, "d": x} for x in (1, 2))
    new["a"] = {"b": 1, "c": [1, 3], "e": 0}
    assert differences(old, new) == ["a.c: [1, 2] -> [1, 3]", "a.e: 'absent' -> 0", "d: 1 -> 2"]
    assert differences(old, old) == []


def test_the_page_of_all_fields_is_that_of_the_schema():
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert page == as_markdown(), "run make docs"
    assert page.count("\n| `") == len(FIELDS) + len(METHODS)


def test_a_path_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = digits.get_config("osed")
    config.oversampling.generated_dir = "~/made"
    config.init.fork_from = "runs/~x"
    config.generation.negative_prompt = "~"
    checked = check(config)
    assert checked.oversampling.generated_dir == "/home/someone/made"
    assert checked.init.fork_from == "runs/~x", "only at the beginning"
    assert checked.generation.negative_prompt == "~", "a text, no path"
