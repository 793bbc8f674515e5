"""The study behind docs/when_it_pays.md: what is kept apart, what is computed, and the page."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks import when_it_pays as study_module
from benchmarks import when_it_pays_answers as tell
from benchmarks.when_it_pays import RAREST, SEEDS, STEPS, Judge, Study
from benchmarks.when_it_pays_map import draw_map
from osed_jax.commands.finetune import choose_images
from osed_jax.comparison.tables import markdown
from osed_jax.config.build import differences
from osed_jax.errors import UserError
from osed_jax.experiment import build, loading
from tests.conftest import ROOT
from tests.overlap import figures_checked

PAGE, KEPT = ROOT / "docs" / "when_it_pays.md", ROOT / "results" / "when_it_pays"


def ids(images):
    return {image.tobytes() for image in images.images.take(np.arange(len(images.label)))}


def test_generator_runs_judge_and_test_set_share_no_image(tmp_path):
    study = Study(tmp_path)
    learnt = ids(choose_images(study_module.generator_config(study, 0, STEPS[0]), tmp_path))
    test = ids(loading.load_split(study.config("ros", 1), "test", tmp_path))
    shown, judged = set(), []
    for rarest in RAREST:
        whole, rows, held_out, _ = loading.load_train(study.config("ros", rarest), tmp_path)
        assert np.bincount(whole.label[rows])[[0, 9]].tolist() == [100, rarest]
        shown |= ids(whole.select(rows))
        judged.append(ids(whole.select(held_out)))
    assert all(part == judged[0] for part in judged)
    parts = [learnt, test, shown, judged[0]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797, "each digit is in one part"


def test_what_is_planned(tmp_path):
    study = Study(tmp_path)
    planned = list(study_module.planned(study))
    assert [(seed, rarest) for seed, rarest, _ in planned] == [
        (s, r) for s in SEEDS for r in RAREST
    ]
    for seed, rarest, runs in planned:
        assert list(runs) == ["ros", "open", *(f"fill_{steps}" for steps in STEPS)]
        changed = {name: differences(runs["ros"], run) for name, run in runs.items()}
        assert runs["open"]["oversampling"]["start_epoch"] == 0
        for run in runs.values():
            assert run["seed"] == seed and run["dataset"]["imbalance_ratio"] == 100 / rarest
            assert run["train"]["num_epochs"] == 60
        of_fill = {"generated_dir", "generated_norm", "mode", "replace_ratio"}
        for steps in STEPS:
            fields = {text.split(":")[0].split(".")[-1] for text in changed[f"fill_{steps}"]}
            assert fields == of_fill
            shown = runs[f"fill_{steps}"]["oversampling"]["generated_dir"]
            assert shown == str(study.store(steps))
    made = [
        study_module.generator_config(study, before, steps)["finetune"]
        for before, steps in zip((0, *STEPS), STEPS)
    ]
    assert sum(m["num_steps"] for m in made) == STEPS[-1]
    assert [m["base"] for m in made] == ["miniature", *(m["output_dir"] for m in made[:-1])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A long tail, three epochs each: with a store of noise, and with that of the demo."""
    folder = tmp_path_factory.mktemp("study")
    changes = {"train.num_epochs": 3, "dataset.num_max": 40, "train.feeder": "resident"}
    study = Study(folder, steps=(0, 1500), rarest=(5,), seeds=(0,), changes=changes)
    noise = np.random.RandomState(0).randint(0, 256, (45, 8, 8, 3), np.uint8)
    for i, image in enumerate(noise):
        path = study.store(0) / str(1 + i % 9) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    study.store(1500).symlink_to(ROOT / "demo" / "generated")
    for _ in study_module.make_runs(study):
        study_module.keep(study, folder / "kept")
    return study


