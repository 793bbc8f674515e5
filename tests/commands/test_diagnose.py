"""Gradients by kind of row: the numbers, the figure and the command."""

import csv
import hashlib
import json
import statistics

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.typing import DTypeLike
from PIL import Image

from configs import digits
from osed_jax.commands.diagnose import diagnose, make_plan
from osed_jax.config.build import check, run_as_plain
from osed_jax.data.image_set import ImageSet
from osed_jax.data.images import ArrayImages
from osed_jax.errors import UserError
from osed_jax.evaluation import layer_gradients
from osed_jax.evaluation.layer_gradients import LayerGradient, layer_name, layers_of, measure
from osed_jax.experiment import build, loading
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.experiment.loading import Data
from osed_jax.files.records import write_json
from osed_jax.kinds import NORMS, Kind
from osed_jax.models.batch_norm import RoutedBatchNorm
from osed_jax.models.layers import Conv
from osed_jax.models.resnet import ResNet
from osed_jax.models.wide_resnet import WideResNet
from osed_jax.reports import diagnose_page as report
from osed_jax.reports import style
from osed_jax.runtime.sharding import make_mesh, replicate, split
from osed_jax.training.losses import LossFacts, cross_entropy
from osed_jax.training.state import TrainState, create_state
from tests.augmentations import only
from tests.command_line import run_well

LAYERS = ["Conv_0", "RoutedBatchNorm_0", "Conv_1", "RoutedBatchNorm_1", "Dense_0"]
LOSS_FACTS = LossFacts(np.ones(3), num_epochs=1, start_epoch=1)
KINDS = {"natural": Kind.NATURAL, "generated": Kind.GENERATED, "noise": Kind.NOISE}
RANDOM = np.random.RandomState(0)
MEAN, STD = np.array([0.5, 0.4, 0.6]), np.array([0.25, 0.2, 0.3])
PLAIN = only(mean=tuple(MEAN), std=tuple(STD))
# The second batch holds no generated row, the third one row of padding; devices share unequally.
KIND = np.array([[0, 2, 0, 1, 0, 2, 1, 1], [0, 2, 0, 0, 0, 2, 2, 2], [0, 1, 0, 1, 3, 2, 0, 0]])
LABEL = RANDOM.randint(0, 3, KIND.shape)
IMAGE = RANDOM.randint(0, 256, (*KIND.shape, 6, 6, 3)).astype(np.uint8)


class Tiny(nn.Module):
    """Two convolutions, two norms and the last layer, whose name is not the last by alphabet."""

    generated_norm: str = "natural"
    noise_norm: str = "natural"
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image, kind, train):  # noqa: D102
        x = image
        for features in (4, 5):
            x = Conv(features)(x)
            x = nn.relu(RoutedBatchNorm(self.generated_norm, self.noise_norm)(x, kind, train=train))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(3)(x.mean(axis=(1, 2)))


def tiny_state():
    """As after a run whose noise, but not generated images, had auxiliary norms; all random."""
    model = Tiny(noise_norm="aux")
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)), jnp.zeros(1, int), False)
    )
    params = jax.tree.map(
        lambda leaf: RANDOM.randn(*leaf.shape).astype(np.float32) + 0.3, variables
    )
    return TrainState(jnp.int32(7), params["params"], params["batch_stats"], ())


STATE = tiny_state()
CLASS_WEIGHT = np.array([0.5, 2.0, 1.0])


def measured(
    *, model=None, state=STATE, which=(0, 1, 2), augmentation=PLAIN, seed=0, class_weights=None
):
    mesh = make_mesh()
    batches = [{"image": IMAGE[i], "label": LABEL[i], "kind": KIND[i]} for i in which]
    return measure(
        model or Tiny(),
        replicate(state, mesh),
        [jax.device_put(batch, split(mesh)) for batch in batches],
        num_batches=len(batches),
        image_size=6,
        loss_fn=cross_entropy({"label_smoothing": 0.0}, LOSS_FACTS),
        class_weights=class_weights,
        epoch=0,
        augmentation=augmentation,
        seed=seed,
        mesh=mesh,
    )


