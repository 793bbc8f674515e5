"""A run's stages, and what each of them trains on and trains."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import digits
from osed_jax.commands.train import train
from osed_jax.config.build import check
from osed_jax.config.field import fields_of
from osed_jax.config.fields_of_training import Loss
from osed_jax.config.methods import METHODS
from osed_jax.config.schema import FIELDS, SECTIONS, with_values
from osed_jax.config.stages import (
    Stage,
    common_epochs,
    num_epochs,
    replaced_share,
    stage_of,
    stages,
)
from osed_jax.errors import UserError
from osed_jax.evaluation.classifier import load_classifier
from osed_jax.experiment import build
from osed_jax.experiment.build import (
    StepFacts,
    _program,
    learning_rates,
    make_plan,
    make_training,
    of_a_step,
)
from osed_jax.experiment.loading import load_data
from osed_jax.files.records import write_json
from osed_jax.kinds import Kind
from osed_jax.models.layers import HEAD
from osed_jax.models.wide_resnet import WideResNet
from osed_jax.runtime.sharding import make_mesh
from osed_jax.store.reading import check_measured, classes_shown
from osed_jax.training.losses import LossFacts, cross_entropy
from osed_jax.training.optimizer import sgd
from osed_jax.training.state import create_state, renew_head
from osed_jax.training.step import make_eval_step, make_train_step
from tests.conftest import ROOT
from tests.training.test_step import AUGMENTATION, IMAGES

STORE = str(ROOT / "demo" / "generated")
LABEL = np.array([0, 1, 2, 0, 1, 2])
KIND = np.array([Kind.NATURAL, Kind.GENERATED, Kind.NATURAL, Kind.NOISE, Kind.GENERATED, 3])
BATCH = {"image": IMAGES[:6], "label": LABEL, "kind": KIND}


def of(method, **changes):
    """The checked config of a method on digits; names of fields with __ between their parts."""
    config = digits.get_config(method)
    config.oversampling.generated_dir = STORE
    config.train.num_epochs = 10
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    return check(config)


def lengths(config):
    return [(s.first, s.end, s.balanced, s.routed, bool(s.replacing)) for s in stages(config)]


def test_the_stages_of_each_method():
    plain, drawn = (0, 10, False, False, False), (0, 10, True, False, False)
    assert lengths(of("erm")) == [plain]
    assert lengths(of("ros")) == [drawn]
    assert lengths(of("drs")) == [(0, 8, False, False, False), (8, 10, True, False, False)]
    assert lengths(of("osed")) == [(0, 8, False, False, False), (8, 10, True, True, True)]
    assert lengths(of("fill", oversampling__real_only_epochs=3, train__head_epochs=4)) == [
        (0, 7, True, True, True),
        (7, 10, True, True, False),
        (10, 14, True, True, False),
    ]
    with_head = stages(of("erm", train__head_epochs=5))
    assert [s.head_only for s in with_head] == [False, True] and with_head[1].balanced
    assert num_epochs(of("erm", train__head_epochs=5)) == 15
    assert stage_of(with_head, 9) == with_head[0] and stage_of(with_head, 10) == with_head[1]


def common(one, other):
    return common_epochs(stages(one), stages(other))


def test_epochs_that_two_runs_have_in_common():
    assert common(of("erm"), of("osed")) == common(of("osed"), of("erm")) == 8
    assert common(of("drs"), of("open")) == 8  # the last stage differs
    assert common(of("erm"), of("fill")) == common(of("ros"), of("fill")) == 0
    assert common(of("fill"), of("fill", oversampling__replace_ratio=0.5)) == 0
    assert common(of("fill"), of("fill", loss__generated_weight=0.5)) == 0
    assert common(of("fill"), of("fill", train__head_epochs=4)) == 10
    assert common(of("fill"), of("fill", oversampling__real_only_epochs=4)) == 6
    falling = of("fill", oversampling__replace_schedule="linear")
    shorter = of("fill", oversampling__replace_schedule="linear", oversampling__real_only_epochs=4)
    assert common(falling, shorter) == 0  # it falls faster
    assert common(falling, with_values(falling, {"train.head_epochs": 1})) == 10


def test_the_replaced_share_falls_to_zero():
    config = of("fill", oversampling__replace_schedule="linear", oversampling__replace_ratio=0.8)
    (stage,) = stages(config)
    assert [replaced_share(stage, e) for e in (0, 5, 9)] == pytest.approx([0.8, 0.4, 0.08])
    assert replaced_share(Stage(0, 10, balanced=True), 3) == 0


def test_plans_follow_the_schedule_and_the_chosen_classes(tmp_path):
    config = of("fill", oversampling__replace_schedule="linear")
    data = load_data(config, tmp_path)
    shown = [(make_plan(config, data, e).kind == Kind.GENERATED).sum() for e in (0, 5, 9)]
    assert shown[0] > 1.5 * shown[1] > 3 * shown[2]
    config = of("fill", oversampling__generated_classes=("7", "9"))
    data = load_data(config, tmp_path)
    plan = make_plan(config, data, 0)
    assert data.facts["generated_classes"] == ["7", "9"]
    assert set(plan.label[plan.kind == Kind.GENERATED]) == {7, 9}
    assert set(plan.label[plan.kind == Kind.NATURAL]) == set(range(10))


def test_classes_whose_images_are_near_enough(tmp_path, capsys):
    store = tmp_path / "store"
    names = ["a", "b", "c", "d"]

    def choose(**settings):
        return classes_shown(store, names, **{"only": (), "max_gap": 1.5, **settings})

    with pytest.raises(UserError, match=r"max_gap needs .*gap\.json; make it with --mode=gap"):
        choose()
    report = tmp_path / "store.report"
    report.mkdir()
    distances = zip(names, [2.0, 2.9, 3.1, None])  # the median of three is 2.9
    rows = [{"class": n, "generated_frechet_distance": d} for n, d in distances]
    measured = {"content_sha256": {"generated": "abc"}}
    write_json(report / "gap.json", {"classes": rows, **measured})
    assert choose(max_gap=1.0) == ["a", "b", "d"]
    assert "3 of 4 classes (a, b, d); too few images to measure: d" in capsys.readouterr().out
    assert choose(max_gap=0.5) == ["d"] and choose(max_gap=0.0) == names
    assert choose(only=["c", "a"]) == ["a", "c"] and choose(only=["c"], max_gap=1.0) == []
    with pytest.raises(UserError, match=r"names 'x'; the classes are a, b"):
        choose(only=["x"])
    write_json(report / "gap.json", {"classes": rows[:3], **measured})
    with pytest.raises(
        UserError, match="was measured for the classes a, b, c, but the data set's are a, b, c, d"
    ):
        choose()
    (report / "gap.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        choose()


def test_distances_of_other_images_are_refused(tmp_path, capsys):
    (tmp_path / "store.report").mkdir()
    path = tmp_path / "store.report" / "gap.json"
    write_json(path, {"classes": [], "content_sha256": {"generated": "abc"}})
    check_measured(tmp_path / "store", "abc")
    assert not capsys.readouterr().out
    with pytest.raises(UserError, match=r"gap\.json was measured on other images .* --mode=gap"):
        check_measured(tmp_path / "store", "xyz")
    write_json(path, {"classes": []})
    with pytest.raises(UserError, match=r"has not what it should say \('content_sha256'\)"):
        check_measured(tmp_path / "store", "abc")


def parts(augmentation=AUGMENTATION, **settings):
    """A net without dropout, its step and its state."""
    model = WideResNet(3, depth=10, widen_factor=1, dropout_rate=0.0, noise_norm="shared")
    tx = sgd(lambda step: 0.05, momentum=0.9, weight_decay=0.01)
    step = make_train_step(
        model=model,
        tx=tx,
        loss_fn=cross_entropy(Loss(), LossFacts(np.ones(3), 1, 1)),
        augmentation=augmentation,
        num_classes=3,
        steps_per_epoch=3,
        **settings,
    )
    return model, jax.jit(step), create_state(model, tx, seed=0, image_size=8)


def test_a_generated_row_has_its_weight_in_the_mean_of_the_loss():
    """Oracle: the mean over rows, from the losses of steps that see one kind of row alone."""

    def loss(weight, kind=KIND):
        _, step, state = parts(generated_weight=weight)
        return float(step(state, {**BATCH, "kind": kind}, np.uint32(0))[1]["loss"])

    generated, others = 2, 3  # rows; the last of the batch is padding
    full, real = loss(1.0), loss(0.0)
    of_generated = (full * (generated + others) - real * others) / generated
    expected = (real * others + 0.3 * of_generated * generated) / (others + 0.3 * generated)
    assert abs(of_generated - real) > 0.01
    assert loss(0.3) == pytest.approx(expected, rel=1e-5)


def test_the_head_alone_is_trained_on_frozen_features():
    """Oracle: softmax regression on the features, by SGD with momentum in NumPy."""
    steady = dataclasses.replace(AUGMENTATION, flip=False, crop_padding=0, blur_prob=0.0)
    model, step, state = parts(steady, head_only=True)
    kind = np.zeros(6, int)
    _, features = make_eval_step(model=model, augmentation=steady)(state, IMAGES[:6])
    head = {name: np.asarray(value, np.float64) for name, value in state.params[HEAD].items()}
    trace = {name: np.zeros_like(value) for name, value in head.items()}
    began = jax.tree.map(np.array, state)
    for _ in range(3):
        logits = np.asarray(features) @ head["kernel"] + head["bias"]
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (probability - np.eye(3)[LABEL]) / len(LABEL)
        grads = {"kernel": np.asarray(features).T @ error, "bias": error.sum(axis=0)}
        for name in head:
            trace[name] = 0.9 * trace[name] + grads[name] + 0.01 * head[name]
            head[name] = head[name] - 0.05 * trace[name]
        state, _ = step(state, {**BATCH, "kind": kind}, np.uint32(0))
    for name in head:
        np.testing.assert_allclose(state.params[HEAD][name], head[name], rtol=1e-5, atol=1e-6)
    for name in set(began.params) - {HEAD}:
        jax.tree.map(np.testing.assert_array_equal, began.params[name], state.params[name])
    jax.tree.map(np.testing.assert_array_equal, began.batch_stats, state.batch_stats)


def test_a_new_head_has_fresh_weights_and_no_momentum():
    _, step, state = parts()
    trained, _ = step(state, BATCH, np.uint32(0))
    renewed = renew_head(trained, state)
    jax.tree.map(np.testing.assert_array_equal, renewed.params[HEAD], state.params[HEAD])
    momentum = renewed.opt_state[1][0].trace
    assert not any(leaf.any() for leaf in jax.tree.leaves(momentum[HEAD]))
    assert any(leaf.any() for leaf in jax.tree.leaves(momentum["Conv_0"]))
    body = [name for name in state.params if name != HEAD]
    for name in body:
        jax.tree.map(np.testing.assert_array_equal, renewed.params[name], trained.params[name])


def test_the_learning_rate_of_the_head_is_half_a_cosine():
    config = of("fill", train__head_epochs=4, optimizer__head_learning_rate=0.2)
    rates = learning_rates(config)
    assert len(rates) == 14
    np.testing.assert_allclose(rates[10:], 0.1 * (1 + np.cos(np.pi * np.arange(4) / 4)))


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory) -> Path:
    """A filled-up run; the same with a head stage in full, and forked from it."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name, **changes):
        few = {"train__num_epochs": 2, "report__enabled": False, "train__batch_size": 64}
        train(of("fill", **few, **changes), folder / name)

    run("fill")
    run("in_full", train__head_epochs=2)
    made = _program.cache_info().misses
    run("forked", train__head_epochs=2, init__fork_from=str(folder / "fill"))
    assert _program.cache_info().misses == made, "it shares the programs of the run in full"
    return folder


