"""The study behind docs/starting_from_real_images.md: what is planned, and the page's table."""

from benchmarks import starting_from_real_images as benchmark
from osed_jax.config import differences


def test_stores_differ_in_their_start_alone(tmp_path):
    of = benchmark.study(tmp_path)
    assert [start for _, start in benchmark.stores()] == 2 * ["noise", "0.3", "0.6", "0.9"]
    noise = benchmark.store_config(of, 500, "noise")
    for strength in benchmark.STRENGTHS:
        changed = differences(noise, benchmark.store_config(of, 500, str(strength)))
        assert [line.partition(":")[0] for line in changed] == [
            "generation.start_from",
            "generation.strength",
            "oversampling.generated_dir",
        ]
    again = differences(noise, benchmark.store_config(of, 500, "noise", seed=2))
    assert again == ["seed: 0 -> 2"], "runs of a store differ in the seed of weights and draws"
    assert noise["dataset"]["imbalance_ratio"] == 100