@pytest.fixture(scope="module")
def rows():
    return measured(class_weights=lambda epoch: jnp.asarray(CLASS_WEIGHT, jnp.float32))


def separate_gradients(batch_norm):
    """By kind, a tree for each batch that holds it (else None): jax.grad of losses written anew."""
    params = jax.tree.map(jnp.asarray, STATE.params)
    for name in ("RoutedBatchNorm_0", "RoutedBatchNorm_1") if batch_norm == "aux" else ():
        params[name]["generated_scale"] = params[name]["scale"]
        params[name]["generated_bias"] = params[name]["bias"]
    model = Tiny(batch_norm, batch_norm)

    @jax.jit
    def grad(params, image, label, kind, weight):
        def loss(params):
            variables = {"params": params, "batch_stats": STATE.batch_stats}
            logits, _ = model.apply(variables, image, kind, True, mutable=["batch_stats"])
            wrong = -jnp.log(jnp.exp(logits) / jnp.exp(logits).sum(axis=1, keepdims=True))
            return (jnp.take_along_axis(wrong, label[:, None], axis=1)[:, 0] * weight).sum()

        return jax.grad(loss)(params)

    found = {name: [] for name in KINDS}
    for image, label, kind in zip(IMAGE, LABEL, KIND):
        x = ((image / 255 - MEAN[None, None, None]) / STD[None, None, None]).astype(np.float32)
        for name, which in KINDS.items():
            here = kind == which
            weight = here * CLASS_WEIGHT[label]
            weight = (weight / max(weight.sum(), 1e-9)).astype(np.float32)
            tree = grad(params, x, label, kind, weight) if here.any() else None
            found[name].append(jax.device_get(tree))
    return found


def vector(tree, layer):
    return np.concatenate([leaf.ravel() for leaf in tree[layer].values()]).astype(np.float64)


@pytest.mark.parametrize("batch_norm", NORMS)
def test_norms_and_cosines_are_those_of_separate_losses(rows, batch_norm):
    oracle = separate_gradients(batch_norm)
    got = {(r.kind, r.layer): r for r in rows if r.batch_norm == batch_norm}
    assert list(got) == [(kind, layer) for kind in KINDS for layer in LAYERS]
    for (kind, layer), row in got.items():
        pairs = [
            (vector(tree, layer), vector(natural, layer))
            for tree, natural in zip(oracle[kind], oracle["natural"])
            if tree is not None
        ]
        assert row.num_batches == len(pairs) == (2 if kind == "generated" else 3)
        norms = [np.linalg.norm(own) for own, _ in pairs]
        ratios = [np.linalg.norm(own) / np.linalg.norm(natural) for own, natural in pairs]
        for values, mean, deviation in (
            (norms, row.norm_mean, row.norm_std),
            (ratios, row.ratio_mean, row.ratio_std),
        ):
            assert mean == pytest.approx(statistics.mean(values), rel=1e-3)
            assert deviation == pytest.approx(statistics.stdev(values), rel=1e-2, abs=1e-5)
        if not any(norms):
            assert row.cosine_mean is None and row.cosine_std is None
            continue
        cosines = [own @ nat / np.linalg.norm(own) / np.linalg.norm(nat) for own, nat in pairs]
        assert row.cosine_mean == pytest.approx(statistics.mean(cosines), abs=1e-3)
        assert row.cosine_std == pytest.approx(statistics.stdev(cosines), abs=1e-3)


def assert_noise_reaches_the_last_layer_alone(rows, last):
    for kind in {row.kind for row in rows} - {"natural"}:
        for row in rows:
            if row.kind != kind:
                continue
            if row.batch_norm != "dar" or row.layer == last:
                assert row.norm_mean > 1e-4, row
            else:
                assert row.norm_mean == 0 and row.ratio_mean == 0, row  # to the bit
                assert row.cosine_mean is None


