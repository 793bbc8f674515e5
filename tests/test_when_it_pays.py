"""The study behind docs/when_it_pays.md: what is kept apart, what is computed, and the page."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks import when_it_pays as study_module
from benchmarks import when_it_pays_answers as tell
from benchmarks.when_it_pays import RAREST, SEEDS, STEPS, Judge, Study
from benchmarks.when_it_pays_map import draw_map
from osed_jax import experiment
from osed_jax.commands.finetune import choose_images
from osed_jax.config import differences
from osed_jax.errors import UserError
from tests.conftest import ROOT
from tests.overlap import figures_checked


def ids(images):
    return {image.tobytes() for image in images.images.take(np.arange(len(images.label)))}


def test_generator_runs_judge_and_test_set_share_no_image(tmp_path):
    study = Study(tmp_path)
    learnt = ids(choose_images(study_module.generator_config(study, 0, STEPS[0]), tmp_path))
    test = ids(experiment.load_split(study.config("ros", 1), "test", tmp_path))
    shown, judged = set(), []
    for rarest in RAREST:
        whole, rows, held_out = experiment.load_train(study.config("ros", rarest), tmp_path)
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
