"""Images that started from one of another class: their labels, from the store to the loss."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import digits
from osed_jax.batches import plan as plans
from osed_jax.batches.feeders import ResidentFeeder, TfDataFeeder
from osed_jax.batches.mixing import mix
from osed_jax.commands import diagnose
from osed_jax.commands.filter import filter as filter_store
from osed_jax.config.build import check
from osed_jax.config.fields_of_training import Loss
from osed_jax.config.schema import with_values
from osed_jax.data.datasets import load_digits
from osed_jax.data.images import Bank, FileImages
from osed_jax.errors import UserError
from osed_jax.evaluation.layer_gradients import _make_show, _make_step
from osed_jax.experiment import build, loading
from osed_jax.files import records
from osed_jax.kinds import Kind
from osed_jax.models.layers import HEAD
from osed_jax.runtime.sharding import split
from osed_jax.training.losses import LossFacts, cross_entropy, ldam
from osed_jax.training.state import create_state
from tests.augmentations import only
from tests.command_line import run_killed, run_well
from tests.oracles import make_stable_diffusion_oracle as oracle
from tests.test_cli import metrics
from tests.training.test_step import BANK, IMAGES, PLAN, MeanColour, small_step, some_devices

COUNTS, WEIGHTS = np.array([9, 4, 1]), np.array([0.5, 2.0, 0.25])
KIND, LABEL = np.array([0, 1, 0, 1, 1, 3]), np.array([0, 1, 2, 0, 1, 2])
OTHER = np.array([0, 2, 2, 1, 0, 2])
SHARE = np.array([1, 0.8, 1, 0.6, 0.9, 1], np.float32)
SOFT = {"image": IMAGES[:6], "label": LABEL, "kind": KIND, "other": OTHER, "share": SHARE}


def cosine_margin(z, label):
    """The loss of one row of one class: LDAM with a factor 4 and a margin of 0.5, by hand."""
    z = z.copy()
    z[label] -= 4 * 0.5 * COUNTS[label] ** -0.25
    return np.log(np.exp(z).sum()) - z[label]


@pytest.mark.parametrize("name", ["none", "mixup"])
def test_the_loss_of_a_soft_row_is_that_of_both_classes_with_their_weights(name):
    settings = only(mean=(0.5,) * 3, std=(0.25,) * 3, mix=name)
    step, state = small_step(
        loss_fn=ldam(Loss(), LossFacts(COUNTS, 1, 1, 4.0)),
        class_weights=lambda epoch: jnp.asarray(WEIGHTS, jnp.float32),
        generated_weight=0.3,
        augmentation=settings,
    )
    got = step(state, SOFT, np.uint32(5))[1]

    x = jnp.asarray((IMAGES[:6] / 255 - 0.5) / 0.25, jnp.float32)
    image, kind, partner, own = x, KIND, np.arange(6), np.ones(6)
    if name == "mixup":
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 1), 0)
        mixed = mix(x, jnp.asarray(KIND), jax.random.split(key)[0], settings)
        image, kind, partner, own = (np.asarray(part) for part in mixed)
        assert (np.minimum(own, 1 - own)[KIND == 1] > 0).any(), "no soft row is mixed"
    head = {name: np.asarray(v, float) for name, v in state.params[HEAD].items()}
    logits = np.asarray(image).mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    total = weight_of_all = 0.0
    for i in range(5):
        for j, of_image in ((i, own[i]), (partner[i], 1 - own[i])):
            for label, of_class in ((LABEL[j], SHARE[j]), (OTHER[j], 1 - SHARE[j])):
                weight = of_image * of_class * WEIGHTS[label] * (0.3 if KIND[j] == 1 else 1)
                total += weight * cosine_margin(logits[i], label)
                weight_of_all += weight
    assert float(got["loss"]) == pytest.approx(total / weight_of_all, rel=1e-4)
    assert float(got["natural"]) == (kind == 0).sum()
    hard = {n: v for n, v in SOFT.items() if n not in ("other", "share")}
    assert abs(float(step(state, hard, np.uint32(5))[1]["loss"]) - float(got["loss"])) > 1e-3


def test_diagnosed_gradients_are_those_of_the_soft_labels():
    """Oracle: the gradient of a bias under cross-entropy is softmax - target."""
    model, weights = MeanColour(), jnp.asarray(WEIGHTS, jnp.float32)
    state = create_state(model, optax.identity(), seed=0, image_size=8)
    facts = LossFacts(COUNTS, 1, 1)
    show = _make_show(only(mean=(0.5,) * 3, std=(0.25,) * 3), 0)
    step = _make_step(model, cross_entropy(Loss(), facts), lambda epoch: weights, jnp.int32(0))
    got = step(state, show(SOFT, 0), jnp.int32(1))[HEAD]["bias"]
    head = {name: np.asarray(v, float) for name, v in state.params[HEAD].items()}
    x = (IMAGES[:6] / 255 - 0.5) / 0.25
    z = x.mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    want, total = np.zeros(3), 0.0
    for i in np.flatnonzero(KIND == Kind.GENERATED):
        for label, share in ((LABEL[i], SHARE[i]), (OTHER[i], 1 - SHARE[i])):
            want += share * WEIGHTS[label] * (p[i] - np.eye(3)[label])
            total += share * WEIGHTS[label]
    np.testing.assert_allclose(got, want / total, rtol=1e-4)


def test_feeders_carry_second_classes_and_only_where_there_are_some(tmp_path):
    random = np.random.RandomState(1)
    other, share = random.randint(3, size=21), random.rand(21)
    plan = plans.with_soft_labels(PLAN, first=44, other=other, share=share)
    generated = PLAN.kind == Kind.GENERATED
    np.testing.assert_array_equal(plan.other[generated], other[PLAN.row[generated] - 44])
    np.testing.assert_array_equal(
        plan.share[generated], share[PLAN.row[generated] - 44].astype("f4")
    )
    np.testing.assert_array_equal(plan.other[~generated], PLAN.label[~generated])
    assert (plan.share[~generated] == 1).all() and generated.sum() > 5
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = Bank(FileImages([tmp_path / f"{i}.png" for i in range(len(IMAGES))], 8))
    sharding = split(some_devices(4))
    for feeder in (ResidentFeeder(BANK, sharding), TfDataFeeder(files, sharding)):
        for i, batch in enumerate(feeder.batches(plan)):
            assert batch["other"].dtype == np.int32 and batch["share"].dtype == np.float32
            for name in ("label", "kind", "other", "share"):
                np.testing.assert_array_equal(batch[name], getattr(plan, name)[i])
        assert set(next(feeder.batches(PLAN))) == {"image", "label", "kind"}, "another program"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Images of digits that started from other digits, with two strengths in turn."""
    folder = tmp_path_factory.mktemp("soft")
    oracle.write_small_model_of_today(folder / "model")
    fields = {
        "dataset.num_max": 12,
        "dataset.imbalance_ratio": 3,
        "oversampling.generated_dir": folder / "store",
        "generation.model": folder / "model",
        "generation.revision": "",
        "generation.steps": 2,
        "generation.batch_size": 8,
        "generation.start_from": "other_class",
        "generation.strength": "0.5,0.9",
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    run_well("--mode=generate", "--config=configs/digits.py:osed", *flags)
    return folder / "store"


def lines_of(store):
    return [json.loads(line) for line in (store / "metadata.jsonl").read_text().splitlines()]


def config_of(store, **changes):
    config = digits.get_config("fill")
    config.dataset.update({"num_max": 12, "imbalance_ratio": 3.0})
    config.oversampling.update({"generated_dir": str(store), "replace_ratio": 1.0, **changes})
    return check(config)


def test_lines_name_the_class_that_an_image_started_from(store):
    lines, label = lines_of(store), load_digits("train").label
    assert len(lines) == 50
    for line in lines:
        assert line["start_class"] == str(label[line["start_image"]]) != line["class"]
        assert line["strength"] == (0.5, 0.9)[line["index"] % 2]
    assert len({line["start_class"] for line in lines}) > 6
    kept = json.loads((store / "store.json").read_text())["settings"]["start_from_other_class"]
    assert kept["strength"] == [0.5, 0.9]


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_plans_have_the_labels_of_diff_mix(store, tmp_path, exponent):
    """Oracle: (1 - s^gamma) y_i + s^gamma y_j, from the lines of the store."""
    config = config_of(store, soft_label_exponent=exponent)
    data = loading.load_training_data(config, tmp_path / "cache")
    lines = {line["file_name"]: line for line in lines_of(store)}
    for plan in (build.make_plan(config, data, 3), diagnose.make_plan(config, data)):
        rows = np.argwhere(plan.kind == Kind.GENERATED)
        assert len(rows) > 10
        for at in map(tuple, rows):
            path = data.generated.images.paths[plan.row[at] - len(data.train.label)]
            line = lines[f"{path.parent.name}/{path.name}"]
            assert str(plan.label[at]) == line["class"]
            assert str(plan.other[at]) == line["start_class"]
            assert plan.share[at] == pytest.approx(line["strength"] ** exponent, rel=1e-6)
        natural = plan.kind != Kind.GENERATED
        assert (plan.share[natural] == 1).all()
    deferred = config_of(store, start_epoch=1)
    assert build.make_plan(deferred, data, 0).other is None, "these are ERM's epochs"


def test_a_killed_run_trains_on_the_soft_labels(store, tmp_path):
    """Oracle: the loss of each epoch, by the net as it is initialised, which stays, and NumPy."""
    config = config_of(store, soft_label_exponent=3.0)
    config = with_values(config, {"augment.crop_padding": 0})
    arguments = [
        "--config=configs/digits.py:fill",
        "--config.dataset.num_max=12",
        "--config.dataset.imbalance_ratio=3",
        "--config.oversampling.replace_ratio=1",
        "--config.oversampling.soft_label_exponent=3",
        "--config.train.num_epochs=3",
        "--config.augment.crop_padding=0",
        "--config.optimizer.learning_rate=1e-12",
        "--config.report.enabled=False",
        f"--config.oversampling.generated_dir={store}",
        f"--workdir={tmp_path / 'run'}",
    ]
    run_killed(*arguments, at="osed_jax.experiment.checkpoint:Checkpoints.save", call=3)
    said = run_well(*arguments)
    assert "continuing from the checkpoint of epoch" in said
    assert "12% to 73% their own class, the rest the other" in said

    data = loading.load_training_data(config, tmp_path / "cache")
    init, _ = build.make_training(
        config, build.StepFacts.of(data.facts), steps_per_epoch=3, routed=True
    )
    state, model = init(0), build.make_model(config, 10, routed=True)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    bank = Bank(data.train.images, data.generated.images)

    @jax.jit
    def logits(x, kind):
        return model.apply(variables, x, kind, train=True, mutable=["batch_stats"])[0]

    for epoch, got in enumerate(metrics(tmp_path / "run")):
        plan = build.make_plan(config, data, epoch)
        shown = plan.kind != Kind.PADDING
        pixels = [bank.take(row) / 255 for row in plan.row]
        x = (np.stack(pixels) - data.facts["mean"]) / data.facts["std"]
        z = np.stack([logits(*batch) for batch in zip(x.astype("f4"), plan.kind)])
        log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        of_class = [
            -np.take_along_axis(log_p, c[..., None], axis=-1)[..., 0]
            for c in (plan.label, plan.other)
        ]
        soft = plan.share * of_class[0] + (1 - plan.share) * of_class[1]
        assert got["generated"] == (plan.kind == Kind.GENERATED).sum() > 10
        assert got["loss"] == pytest.approx(soft[shown].mean(), rel=2e-5)
        assert abs(of_class[0][shown].mean() - got["loss"]) > 3e-4, "as with the own class alone"


def test_what_would_be_silently_wrong_is_refused(store, tmp_path):
    def load(folder, **changes):
        return loading.load_training_data(config_of(folder, **changes), tmp_path / "cache")

    def with_line(name, change):
        copy = tmp_path / name
        shutil.copytree(store, copy)
        lines = lines_of(copy)
        change(lines[3])
        (copy / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        return copy

    unknown = r"1 images of .* have no whole line in metadata.jsonl with the start_class"
    with pytest.raises(UserError, match=unknown):  # its digest tells
        load(with_line("changed", lambda line: line.update(start_class="0")))
    for i, start in enumerate(("2", "no class", 3, None)):  # sealed, but of no use

        def by_hand(line, start=start):
            assert line["class"] == "2"
            line.update(records.sealed({**line, "start_class": start}))

        with pytest.raises(UserError, match=unknown):
            load(with_line(f"by_hand_{i}", by_hand))
    unlisted = with_line("unlisted", lambda line: None)
    shutil.copy(unlisted / "9" / "000000.png", unlisted / "9" / "mine.png")
    with pytest.raises(UserError, match=rf"{unknown}.*mine\.png"):
        load(unlisted)
    other = with_line("other", lambda line: line.update(strength=0.5))
    lines = map(records.as_line, lines_of(other))  # another strength, sealed anew
    (other / "metadata.jsonl").write_text("".join(lines))
    of = [load(folder).facts["content_sha256"]["generated"] for folder in (store, other)]
    assert of[0] != of[1], "a run would go on with other labels"
    plain = tmp_path / "plain"
    shutil.copytree(store, plain, ignore=shutil.ignore_patterns("*.json*", "*.md"))
    assert load(plain).started_from is None
    with pytest.raises(
        UserError, match=r"soft_label_exponent is 2, but the images of .* set it to"
    ):
        load(plain, soft_label_exponent=2.0)
    config = config_of(store)
    filters = {"filtered_dir": str(tmp_path / "filtered"), "drop_duplicates": True}
    config = with_values(config, {f"generation.{name}": value for name, value in filters.items()})
    with pytest.raises(UserError, match=r"their soft labels would be lost; set the filters in"):
        filter_store(config)