def test_on_dar_noise_reaches_the_last_layer_alone(rows):
    assert_noise_reaches_the_last_layer_alone(rows, "Dense_0")
    for tree in separate_gradients("dar")["noise"]:
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        moved = {jax.tree_util.keystr(path) for path, leaf in flat if leaf.any()}
        assert moved == {"['Dense_0']['kernel']", "['Dense_0']['bias']"}


def test_own_norms_of_the_auxiliary_road_share_nothing_with_natural_rows(rows):
    for row in rows:
        if row.kind != "natural" and row.batch_norm == "aux" and "Norm" in row.layer:
            assert row.cosine_mean == 0 and row.norm_mean > 0


def test_each_batch_has_its_own_randomness_and_a_seed_repeats_it(monkeypatch):
    monkeypatch.setattr(layer_gradients, "NORMS", ("dar_grad",))  # one program to compile, not four
    noise = only(mean=tuple(MEAN), std=tuple(STD), noise_space="pixel")
    both = {"model": Tiny(dropout_rate=0.5), "augmentation": noise, "which": (0, 0)}
    one = measured(**both)
    assert one == measured(**both)
    assert one != measured(**both, seed=1)
    assert all(row.norm_std > 0 for row in one)  # although it is the same batch twice
    assert all(row.norm_std == 0 for row in measured(which=(0, 0)))


def test_small_gradients_are_not_taken_for_none():
    params = {**STATE.params, "Dense_0": {**STATE.params["Dense_0"]}}
    params["Dense_0"]["kernel"] = 1e-25 * params["Dense_0"]["kernel"]
    tiny = measured(state=STATE.replace(params=params))
    first = [r for r in tiny if r.layer == "Conv_0" and r.batch_norm != "dar"]
    assert all(0 < r.norm_mean < 1e-20 for r in first)
    assert all(r.cosine_mean == pytest.approx(1) for r in first if r.kind == "natural")


def test_a_net_that_diverged_is_refused():
    params = {**STATE.params, "Dense_0": {"kernel": np.full((5, 3), np.nan), "bias": np.zeros(3)}}
    with pytest.raises(UserError, match=r"gradient of Conv_0 is not finite .* diverged"):
        measured(state=STATE.replace(params=params))


def test_layers_are_in_the_order_of_the_forward_pass():
    assert [layer_name(path) for path in layers_of(Tiny(), 6)] == LAYERS
    wide = [layer_name(p) for p in layers_of(WideResNet(num_classes=3, depth=16), 8)]
    assert wide[:3] == ["Conv_0", "Block_0/RoutedBatchNorm_0", "Block_0/Conv_0"]
    assert wide[-3:] == ["Block_5/Conv_1", "RoutedBatchNorm_0", "Dense_0"]
    small = [layer_name(p) for p in layers_of(ResNet(num_classes=3, depth=32), 8)]
    assert len(small) == 63 and small[20:22] == ["Conv_10", "RoutedBatchNorm_10"]


@pytest.fixture
def drawn(rows, tmp_path):
    with style.figure(13, 8, tmp_path / "figure.png") as figure:
        report.draw(figure, rows)
    return figure


def shown(ax):
    return {line.get_gid(): line.get_xydata() for line in ax.lines if line.get_gid() in GIDS}


GIDS = {*NORMS, *(f"{batch_norm} no gradient" for batch_norm in NORMS)}


def test_the_figure_shows_that_dar_noise_reaches_the_last_layer_alone(drawn, rows):
    for ax, kind in zip(drawn.axes[:2], ("generated", "noise")):
        assert ax.get_title(loc="left").lower().startswith(kind) and ax.get_yscale() == "log"
        lines = shown(ax)
        assert lines.keys() == {*NORMS, "dar no gradient"}
        (last,) = (r for r in rows if (r.batch_norm, r.kind, r.layer) == ("dar", kind, "Dense_0"))
        np.testing.assert_allclose(lines["dar"], [[4, last.ratio_mean]])
        zeros = lines["dar no gradient"]
        np.testing.assert_array_equal(zeros[:, 0], [0, 1, 2, 3])
        # On a line of their own, named, in view, below all that is drawn.
        (floor,) = set(zeros[:, 1])
        others = [lines[batch_norm][:, 1].min() for batch_norm in NORMS]
        assert ax.get_ylim()[0] < floor <= min(others) / 10
        named = dict(zip(drawn.axes[0].get_yticks(), drawn.axes[0].get_yticklabels()))
        assert named[floor].get_text() == "no gradient"