def test_the_script_trains_keeps_and_tells(trained, tmp_path):
    results = tell.read(trained.folder / "kept")
    assert results.recognised[0] < 0.5 and results.recognised[1500] > 0.95
    assert Judge(trained).real > 0.95
    with open(trained.folder / "kept" / "runs.csv", newline="") as file:
        lines = {line["method"] + line["steps"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["ros", "open", "fill0", "fill1500"]
    top1 = {name: float(line["top1"]) for name, line in lines.items()}
    noise, good = results.cells
    assert good.gain["top1", "open"] == [pytest.approx(top1["fill1500"] - top1["open"])]
    assert good.gap["precision"] == float(lines["fill1500"]["generated_precision"])
    assert noise.gap["precision"] < good.gap["precision"]
    assert not lines["ros"]["generated_precision"]
    assert all(table[1] for _, table in tell.tables(results))
    draw_map(tmp_path / "map.png", results)
    before = {p: p.stat().st_mtime_ns for p in trained.folder.rglob("*") if "kept" not in p.parts}
    list(study_module.make_runs(trained))
    for path in before:
        if path.name in ("summary.json", "gap.json", "metrics.jsonl"):
            assert path.stat().st_mtime_ns == before[path], "what is finished is skipped"


def write_results(folder, gains, seeds=(0, 1), recognised=(0.2, 0.6, 0.9), gap=None):
    """Runs whose resampling has 50 %, noise 52 %; `gains` over noise, [steps, rarest], points."""
    rarest = (1, 5)[: len(gains[0])]
    columns = "method steps rarest seed top1 group_1 generated_frechet_distance"
    columns += " test_frechet_distance generated_precision generated_recall"
    lines = []
    for n, tail in enumerate(rarest):
        for seed in seeds:
            drift = 0.01 * seed
            lines.append(["ros", "", tail, seed, 0.5 + drift, 0.1, "", "", "", ""])
            lines.append(["open", "", tail, seed, 0.52 + drift, 0.05, "", "", "", ""])
            for i, row in enumerate(gains):
                top1 = 0.52 + drift + row[n] / 100
                distance = gap[i][n] if gap else 10 / (1 + i)
                lines.append(["fill", i, tail, seed, top1, 0.1 + i / 10, 2 * distance, 2, 0.5, 0.5])
    folder.mkdir(exist_ok=True)
    text = "\n".join(",".join(map(str, line)) for line in lines)
    (folder / "runs.csv").write_text(columns.replace(" ", ",") + "\n" + text + "\n")
    shares = "\n".join(f"{i},{share}" for i, share in enumerate(recognised))
    (folder / "generators.csv").write_text(f"steps,recognised\n{shares}\n")
    return tell.read(folder)


def test_gains_are_paired_by_seed_and_end_where_they_pass_zero(tmp_path):
    results = write_results(tmp_path, [[-4.0, -4.0], [2.0, -3.0], [6.0, -1.0]])
    assert results.better(1, "top1") == "open" and results.better(1, "group_1") == "ros"
    gain = results.gain(results.cell(1, 1), "top1")
    assert gain.mean == pytest.approx(0.02) and gain.sd == pytest.approx(0)
    assert results.gain(results.cell(1, 1), "top1", "ros").mean == pytest.approx(0.04)
    # From -4 at 20 % to +2 at 60 %.
    end, words = tell.end_of_gain(results, 1, "top1")
    assert end == pytest.approx(20 + 40 * 4 / 6) and words == "47 %"
    assert tell.end_of_gain(results, 5, "top1") == (None, "no gain")
    results = write_results(tmp_path, [[1.0], [-1.0], [1.0]])
    assert tell.end_of_gain(results, 1, "top1")[0] == pytest.approx(75), "the last time it passes"
    results = write_results(tmp_path, [[1.0], [2.0], [3.0]])
    assert tell.end_of_gain(results, 1, "top1") == (None, "below 20 %")


def test_rank_correlation_is_scipys(tmp_path):
    random = np.random.default_rng(3)
    gains, gap = random.normal(size=(2, 3, 2)).tolist()
    results = write_results(tmp_path, gains, gap=(np.array(gap) + 9).tolist())
    found = tell.correlation(results, tell.MULTIPLE, "top1")
    expected = stats.spearmanr(np.ravel(gap), np.ravel(gains)).statistic
    assert found.value == pytest.approx(expected)
    assert found.over_cells[0] <= found.value <= found.over_cells[1]
    alone = [stats.spearmanr(*(np.array(v)[:, n] for v in (gap, gains))).statistic for n in (0, 1)]
    assert tell.within(results, tell.MULTIPLE, "top1") == pytest.approx(alone)
    write_results(tmp_path, [[-3.0, -1], [1, 2], [3, 4]], gap=[[9, 8], [5, 4], [3, 2]])
    found = tell.correlation(tell.read(tmp_path), tell.MULTIPLE, "top1")
    assert found.value == -1 and found.over_cells == (-1, -1) == found.over_generators


def test_a_long_tail_shows_the_seeds_that_all_its_runs_have(tmp_path):
    write_results(tmp_path, [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    (tmp_path / "runs.csv").write_text("\n".join(lines[:-1]) + "\n")
    results = tell.read(tmp_path)
    assert len(results.cell(2, 1).gain["top1", "ros"]) == 2
    assert len(results.cell(2, 5).gain["top1", "ros"]) == 1
    with pytest.raises(UserError, match=r"there is no .*runs.csv; give --workdir to make it"):
        tell.read(tmp_path / "nowhere")


def test_the_map_marks_every_cell(tmp_path):
    results = write_results(tmp_path, [[-4.0, -4.0], [2.0, -3.0], [6.0, -1.0]])
    with figures_checked() as seen:
        draw_map(tmp_path / "map.png", results)
    for text in ("-4.0", "+2.0", "-3.0", "+6.0", "-1.0", "20", "60", "90"):
        assert text in seen[0]


def test_kept_runs_are_those_of_the_study(tmp_path):
    results, study = tell.read(KEPT), Study(tmp_path)
    assert list(results.recognised) == list(STEPS) and results.rarest == list(RAREST)
    assert {len(values) for cell in results.cells for values in cell.gain.values()} == {len(SEEDS)}
    kept = json.loads((KEPT / "setting.json").read_text())
    assert kept["judge_on_real_test_images"] > 0.95
    config = build.of_a_run(study.config("ros", RAREST[0], seed=SEEDS[0]))
    assert not differences(kept["config"], config)
    assert sum(path.stat().st_size for path in KEPT.iterdir()) < 1e6


def test_the_page_has_the_tables_of_the_kept_runs():
    page = PAGE.read_text()
    for title, table in tell.tables(tell.read(KEPT)):
        assert f"\n{title}:\n\n{markdown(table)}\n\n" in page, title


def test_the_figure_is_that_of_the_kept_runs(tmp_path):
    draw_map(tmp_path / "map.png", tell.read(KEPT))
    figure = ROOT / "docs" / "figures" / "when_it_pays.png"
    with Image.open(tmp_path / "map.png") as new, Image.open(figure) as kept:
        assert new.size == kept.size
        # Another processor may round a shade otherwise, but moves nothing.
        assert np.abs(np.asarray(new, float) - np.asarray(kept, float)).max() < 50


def test_the_page_says_the_figures_of_the_kept_runs():
    results, text = tell.read(KEPT), " ".join(PAGE.read_text().split())

    def gain(steps, rarest, figure="top1"):
        return 100 * results.gain(results.cell(steps, rarest), figure).mean

    best, good, poor = (f"{100 * results.recognised[steps]:.3g} %" for steps in (1500, 600, 500))
    found = tell.correlation(results, tell.MULTIPLE, "top1")
    low, high = found.over_generators
    assert low < 0 < high, "the rule by which gap was left alone"
    alone = [
        value
        for figure in tell.FIGURES
        for value in tell.within(results, "distance", figure)[: RAREST.index(10) + 1]
    ]
    one_two_five = ", ".join(f"{gain(1500, rarest):+.1f}" for rarest in (1, 2, 5))
    for words in (
        f"`fill` is {gain(1500, 1):.1f} points ahead of the better of resampling and noise if a "
        f"judge reads {best} of",
        f"still {gain(600, 1):.1f} points if it reads {good[:2]} %. At {poor[:2]} % it is "
        f"{-gain(500, 1):.1f} points behind",
        f"With two real images it gains {gain(1500, 2):.1f} points",
        "({:+.1f}, {:+.1f}, {:+.1f};".format(*(gain(1500, rarest) for rarest in (5, 10, 20))),
        f"{gain(1500, 1, 'group_1'):.0f} points at one image with the best generator, and "
        f"{gain(500, 1, 'group_1'):.0f} with one whose images are read at {poor[:2]} %",
        f"(rank correlation {max(alone):.2f} to {min(alone):.2f})",
        f"{found.value:.2f}, with an interval over generators that contains 0 "
        f"({low:.2f} to {high:+.2f})",
        f"Confirmed: {one_two_five}, and {gain(1500, 20):+.1f} at 20",
    ):
        assert words in text, words
