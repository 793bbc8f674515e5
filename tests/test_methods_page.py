"""The page on losses and mixing says what the kept runs say, and they are those of its commands."""

import pytest

from configs import digits
from osed_jax.commands.sweep import planned
from osed_jax.comparison.finished_runs import Variant, by_seed, find_runs
from osed_jax.comparison.tables import markdown, overall
from osed_jax.config.build import check
from osed_jax.experiment import build
from tests.conftest import ROOT

# Row -> its folder, the method of the sweep, and what the command sets besides.
ROWS = {
    "`erm`": ("erm", "erm", {}),
    "`la`": ("la", "la", {}),
    "`ldam_drw`": ("ldam_drw", "ldam_drw", {}),
    "`mixup_drw`": ("mixup_drw", "mixup_drw", {}),
    "`fill`": ("fill", "fill", {}),
    "`fill`, logit adjustment": ("fill_la", "fill", {"loss.name": "logit_adjustment"}),
    "`fill`, mixup": ("fill_mixup", "fill", {"augment.mix": "mixup"}),
}


def kept(folder):
    return by_seed(find_runs(ROOT / "results" / "methods" / folder))


def test_the_table_is_that_of_the_kept_runs():
    found = [Variant(row, kept(folder)) for row, (folder, _, _) in ROWS.items()]
    assert all(variant.seeds == (0, 1, 2) for variant in found)
    table = markdown(overall(found))
    assert f"\n\n{table}\n\n" in (ROOT / "docs" / "methods.md").read_text(), table


@pytest.mark.parametrize("row", ROWS)
def test_kept_runs_are_those_of_the_commands(row, tmp_path):
    folder, method, changes = ROWS[row]
    config = digits.get_config()
    config.dataset.imbalance_ratio = 100.0
    config.oversampling.update({"replace_ratio": 1.0, "generated_dir": "generated"})
    config.sweep.methods = method
    config.update_from_flattened_dict(changes)
    runs = {run.seed: build.of_a_run(run) for _, run in planned(check(config), tmp_path)}
    for run in kept(folder):
        assert run.summary["config"] == runs[run.seed] and run.summary["method"] == method
        assert run.correct.mean() == pytest.approx(run.summary["top1"])


@pytest.mark.parametrize(
    ("row", "alone", "with_fill"),
    [
        ("ERM", "erm", "fill_shared_third"),
        ("logit adjustment", "la", "fill_la"),
        ("LDAM-DRW (with `fill`: LDAM)", "ldam_drw", "fill_ldam"),
        ("mixup-DRW (with `fill`: mixup)", "mixup_drw", "fill_mixup"),
    ],
)
def test_the_short_table_has_the_first_seed_of_the_kept_runs(row, alone, with_fill):
    (first,), (second,) = (
        find_runs(ROOT / "results" / "tenth" / f"{name}.seed_0") for name in (alone, with_fill)
    )
    line = f"| {row} | {100 * first.correct.mean():.2f} | {100 * second.correct.mean():.2f} |"
    assert line in (ROOT / "docs" / "methods.md").read_text()