def test_the_figure_shows_the_table(drawn, rows):
    for batch_norm in NORMS:
        own = [r for r in rows if (r.batch_norm, r.kind) == (batch_norm, "noise")]
        above, below = (shown(ax)[batch_norm] for ax in drawn.axes[1::2])
        ratio = [(i, r.ratio_mean) for i, r in enumerate(own) if r.norm_mean]
        np.testing.assert_allclose(above, ratio)
        cosine = [(i, r.cosine_mean) for i, r in enumerate(own) if r.cosine_mean]
        np.testing.assert_allclose(below, cosine)
    names = [label.get_text() for label in drawn.axes[2].get_xticklabels()]
    assert names == ["conv 0", "norm 0", "conv 1", "norm 1", "dense 0"]
    colours = {line.get_color() for line in drawn.axes[0].lines if line.get_gid() in NORMS}
    assert len(colours) == len(NORMS)


@pytest.mark.parametrize("size", [(7.2, 7.6), (18, 7.6)])
def test_the_legend_covers_nothing(drawn, size):
    drawn.set_size_inches(size)
    drawn.draw_without_rendering()
    legend = drawn.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= drawn.bbox.x1 and legend.y1 <= drawn.bbox.y1
    assert not any(ax.get_tightbbox().overlaps(legend) for ax in drawn.axes)
    assert [t.get_text().split(":")[0] for t in drawn.legends[0].get_texts()] == list(NORMS)


def some_data(generated_label):
    label = np.repeat(np.arange(3), [40, 10, 5])
    names = ("a", "b", "c")
    train = ImageSet(ArrayImages(np.zeros((55, 4, 4, 3), np.uint8)), label, names)
    generated = None
    if len(generated_label):
        pixels = np.zeros((len(generated_label), 4, 4, 3), np.uint8)
        generated = ImageSet(ArrayImages(pixels), generated_label, names)
    return Data(train, train, np.zeros(0, int), generated, {})


def settings(**sections):
    config = digits.get_config("erm")
    for section, fields in sections.items():
        config[section].update(fields)
    return check(config)


@pytest.mark.parametrize("with_generated", [False, True])
def test_half_of_the_rows_are_natural_and_none_is_padding(with_generated):
    generated = np.repeat([1, 2], 6) if with_generated else np.zeros(0, int)
    data = some_data(generated)
    plan = make_plan(settings(train={"batch_size": 32}, diagnose={"num_batches": 50}), data)
    assert plan.kind.shape == plan.label.shape == plan.row.shape == (50, 32)
    stored = np.concatenate([data.train.label, generated])
    has_image = plan.kind != Kind.NOISE
    np.testing.assert_array_equal(stored[plan.row[has_image]], plan.label[has_image])
    assert ((plan.kind == Kind.GENERATED) == (plan.row >= 55)).all()
    share = [[(plan.kind[plan.label == c] == kind).mean() for kind in Kind] for c in range(3)]
    if with_generated:
        want = [[1, 0, 0, 0], [0.5, 0.25, 0.25, 0], [0.5, 0.25, 0.25, 0]]
    else:
        want = [[0.5, 0, 0.5, 0]] * 3
    np.testing.assert_allclose(share, want, atol=0.08)