def test_runs_that_are_alike_are_made_from_the_same_settings():
    def step(method, routed=False, **changes):
        return of_a_step(of(method, **changes), routed=routed)

    erm = step("erm", train__batch_size=32)
    assert erm == step("drs") == step("osed") and hash(erm) == hash(step("osed"))
    assert erm != step("erm", optimizer__learning_rate=0.2)
    assert step("osed", routed=True) != step("open", routed=True) != erm


class Watched:
    """A config or a section that notes which of its fields are read."""

    def __init__(self, whole, name, read):
        self._whole, self._name, self._read = whole, name, read

    def __getattr__(self, name):
        value, full = getattr(self._whole, name), f"{self._name}{name}"
        if dataclasses.is_dataclass(value):
            return Watched(value, f"{full}.", self._read)
        self._read.add(full)
        return value


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_no_field_that_says_it_matters_for_something_else(method, monkeypatch):
    facts, read = StepFacts((3, 2), (0.5,) * 3, (0.2,) * 3, 8), set()
    sections = (name for name in ("augment", "loss"))  # read as a whole: all their fields are used
    assert all(f.matters_for == "step" for s in sections for f in fields_of(SECTIONS[s]).values())
    monkeypatch.setattr(build, "make_augmentation", lambda *args, **kwargs: AUGMENTATION)
    make_training(Watched(of(method), "", read), facts, steps_per_epoch=3, routed=True)
    assert read and not {name for name in read if FIELDS[name].matters_for != "step"}


def test_a_head_stage_forked_from_the_finished_run_equals_the_run_in_full(small_runs):
    def logits(name):
        return np.load(small_runs / name / "predictions.npz")["logits"]

    np.testing.assert_array_equal(logits("in_full"), logits("forked"))
    assert not np.array_equal(logits("in_full"), logits("fill"))
    lines = (small_runs / "forked" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["epoch"] for r in records] == [2, 3]
    assert all(r["generated"] == 0 for r in records)
    before, after = (load_classifier(small_runs / name, make_mesh()) for name in ("fill", "forked"))
    assert after.epoch == 4
    body = {k: v for k, v in before.state.params.items() if k != HEAD}
    jax.tree.map(np.testing.assert_array_equal, body, {k: after.state.params[k] for k in body})
    jax.tree.map(np.testing.assert_array_equal, before.state.batch_stats, after.state.batch_stats)
