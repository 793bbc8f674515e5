"""Distances against SciPy, closed forms and loops; copies that were planted; the real command."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy import linalg

from configs import digits
from osed_jax.commands import gap as gap_module
from osed_jax.commands.gap import gap
from osed_jax.config.build import check, run_as_plain
from osed_jax.data.datasets import load_digits
from osed_jax.data.long_tail import long_tailed_rows
from osed_jax.errors import UserError
from osed_jax.evaluation.frechet import frechet_distance, nearest, precision_recall
from osed_jax.experiment import build, loading
from osed_jax.experiment.checkpoint import Checkpoints
from osed_jax.files.records import write_json
from osed_jax.reports.gap_page import Pairs, draw_gap, draw_pairs
from osed_jax.training.state import create_state
from tests.command_line import run_well
from tests.conftest import ROOT

TAIL = {"num_max": 40, "imbalance_ratio": 8.0}


def by_scipy(a, b):
    """Equation 6 as it is written, with a matrix root."""
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return apart + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real)


def test_frechet_distance_equals_scipy():
    random = np.random.RandomState(0)
    a = random.randn(60, 7) @ random.randn(7, 7) + 3
    b = random.randn(90, 7) @ random.randn(7, 7)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    # The columns of an orthogonal design have exactly diagonal covariances.
    design = linalg.hadamard(16)[:, 1:6] * np.sqrt(15 / 16)
    s, t = np.array([1, 2, 3, 0.5, 0]), np.array([2, 2, 0.1, 4, 1])
    move = np.array([1, 0, -2, 0.5, 3])
    want = np.square(move).sum() + np.square(s - t).sum()
    assert frechet_distance(design * s, design * t + move) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("count", [2, 5, 64])
def test_frechet_distance_with_fewer_images_than_features(count):
    """Singular covariances: the nonzero part is that of the space the images span."""
    random = np.random.RandomState(count)
    low_a, low_b = random.randn(count, 3), random.randn(2 * count, 3) + 1
    embed = np.linalg.qr(random.randn(80, 3))[0].T  # an isometry changes no distance
    want = frechet_distance(low_a, low_b)
    if count > 2:
        assert want == pytest.approx(by_scipy(low_a, low_b), rel=1e-8)
    far = 1000 * random.randn(80)
    assert frechet_distance(low_a @ embed + far, low_b @ embed + far) == pytest.approx(want)
    wide = random.randn(count, 80)
    assert 0 <= frechet_distance(wide, wide) < 1e-10
    assert frechet_distance(wide, wide + 2) == pytest.approx(4 * 80)


def test_too_few_images_have_no_distance():
    assert frechet_distance(np.zeros((1, 3)), np.zeros((9, 3))) is None
    assert frechet_distance(np.zeros((9, 3)), np.zeros((0, 3))) is None
    assert precision_recall(np.zeros((3, 2)), np.zeros((9, 2)), 3) is None
    assert precision_recall(np.zeros((9, 2)), np.zeros((3, 2)), 3) is None
    assert precision_recall(np.zeros((4, 2)), np.zeros((4, 2)), 3) == (1, 1)


def test_precision_and_recall_by_hand():
    real = np.array([[0.0], [1.0], [8.0]])  # k=1: [-1, 1], [0, 2], [1, 15]
    generated = np.array([[2.0], [3.0], [16.0], [15.5]])  # [1, 3], [2, 4], [15.5, 16.5], [15, 16]
    # 2 (on a border) and 3 are covered, 16 and 15.5 are not; 1 (on a border) is, 0 and 8 are not.
    assert precision_recall(real, generated, 1) == pytest.approx((2 / 4, 1 / 3))
    # k=2: the ball of 8 is [0, 16], that of 2 is [-11.5, 15.5].
    assert precision_recall(real, generated, 2) == (1, 1)


@pytest.mark.parametrize(("k", "dimension"), [(1, 2), (3, 5), (7, 40)])
def test_precision_and_recall_equal_a_loop(k, dimension, monkeypatch):
    monkeypatch.setattr("osed_jax.evaluation.frechet._CHUNK", 200)  # several parts
    random = np.random.RandomState(k)
    real = random.randn(50, dimension) + 5
    generated = np.concatenate([0.9 * random.randn(60, dimension) + 5.7, real[:4]])

    def covered(points, by):
        hits = 0
        for point in points:
            for i, centre in enumerate(by):
                others = sorted(np.linalg.norm(centre - o) for j, o in enumerate(by) if j != i)
                if np.linalg.norm(point - centre) <= others[k - 1]:
                    hits += 1
                    break
        return hits / len(points)

    want = covered(generated, real), covered(real, generated)
    assert 0 < want[0] < 1 and 0 < want[1] < 1
    assert precision_recall(real, generated, k) == pytest.approx(want)


def test_an_image_that_is_there_many_times_has_a_ball_without_extent():
    real = np.concatenate([np.full((4, 3), 0.1), 0.1 + 1e-3 * np.eye(3)])
    generated = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1005]] * 2)
    assert precision_recall(real[:4], generated, 3)[0] == 0.5


def test_nearest_equals_a_loop_and_a_copy_is_at_zero():
    random = np.random.RandomState(0)
    generated, real = random.randn(30, 50) + 1e4, random.randn(40, 50) + 1e4
    generated[3] = real[17]
    index, distance = nearest(generated, real)
    for i, point in enumerate(generated):
        apart = [np.linalg.norm(point - r) for r in real]
        assert index[i] == np.argmin(apart) and distance[i] == pytest.approx(min(apart))
    assert index[3] == 17 and distance[3] == 0
    assert [len(part) for part in nearest(real[:0], real)] == [0, 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The work directory of a run as it stands before its first step, saved as its first epoch."""
    run = digits.get_config("erm")
    run.dataset.update(TAIL)
    config = check(run)
    workdir = tmp_path_factory.mktemp("runs") / "erm"
    workdir.mkdir()
    facts = loading.load_data(config, loading.open_cache(workdir)).facts
    write_json(workdir / "config.json", run_as_plain(config))
    write_json(workdir / "dataset.json", facts)
    model = build.make_model(config, len(facts["class_names"]), routed=False)
    tx = build.make_optimizer(config, steps_per_epoch=1)
    state = create_state(model, tx, seed=0, image_size=facts["image_size"])
    about = {"config": run_as_plain(config), "dataset": facts}
    with Checkpoints.writing(workdir, every=0, also=[0], about=about) as saved:
        saved.save(1, state)
    return workdir