ERM = "--config=configs/digits.py:erm"
# A small net after no training at all. The run has no noise, yet noise is diagnosed.
RUN = {
    "train": {"num_epochs": 1},
    "dataset": {"num_max": 40, "imbalance_ratio": 8.0},
    "model": {"name": "resnet", "depth": 8},
    "oversampling": {"generated_dir": "", "start_epoch": 0},
}
FLAGS = [f"--config.{section}.{f}={v}" for section, of in RUN.items() for f, v in of.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory as training leaves it, for less time than training takes."""
    workdir = tmp_path_factory.mktemp("runs") / "erm"
    workdir.mkdir()
    config = settings(**RUN)
    data = loading.load_data(config, workdir)
    write_json(workdir / "config.json", run_as_plain(config))
    write_json(workdir / "dataset.json", data.facts)
    model = build.make_model(config, 10, routed=False)
    tx = build.make_optimizer(config, 1)
    about = {"config": run_as_plain(config), "dataset": data.facts}
    with Checkpoints.writing(workdir, every=0, also=[0], about=about) as saved:
        saved.save(1, create_state(model, tx, seed=0, image_size=8))
    return workdir


def digests(folder):
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_command_leaves_table_figure_and_page_and_the_checkpoint_alone(run, tmp_path):
    for c in range(1, 10):
        (tmp_path / str(c)).mkdir()
        pixels = RANDOM.randint(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / str(c) / "0.png")
    before = digests(run)
    said = run_well(
        ERM,
        f"--workdir={run}",
        "--mode=diagnose",
        "--config.diagnose.num_batches=2",
        "--config.train.batch_size=16",
        *FLAGS,
        f"--config.oversampling.generated_dir={tmp_path}",
    )
    after = digests(run)
    assert {p: after[p] for p in before} == before
    folder = run / "diagnose"
    assert {p.relative_to(folder).name for p in after.keys() - before.keys()} == {
        "gradients.csv",
        "gradients.json",
        "gradients.png",
        "diagnose.html",
    }
    saved = json.loads((folder / "gradients.json").read_text())
    rows = [LayerGradient(**row) for row in saved["gradients"]]
    assert len(rows) == len(NORMS) * len(KINDS) * 15
    assert saved["epoch"] == 1 and sum(saved["rows"].values()) == 32
    assert min(saved["rows"].values()) > 0
    assert_noise_reaches_the_last_layer_alone(rows, "Dense_0")
    lines = list(csv.DictReader((folder / "gradients.csv").read_text().splitlines()))
    assert [line["norm_mean"] for line in lines] == [str(row.norm_mean) for row in rows]
    with Image.open(folder / "gradients.png") as figure:
        assert min(figure.size) > 600
    page = (folder / "diagnose.html").read_text()
    assert "data:image/png;base64" in page and "Rows of class 0 are all natural" in page
    (dar,) = (line for line in said.splitlines() if line.split()[:2] == ["noise", "dar"])
    assert "1 of 15: Dense_0 alone" in dar


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("model", {"depth": 14}, r"other settings \(model.depth: 8 -> 14\)"),
        ("loss", {"name": "balanced_softmax"}, "loss.name: 'cross_entropy' -> 'balanced_softmax'"),
        ("dataset", {"num_max": 30}, "trained on other images .*subset_sha256"),
        ("train", {"batch_size": 30}, "config.train.batch_size is 30, .*multiple of 4"),
        ("oversampling", {"mode": "generated", "generated_dir": "/nowhere"}, "no folder /nowhere"),
    ],
)
def test_wrong_use_is_told(run, section, fields, message):
    sections = {**RUN, section: {**RUN.get(section, {}), **fields}}
    with pytest.raises(UserError, match=message):
        diagnose(settings(**sections), run)
    with pytest.raises(UserError, match=r"is .* a work directory"):
        diagnose(settings(**sections), run.parent)


def test_classes_without_generated_images_do_not_stop_it(run, tmp_path):
    for c in range(1, 10):
        (tmp_path / str(c)).mkdir()
        Image.new("RGB", (8, 8), (c, 0, 0)).save(tmp_path / str(c) / "0.png")
    shown = {"mode": "generated", "replace_in": "all", "generated_dir": str(tmp_path)}
    sections = {**RUN, "oversampling": {**RUN["oversampling"], **shown}}
    sections["dataset"] = {**RUN["dataset"], "num_max": 30}  # which is found out after loading
    with pytest.raises(UserError, match="trained on other images"):
        diagnose(settings(**sections), run)
