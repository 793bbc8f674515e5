"""Figures of runs and comparisons at 3, 10, 30 and 100 classes: no text overlaps or is cut off."""

import numpy as np
import pytest
from PIL import Image

from osed_jax.reports import bars, curves, mosaics, style
from osed_jax.reports.feature_map import draw_feature_map, spread
from osed_jax.reports.page import facts, page, picture, table, text
from osed_jax.reports.style import figure
from tests.overlap import figures_checked

SIZES = (3, 10, 30, 100)


def names(count):
    return [f"class_{i}" if i % 7 else f"a class with a long name {i}" for i in range(count)]


def shape(path):
    with Image.open(path) as image:
        assert len(image.getcolors(2**24) or range(9)) > 2, "the figure is blank"
        return image.size


def test_the_check_finds_what_overlaps_and_what_is_cut_off(tmp_path):
    for x, message in ((0.5, "overlap"), (1.3, "leave the figure")):
        with (
            pytest.raises(AssertionError, match=message),
            figures_checked(),
            figure(3, 3, tmp_path / "x.png") as drawn,
        ):
            drawn.set_layout_engine("none")
            ax = drawn.subplots()
            ax.text(0.5, 0.5, "first")
            ax.text(x, 0.5, "second")


@pytest.mark.parametrize("count", SIZES)
def test_per_class(tmp_path, count):
    random = np.random.default_rng(0)
    accuracy = [None, *random.random(count - 1)]
    with figures_checked() as seen:
        curves.draw_per_class(
            tmp_path / "x.png",
            names(count),
            accuracy=accuracy,
            interval=[None if a is None else (0.9 * a, min(1.1 * a, 1)) for a in accuracy],
            class_counts=np.geomspace(5000, 50, count).astype(int),
            shown={
                "natural": random.integers(1000, size=count),
                "generated": random.integers(500, size=count),
                "noise": random.integers(500, size=count),
            },
            shown_when="the last epoch (200)",
        )
    assert {"natural", "generated", "noise", "no test images"} <= set(seen[0])
    shape(tmp_path / "x.png")


@pytest.mark.parametrize("count", SIZES)
def test_confusion(tmp_path, count):
    matrix = np.random.default_rng(0).integers(20, size=(count, count)) + 50 * np.eye(
        count, dtype=int
    )
    matrix[-1] = 0
    with figures_checked() as seen:
        curves.draw_confusion(tmp_path / "x.png", matrix, names(count))
    assert "true class" in seen[0]
    if count == 3:
        shares = {
            f"{100 * value:.0f}"
            for value in (matrix[:2] / matrix[:2].sum(1, keepdims=True)).ravel()
        }
        assert shares <= set(seen[0])


@pytest.mark.parametrize("count", SIZES)
def test_feature_map(tmp_path, count):
    random = np.random.default_rng(0)
    label = np.arange(4 * count) % count
    place = random.normal(size=(count, 2))[label] * 3 + random.normal(size=(4 * count, 2))
    kind = random.choice(["test", "natural", "generated"], size=4 * count)
    with figures_checked() as seen:
        draw_feature_map(tmp_path / "x.png", place, kind, label, names(count))
    assert any(t.startswith("real, test (") for t in seen[0])
    assert ("class_1" in seen[0]) == (count <= 20), "many classes are not named"


def test_clusters_at_one_place_get_names_side_by_side():
    moved = spread(np.zeros((6, 2)), np.asarray([0.1, 0.1]))
    gaps = np.diff(np.sort(moved[:, 1]))
    assert (gaps >= 0.1 - 1e-9).all() and (moved[:, 0] == 0).all()


@pytest.mark.parametrize(("total", "start"), [(200, 160), (4, 3), (1, None), (60, 5)])
def test_learning_curves(tmp_path, total, start):
    records = [
        {"epoch": e, "loss": 2 / (e + 1), "train_accuracy": 1 - 0.9 / (e + 1)} for e in range(total)
    ]
    unseen = "validation" if total == 60 else "test"
    for record in records[::2]:
        record[f"{unseen}_accuracy"] = 0.8 * record["train_accuracy"]
    with figures_checked() as seen:
        curves.draw_learning_curves(
            tmp_path / "x.png", records, start_epoch=start, forked_epochs=start or 0
        )
    assert any("deferred phase" in t for t in seen[0]) == (start is not None)
    assert len({"test", "validation"} & set(seen[0])) == 1 and unseen in seen[0]


def test_groups_name_the_absent_ones(tmp_path):
    lines = [
        ("many", "3 classes, 101 to 5,000 images", 0.97, (0.95, 0.98)),
        ("medium", "1 class, 20 to 100 images", 0.03, (0.01, 0.08)),
        ("few", "no class", None, None),
    ]
    with figures_checked() as seen:
        curves.draw_groups(tmp_path / "x.png", lines)
    assert {"97.0 %", "3.0 %", "no class belongs to it"} <= set(seen[0])


