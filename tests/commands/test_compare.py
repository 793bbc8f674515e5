"""Runs put together by config, and the tables that come of it, from hand-made runs."""

import copy
import csv

import numpy as np
import pytest

from configs import default
from osed_jax.commands.compare import compare
from osed_jax.comparison import tables
from osed_jax.comparison.finished_runs import find_runs, variants
from osed_jax.comparison.paired_tests import all_pairs
from osed_jax.config.build import check, run_as_plain
from osed_jax.errors import UserError
from osed_jax.evaluation.metrics import classification_report
from osed_jax.files.records import write_json

NAMES = ["cat", "sea_lion", "dog"]
LABEL = np.repeat(np.arange(3), 20)
GROUPS = {"many": [0], "few": [1, 2], "medium": []}


def digests(**other):
    """Facts of a run with digests of its images, some of them other ones."""
    parts = {"training": "a", "validation": None, "test": "b", "generated": "c", **other}
    return {"content_sha256": parts}


def write_run(folder, method, seed, wrong, *, label=LABEL, facts=(), **changes):
    """A finished run that takes the first `wrong` images of each class for the next class."""
    config = run_as_plain(check(default.get_config(method)))
    config["seed"] = seed
    for field, value in changes.items():
        section, name = field.split("__")
        config[section][name] = value
    prediction = np.where(np.arange(len(label)) % 20 < wrong, (label + 1) % 3, label)
    logits = 3.0 * np.eye(3, dtype=np.float32)[prediction]
    summary = {
        "method": method,
        "seed": seed,
        **classification_report(logits, label, class_names=NAMES, groups=GROUPS),
        "dataset": "folder",
        "class_names": NAMES,
        "class_counts": [50, 20, 5],
        "num_train_images": 75,
        "num_validation_images": 0,
        "subset_sha256": "0" * 64,
        "config": config,
        **digests(),
        **dict(facts),
    }
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", logits=logits, label=label)
    write_json(folder / "summary.json", summary)


@pytest.fixture
def three_methods(tmp_path):
    for seed, wrong in ((0, 6), (1, 5), (2, 4)):
        write_run(tmp_path / f"erm{seed}", "erm", seed, wrong, train__batch_size=128)
        write_run(tmp_path / f"open{seed}", "open", seed, wrong - 2, init__fork_from=f"erm{seed}")
    write_run(tmp_path / "osed0", "osed", 0, 3)
    return tmp_path


def cells(path):
    with open(path, newline="") as file:
        head, *rows = csv.reader(file)
    return [dict(zip(head, row)) for row in rows]


def test_means_over_seeds_and_paired_differences(three_methods):
    compare(three_methods)
    folder = three_methods / "comparison"
    erm, open_, osed = cells(folder / "methods.csv")
    assert [r["method"] for r in (erm, open_, osed)] == ["erm", "open", "osed"]
    assert erm["top-1"] == "75.00 ± 5.00" and erm["seeds"] == "3"
    assert erm["95 % interval"] == "62.58 to 87.42", "75 ± 4.302653 * 5 / sqrt(3)"
    assert open_["top-1"] == "85.00 ± 5.00" and open_["few"] == "85.00 ± 5.00"
    assert osed["top-1"] == "85.00" and osed["95 % interval"] == "—" and "medium" not in osed

    pairs = {row["pair"]: row for row in cells(folder / "pairs.csv")}
    first = pairs["open vs erm"]
    assert first["top-1"] == "+10.00 ± 0.00" and first["balanced"] == "+10.00"
    # Of 20 images of a class the seeds gain the 5th and 6th, the 4th and 5th, the 3rd and 4th: by
    # image 1/3, 2/3, 2/3, 1/3, whose variance over 60 images is 0.046328; 1.96 sd / sqrt(60).
    assert first["95 % over images"] == "+4.55 to +15.45"
    assert first["95 % over classes"] == "+10.00 to +10.00"
    assert first["McNemar p by seed"] == ", ".join(["0.031"] * 3), "6 images, all one way: 2 / 64"
    assert pairs["osed vs erm"]["seeds"] == "1" and pairs["osed vs open"]["top-1"] == "+5.00"
    assert pairs["osed vs open"]["McNemar p by seed"] == "0.25"

    by_class = {row["class"]: row for row in cells(folder / "classes.csv")}
    assert list(by_class) == NAMES and by_class["dog"]["training images"] == "5"
    assert by_class["dog"]["open"] == "85.00 ± 5.00" and by_class["dog"]["osed"] == "85.00"

    latex = (folder / "methods.tex").read_text()
    assert r"75.00 $\pm$ 5.00" in latex and r"95 \% interval" in latex and r"\midrule" in latex
    assert "| open vs erm " in (folder / "pairs.md").read_text()
    page = (folder / "comparison.html").read_text()
    assert page.count("data:image/png") == 2 and "http" not in page
    assert "Wilson" in page, "one method has one seed"