@pytest.fixture
def real_images():
    """The long-tailed training set and the test set, (pixels, labels) each."""
    whole, test = load_digits("train"), load_digits("test")
    part = whole.select(long_tailed_rows(whole, profile="exp", **TAIL)[0])
    return [(s.images.take(np.arange(len(s.label))), s.label) for s in (part, test)]


@pytest.fixture
def store(tmp_path):
    """A folder that is no store: three pictures of noise for each class but the first."""
    random = np.random.RandomState(0)
    for c in range(1, 10):
        for i in range(3):
            save(random.randint(0, 256, (8, 8, 3), np.uint8), tmp_path / f"drawn/{c}/{i}.png")
    return tmp_path / "drawn"


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def config_of(store, **changes):
    config = digits.get_config("erm")
    config.dataset.update(TAIL)
    config.oversampling.generated_dir = str(store)
    config.evaluate.batch_size = 99  # which devices cannot share: it is rounded up
    config.gap.update(changes)
    return check(config)


COPIES = [
    f"generated_{kind}_of_{real}"
    for real in ("training", "test")
    for kind in ("copies", "near_copies")
]


def test_planted_copies_are_counted_in_their_class_and_column(
    trained, store, real_images, capsys, monkeypatch
):
    monkeypatch.setattr(gap_module, "_write", lambda *_: None)
    (train_images, train_label), (test_images, test_label) = real_images
    of_training = train_images[np.flatnonzero(train_label == 3)[0]]
    save(of_training, store / "7" / "copy.png")  # under another class than its own
    for i in range(2):
        save(test_images[np.flatnonzero(test_label == 5)[i]], store / "5" / f"copy{i}.png")
    noise = np.random.RandomState(1).randint(-6, 7, (8, 8, 3))
    near = train_images[np.flatnonzero(train_label == 2)[1]] + noise
    save(near.clip(0, 255).astype(np.uint8), store / "2" / "near.png")
    result = gap(config_of(store), trained)
    got = {row["class"]: [row[c] for c in COPIES] for row in result["classes"]}
    none = [0, 0, 0, 0]
    planted = {"7": [1, 0, 0, 0], "5": [0, 0, 2, 0], "2": [0, 1, 0, 0]}
    assert got == {"0": [None] * 4} | {str(c): planted.get(str(c), none) for c in range(1, 10)}
    assert [result["all"][c] for c in COPIES] == [1, 1, 2, 0]
    assert result["classes"][0]["generated_frechet_distance"] is None
    assert result["all"]["test_copies_of_training"] == 0
    assert "| 1 + 1 | 2 + 0 |" in capsys.readouterr().out


def test_a_sample_is_drawn_once_and_figures_without_enough_images_are_none(
    trained, store, monkeypatch
):
    monkeypatch.setattr(gap_module, "_write", lambda *_: None)
    few, again = (gap(config_of(store, max_images=3), trained) for _ in range(2))
    assert few == again
    assert few["all"]["test_images"] == 30 and few["all"]["generated_images"] == 27
    assert few["available_images"]["test"] == 500
    for row in few["classes"]:
        assert row["test_images"] == row["training_images"] == 3
        assert row["test_precision"] is None and row["test_frechet_distance"] > 0
    assert few["mean_of_classes"]["test_recall"] is None
    assert few["mean_of_classes"]["frechet_distance_classes"] == 9
    assert few["all"]["test_precision"] is not None


