"""The study behind docs/starting_from_real_images.md: what is planned, and the page's table."""

from benchmarks import starting_from_real_images as benchmark
from benchmarks.when_it_pays import write_csv
from osed_jax.comparison.tables import markdown
from osed_jax.config.build import differences
from osed_jax.files.records import write_json
from tests.conftest import ROOT


def test_stores_differ_in_their_start_alone(tmp_path):
    of = benchmark.study(tmp_path)
    assert [start for _, start in benchmark.stores()] == 2 * [
        *("noise", "0.3", "0.6", "0.9", "other_class")
    ]
    noise = benchmark.store_config(of, 500, "noise")
    for start in (*map(str, benchmark.STRENGTHS), "other_class"):
        changed = differences(noise, benchmark.store_config(of, 500, start))
        assert [line.partition(":")[0] for line in changed] == [
            "generation.start_from",
            "generation.strength",
            "oversampling.generated_dir",
        ]
    again = differences(noise, benchmark.store_config(of, 500, "noise", seed=2))
    assert again == ["seed: 0 -> 2"], "runs of a store differ in the seed of weights and draws"
    assert noise["dataset"]["imbalance_ratio"] == 100


def test_the_page_shows_the_table_of_the_kept_runs():
    page = (ROOT / "docs" / "starting_from_real_images.md").read_text()
    assert markdown(benchmark.table(ROOT / "results" / "starting_from_real_images")) in page


def test_runs_are_kept_with_their_place(tmp_path):
    of = benchmark.study(tmp_path)
    planned = [directory.name for directory, _ in benchmark.runs(of)]
    assert len(planned) == len(set(planned)) == 33
    for name, top1 in {"run_500_noise.seed_1": 0.5, "run_500_0.3.seed_1": 0.75}.items():
        summary = {"top1": top1, "groups": {"group_1": {"accuracy": top1}}, "wall_seconds": 1.0}
        facts = {"devices": 1, "machine": {}, "versions": {}, "config": {}}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "summary.json", {**summary, **facts})
    benchmark.keep(of, tmp_path)
    shares = [{"steps": s, "start": start, "recognised": 0.5} for s, start in benchmark.stores()]
    write_csv(tmp_path / "stores.csv", shares)
    _, rows = benchmark.table(tmp_path)
    assert rows[1][:6] == ["half-trained", "noise", "50.0", "1", "50.00", ""]
    assert rows[2][3:6] == ["1", "75.00", "+25.00"] and rows[3][3:6] == ["0", "—", ""]
