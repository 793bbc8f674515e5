"""The studies on digits: what is kept apart, what is computed, and the scripts."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks import starting_from_real_images as starting
from benchmarks import starts_tables
from benchmarks import when_it_pays as study_module
from benchmarks import when_it_pays_tables as tell
from benchmarks.when_it_pays import RAREST, STEPS, Judge, Study, write_csv
from benchmarks.when_it_pays_map import draw_map
from osed_jax.commands.finetune import choose_images
from osed_jax.config.build import as_plain
from osed_jax.config.compare import differences
from osed_jax.errors import UserError
from osed_jax.experiment import loading
from osed_jax.files.records import write_json
from tests.conftest import ROOT


def ids(images):
    return {image.tobytes() for image in images.images.take(np.arange(len(images.label)))}


def test_generator_runs_judge_and_test_set_share_no_image(tmp_path):
    study = Study(tmp_path)
    learnt = ids(choose_images(study_module.generator_config(study, 0, STEPS[0]), tmp_path))
    test = ids(loading.load_split(study.config("ros", 1), "test", tmp_path))
    shown, judged = set(), []
    for rarest in RAREST:
        split = loading.load_train(study.config("ros", rarest), tmp_path)
        assert np.bincount(split.train.label)[[0, 9]].tolist() == [100, rarest]
        shown |= ids(split.train)
        judged.append(ids(split.validation))
    assert all(part == judged[0] for part in judged)
    parts = [learnt, test, shown, judged[0]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797, "each digit is in one part"


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
    assert all(table[1] for _, (table,) in tell.sections(trained.folder / "kept"))
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
    with pytest.raises(UserError, match=r"there is no .*runs.csv; make it with"):
        tell.read(tmp_path / "nowhere")


def test_stores_differ_in_their_start_alone(tmp_path):
    of = starting.study(tmp_path)
    noise = as_plain(starting.store_config(of, 500, "noise"))
    for start in (*map(str, starts_tables.STRENGTHS), "other_class"):
        changed = differences(noise, as_plain(starting.store_config(of, 500, start)))
        assert [line.partition(":")[0] for line in changed] == [
            "generation.start_from",
            "generation.strength",
            "oversampling.generated_dir",
        ]
    again = differences(noise, as_plain(starting.store_config(of, 500, "noise", seed=2)))
    assert again == ["seed: 0 -> 2"], "runs of a store differ in the seed of weights and draws"


def test_runs_are_kept_with_their_place(tmp_path):
    of = starting.study(tmp_path)
    planned = [directory.name for directory, _ in starting.runs(of)]
    assert len(planned) == len(set(planned)) == 33
    for name, top1 in {"run_500_noise.seed_1": 0.5, "run_500_0.3.seed_1": 0.75}.items():
        summary = {"top1": top1, "groups": {"group_1": {"accuracy": top1}}, "wall_seconds": 1.0}
        facts = {"devices": 1, "machine": {}, "versions": {}, "config": {}}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", {**summary, **facts})
    starting.keep(of, tmp_path)
    shares = [
        {"steps": s, "start": start, "recognised": 0.5} for s, start in starts_tables.stores()
    ]
    write_csv(tmp_path / "stores.csv", shares)
    _, rows = starts_tables.table(tmp_path)
    assert rows[1][:6] == ["half-trained", "noise", "50.0", "1", "50.00", ""]
    assert rows[2][3:6] == ["1", "75.00", "+25.00"] and rows[3][3:6] == ["0", "—", ""]