@pytest.mark.parametrize("sure", [0.5, 0.999])
def test_reliability(tmp_path, sure):
    confidence = np.full(50, sure)
    with figures_checked() as seen:
        curves.draw_reliability(tmp_path / "x.png", confidence, np.arange(50) % 2 == 0, 0.123)
    assert "Reliability: ECE 12.3 %" in seen[0]


@pytest.mark.parametrize("count", SIZES)
def test_image_figures(tmp_path, count):
    random = np.random.default_rng(0)
    image = lambda n, side=8: random.integers(256, size=(n, side, side, 3), dtype=np.uint8)  # noqa: E731
    captions = [
        f"{a}, taken\nfor {a}\n(99.9% sure)" for a in ["a_quite_long_name"] * min(count, 12)
    ]
    with figures_checked() as seen:
        mosaics.draw_mistakes(tmp_path / "m.png", image(len(captions), 32), captions)
        mosaics.draw_mistakes(tmp_path / "none.png", image(0), [])
        kinds = {"natural": image(8) / 255, "generated": image(2) / 255, "noise": image(1) / 255}
        mosaics.draw_batch(tmp_path / "b.png", kinds, "A batch")
        lines = [(name, image(8), image(c % 4)) for c, name in enumerate(names(min(count, 20)))]
        mosaics.draw_real_and_generated(tmp_path / "r.png", lines, "20 of 100 classes")
    assert seen[1] == ["There is no mistake"] and "none" in seen[3]
    for name in "mbr":
        shape(tmp_path / f"{name}.png")


@pytest.mark.parametrize("methods", [1, 4, 12])
def test_comparisons(tmp_path, methods):
    random = np.random.default_rng(0)
    made = [
        bars.Bar(
            f"osed (generated_norm=dar_grad, {i})" if i % 2 else f"m{i}",
            value,
            (value - 0.02, value + 0.02) if i else None,
            [value - 0.01, value + 0.01],
        )
        for i, value in enumerate(random.random(methods))
    ]
    with figures_checked() as seen:
        bars.draw_overall(tmp_path / "o.png", made, "Top-1 accuracy")
        bars.draw_groups(tmp_path / "g.png", [(f"group_{g}", made) for g in range(6)])
    assert f"{100 * made[0].mean:.1f}" in seen[0]


@pytest.mark.parametrize("count", SIZES)
def test_changes(tmp_path, count):
    changes = {f"OSeD, norm {i}": np.linspace(-0.2, 0.1, count) for i in range(4)}
    with figures_checked() as seen:
        bars.draw_changes(tmp_path / "x.png", names(count), changes, "Against DRS")
    assert {*names(count), *changes, "Against DRS"} <= set(seen[0])


def test_trends(tmp_path):
    trends = {
        name: [(0.0, None), (-0.01 * i, (-0.01 * i - 0.02, 0.02)), (-0.1, None)]
        for i, name in enumerate(("natural", "dar", "dar_grad", "aux"))
    }
    said = {"title": "Norms", "xlabel": "share", "ylabel": "change (points)"}
    ticks = ["0 (DRS)", "1/3", "1"]
    with figures_checked() as seen:
        bars.draw_trends(tmp_path / "x.png", ticks, trends, **said)
    assert {*trends, *ticks, *said.values(), "-10"} <= set(seen[0])


def test_a_page_needs_no_network_and_escapes_what_it_is_given(tmp_path):
    curves.draw_groups(tmp_path / "x.png", [("a", "b", 0.5, (0.4, 0.6))])
    made = page(
        "<script>",
        facts([("a & b", "1")]),
        [("h", text("<b>") + picture(tmp_path / "x.png", '"') + table(["<"], [["&"]]))],
    )
    assert "<script>" not in made and "<b>1" in made and "&lt;b&gt;" in made
    assert "http" not in made and made.count("src=") == made.count('src="data:image/png;base64,')


def test_a_name_with_dollars_is_no_formula(tmp_path):
    name = "$5_{ and $7"
    with figures_checked(), figure(3, 3, tmp_path / "x.png") as drawn:
        style.name_classes(drawn.subplots(), [name, "b"])
    bar = bars.Bar(name, 0.5, None, [0.5])
    bars.draw_overall(tmp_path / "y.png", [bar], "title")
    caption = f"{name}\nis taken for\n$x^2$ {{ \\frac"
    mosaics.draw_mistakes(tmp_path / "z.png", np.zeros((1, 8, 8, 3), np.uint8), [caption])
    assert all(shape(tmp_path / f"{letter}.png") for letter in "xyz")