def test_the_command_on_the_images_that_come_with_the_project(trained, tmp_path):
    store = tmp_path / "generated"
    store.symlink_to(ROOT / "demo" / "generated")
    printed = run_well(
        "--mode=gap",
        "--config=configs/digits.py:erm",
        f"--workdir={trained}",
        f"--config.oversampling.generated_dir={store}",
        *(f"--config.dataset.{name}={value}" for name, value in TAIL.items()),
    )
    report = tmp_path / "generated.report"
    assert f"written to {report / 'report.html'}" in printed
    files = ["gap.csv", "gap.json", "gap.png", "nearest_test.png", "nearest_train.png"]
    assert sorted(p.name for p in report.iterdir()) == [*files, "report.html"]
    result = json.loads((report / "gap.json").read_text())
    assert result["available_images"] == {"training": 171, "test": 500, "generated": 665}
    rows = [*result["classes"], result["all"]]
    assert [row["generated_images"] for row in rows[:2]] == [0, 29]
    for row in rows[1:]:
        assert row["generated_frechet_distance"] > 0 and row["test_frechet_distance"] > 0
        assert all(0 <= row[f"{s}_recall"] <= 1 for s in ("generated", "test"))
        assert all(0 < row[f"{s}_precision"] <= 1 for s in ("generated", "test"))
        assert [row[c] for c in COPIES] == [0, 0, 0, 0], "the demo's generator copies nothing"
    mean = np.mean([row["generated_frechet_distance"] for row in rows[1:10]])
    assert result["mean_of_classes"]["generated_frechet_distance"] == pytest.approx(mean)
    with open(report / "gap.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == [*map(str, range(10)), "all"]
    assert lines[0]["generated_recall"] == ""
    assert float(lines[9]["generated_recall"]) == rows[9]["generated_recall"]
    page = (report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "biased upwards" in page and not re.search(r"src=\"http|<script|nan|None", page[-20000:])


@pytest.mark.parametrize("number", [3, 100])
def test_figures_of_few_and_many_classes(number, tmp_path):
    """A class without generated images, one with too few; every figure warns of nothing."""
    rows = [
        {"class": f"a long name {c}", "training_images": 9, "test_images": 9}
        | {"generated_images": 0 if c == 1 else 9}
        | {f"test_{m}": 0.5 for m in gap_module.MEASURES}
        | {f"generated_{m}": None if c < 3 else 0.5 for m in gap_module.MEASURES}
        for c in range(number)
    ]
    draw_gap(tmp_path / "gap.png", rows)
    images = np.zeros((min(number, 24), 8, 8, 3), np.uint8)
    apart = np.linspace(0, 1, len(images))
    names = [row["class"] for row in rows][: len(images)]
    pairs = Pairs(images, images, names, names, apart, apart)
    draw_pairs(tmp_path / "pairs.png", pairs, real_set="test", near_copy_below=0.05)
    for name in ("gap", "pairs"):
        with Image.open(tmp_path / f"{name}.png") as file:
            assert file.width < 2000 and np.asarray(file.convert("L")).min() < 50


def test_what_cannot_be_measured_is_said(trained, store, tmp_path):
    with pytest.raises(UserError, match="generated_dir is empty; give the folder"):
        gap(config_of(""), trained)
    with pytest.raises(UserError, match=r"is .* a work directory"):
        gap(config_of(store), tmp_path / "nothing")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("config.json", "dataset.json"):
        (unfinished / name).write_text((trained / name).read_text())
    with pytest.raises(UserError, match="has no checkpoint yet; train it first"):
        gap(config_of(store), unfinished)
    (store / "ten").mkdir()
    with pytest.raises(UserError, match="generated images of class 'ten'"):
        gap(config_of(store), trained)


@pytest.mark.parametrize(
    ("side", "classes", "message"),
    [(8, "ab", r"other classes \(\['0', .*\['a', 'b'\]"), (9, "0123456789", r"image size \(8\)")],
)
def test_a_net_of_other_images_is_refused(trained, tmp_path, side, classes, message):
    for split in ("train", "test"):
        for name in classes:
            save(
                np.full((side, side, 3), 7 * ord(name) % 256, np.uint8),
                tmp_path / "data" / split / name / "0.png",
            )
    config = config_of(tmp_path / "drawn")
    config.dataset |= {"name": "folder", "data_dir": str(tmp_path / "data"), "num_max": 1}
    config.dataset |= {"image_size": side, "imbalance_ratio": 1.0}
    with pytest.raises(UserError, match=message):
        gap(config, trained)
    assert not list(tmp_path.glob("*.report"))