def test_held_out_images_have_a_column_of_their_own(three_methods):
    compare(three_methods)
    assert "validation" not in cells(three_methods / "comparison/methods.csv")[0]
    write_run(
        three_methods / "held_out",
        "drs",
        0,
        3,
        facts={"validation": {"top1": 0.5, "balanced_accuracy": 0.625}, "seed": 0},
    )
    compare(three_methods)
    rows = {r["method"]: r for r in cells(three_methods / "comparison/methods.csv")}
    assert rows["drs"]["validation"] == "62.50" and rows["drs"]["top-1"] == "85.00"
    assert rows["erm"]["validation"] == "—"
    page = (three_methods / "comparison" / "comparison.html").read_text()
    assert "validation is the balanced accuracy of images held out of training" in page


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(three_methods, capsys):
    write_run(three_methods / "aux", "open", 1, 0, oversampling__noise_norm="aux")
    compare(three_methods)
    rows = {row["method"]: row["seeds"] for row in cells(three_methods / "comparison/methods.csv")}
    assert rows == {
        "erm": "3",
        "open (noise_norm=dar)": "3",
        "open (noise_norm=aux)": "1",
        "osed": "1",
    }
    assert "open: 2 configs are kept apart, as they differ in more than" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("again", "message"),
    [
        ({"method": "erm", "seed": 1, "wrong": 5}, "are the same run .*seed 1.*keep only one"),
        (
            {"method": "erm", "seed": 9, "wrong": 1, "facts": {"subset_sha256": "1" * 64}},
            "of different data .subset_sha256: .*compare them separately",
        ),
        (
            {"method": "erm", "seed": 9, "wrong": 1, "facts": {"num_validation_images": 9}},
            "of different data .num_validation_images: 9 -> 0",
        ),
        (
            {"method": "erm", "seed": 9, "wrong": 1, "label": LABEL[::-1]},
            "of different data .the labels of the test images",
        ),
        (
            {"method": "erm", "seed": 9, "wrong": 1, "facts": {"groups": {}}},
            r"of different data .groups.few: 'absent' -> ",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(three_methods, again, message):
    write_run(three_methods / "again", **again)
    with pytest.raises(UserError, match=message):
        compare(three_methods)
    assert not (three_methods / "comparison").exists()


def test_a_group_without_test_images_is_left_out_of_the_figure(tmp_path):
    unseen = {"many": {"classes": ["cat"], "accuracy": None}}
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}", "erm", seed, 5, facts={"groups": unseen})
    compare(tmp_path)
    assert cells(tmp_path / "comparison" / "methods.csv")[0]["many"] == "—"


@pytest.mark.parametrize("part", ["training", "validation", "test"])
def test_runs_of_other_images_are_not_compared(tmp_path, part):
    write_run(tmp_path / "one", "erm", 0, 3, facts=digests())
    write_run(tmp_path / "two", "open", 0, 3, facts=digests(generated=None))
    compare(tmp_path)  # what one method alone is shown does not matter
    write_run(tmp_path / "zz", "ros", 0, 3, facts=digests(**{part: "other"}))
    with pytest.raises(UserError, match=rf"one and .*zz are of different data .other {part} im"):
        compare(tmp_path)


def test_seeds_whose_generated_images_were_exchanged_are_not_averaged(tmp_path):
    write_run(tmp_path / "a", "osed", 0, 3, facts=digests())
    write_run(tmp_path / "b", "osed", 1, 4, facts=digests())
    compare(tmp_path)
    write_run(tmp_path / "c", "osed", 2, 4, facts=digests(generated="other"))
    with pytest.raises(UserError, match=r"/a and .*/c have the same config, but the generated"):
        compare(tmp_path)


def test_linked_runs_are_found_once_and_dead_links_are_named(
    three_methods, tmp_path_factory, capsys
):
    away = tmp_path_factory.mktemp("away")
    write_run(away / "drs0", "drs", 0, 3)
    (three_methods / "linked").symlink_to(away / "drs0")
    (three_methods / "again").symlink_to(three_methods / "erm0")
    (three_methods / "around").symlink_to(three_methods)
    (three_methods / "gone").symlink_to(away / "nothing")
    assert len(compare(three_methods)) == 8
    assert f"{three_methods / 'gone'} is a broken link" in capsys.readouterr().out


@pytest.mark.parametrize("bit", [130, 300, 900, 1300])
def test_predictions_with_a_flipped_bit_or_of_another_run_are_refused(three_methods, bit):
    path = three_methods / "osed0" / "predictions.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:bit] + bytes([whole[bit] ^ 4]) + whole[bit + 1 :])
    with pytest.raises(UserError, match=r"osed0/predictions.npz .*train the run again"):
        compare(three_methods)
    path.write_bytes((three_methods / "erm0" / "predictions.npz").read_bytes())
    with pytest.raises(UserError, match=r"osed0/predictions.npz does not match the figures"):
        compare(three_methods)


def test_the_summary_of_another_tool_is_named(three_methods):
    (three_methods / "other").mkdir()
    (three_methods / "other" / "summary.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(UserError, match=r"other/summary.json has no method, seed"):
        compare(three_methods)


def test_a_run_without_predictions_is_named(three_methods):
    (three_methods / "osed0" / "predictions.npz").unlink()
    with pytest.raises(UserError, match=r"osed0/predictions.npz cannot .*train the run again"):
        compare(three_methods)


def test_a_second_comparison_does_not_take_the_first_for_a_run(three_methods):
    assert len(compare(three_methods)) == len(compare(three_methods)) == 7


def test_pairs_are_matched_by_seed(three_methods):
    """The same figures at other seeds: no pair may be made of different seeds."""
    run = find_runs(three_methods)
    rows, _ = variants([copy.copy(r) for r in run if r.directory.name != "erm0"])
    pair = next(p for p in all_pairs(rows) if (p.first, p.second) == ("erm", "open"))
    assert pair.seeds == (1, 2) and pair.top1.mean == pytest.approx(0.1)
    assert not [p for p in all_pairs(rows) if {p.first, p.second} == {"erm", "osed"}]


def test_odd_names_stay_one_cell_in_every_form():
    names = ["50% & #1_a|b\\c", "{$x^2$}~>", "two\nlines"]
    table = (["class", "n"], [[name, "3"] for name in names])
    rows = tables.markdown(table).splitlines()
    assert len(rows) == 5 and rows[2].startswith(r"| 50% & #1_a\|b\\c ")
    assert rows[4].startswith("| two lines ")
    rows = tables.latex(table).splitlines()[4:7]
    assert rows[0] == r"50\% \& \#1\_a|b\textbackslash{}c & 3 \\"
    assert rows[1] == r"\{\$x\textasciicircum{}2\$\}\textasciitilde{}$>$ & 3 \\"
    assert rows[2] == r"two lines & 3 \\"


@pytest.mark.parametrize("name", ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "-0.5 to =x"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name):
    written = next(csv.reader([tables.as_csv(([name], []))]))
    assert written == [f"'{name}"]


@pytest.mark.parametrize("figure", ["-0.5", "+10.00 ± 0.00", "-1.00 to +2.50", "-1,200", "-3e-05"])
def test_figures_stay_figures(figure):
    assert next(csv.reader([tables.as_csv(([figure], []))])) == [figure]
