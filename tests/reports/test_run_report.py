"""A run's report: its page, its figures, and the command that repeats it."""

import html
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import digits
from osed_jax.commands.evaluate import evaluate
from osed_jax.commands.train import train
from osed_jax.config.build import check, from_plain, run_as_plain
from osed_jax.files import records
from osed_jax.reports.run_images import _balanced_rows
from tests.conftest import ROOT
from tests.overlap import figures_checked

FIGURES = {
    "batch",
    "confusion",
    "features",
    "groups",
    "learning_curves",
    "mistakes",
    "per_class",
    "real_and_generated",
    "reliability",
}


def small(method, **changes):
    config = digits.get_config(method)
    config.train.update({"num_epochs": 2, "batch_size": 40, "checkpoint_every_epochs": 0})
    config.oversampling.update({"start_epoch": 1, **changes})
    config.report.map_images = 60
    return config


def parsed(command):
    """The config that a command line leads to, by the program's own parser."""
    code = "import json, sys, main; from osed_jax.config.build import as_plain, check; "
    code += "print(json.dumps(as_plain(check(main.parsed(sys.argv)))))"
    arguments = shlex.split(command.replace("\\\n", " "))[2:]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return run_as_plain(from_plain(json.loads(done.stdout)))


def command_of(page):
    return html.unescape(re.search(r"<pre>(python main.py.*?)</pre>", page, re.DOTALL)[1])


def folder_of_classes(root, count, per_class):
    for split, number in (("train", per_class), ("test", 2)):
        for c in range(count):
            folder = root / split / f"class_{c:03}"
            folder.mkdir(parents=True)
            for i in range(number):
                noise = np.random.default_rng([c, i, number]).integers(60, size=(8, 8, 3))
                shade = np.full(3, [c % 5, c // 5 % 5, c // 25]) * 40
                Image.fromarray((noise + shade).clip(0, 255).astype(np.uint8)).save(
                    folder / f"{i}.png"
                )


def test_the_page_of_a_run(tmp_path, capsys):
    config = small("osed", generated_dir=str(ROOT / "demo" / "generated"), noise_share=0.5)
    config.dataset.validation_fraction = 0.1
    with figures_checked() as seen:
        train(check(config), tmp_path / "run")
    report = tmp_path / "run" / "report"
    assert {p.stem for p in report.glob("*.png")} == FIGURES and len(seen) == len(FIGURES)
    page = (report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(FIGURES) and "http" not in page
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".report")]
    assert {"natural", "generated", "noise"} <= {text for texts in seen for text in texts}
    assert "the report is" in capsys.readouterr().out
    assert '<td class="text">0.5</td>' in page, "noise_share differs from its default"
    held_out = records.read_json(tmp_path / "run" / "summary.json")["validation"]
    box = f"<b>{100 * held_out['balanced_accuracy']:.1f} %</b>balanced accuracy, validation images"
    assert box in page

    saved = records.read_json(tmp_path / "run" / "config.json")
    assert parsed(command_of(page)) == saved

    # evaluate writes it again, here without what it was trained on.
    (report / "report.html").unlink()
    moved = saved | {"oversampling": saved["oversampling"] | {"generated_dir": "/nowhere"}}
    records.write_json(tmp_path / "run" / "config.json", moved)
    evaluate(check(config), tmp_path / "run")
    page = (report / "report.html").read_text()
    assert "the training images are not at hand" in page
    assert page.count("data:image/png;base64,") == len(FIGURES) - 3


@pytest.mark.parametrize(("count", "per_class"), [(3, 8), (100, 3)])
def test_few_and_many_classes_and_an_empty_group(tmp_path, count, per_class):
    folder_of_classes(tmp_path / "data", count, per_class)
    config = small("open", start_epoch=0)
    config.train.num_epochs = 1
    config.dataset.update({"name": "folder", "data_dir": str(tmp_path / "data"), "image_size": 8})
    config.dataset.update({"imbalance_ratio": 2.0, "num_max": 0, "groups": "thresholds"})
    config.dataset.update({"many_above": 100, "few_below": 5 if count == 3 else 2})
    with figures_checked() as seen:
        train(check(config), tmp_path / "run")
    summary = records.read_json(tmp_path / "run" / "summary.json")
    assert "many" in summary["absent_groups"]
    texts = [text for of_figure in seen for text in of_figure]
    assert "no class belongs to it" in texts
    assert any("20 of 100 classes" in text for text in texts) == (count == 100)
    for path in (tmp_path / "run" / "report").glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{path.name} is blank"


def test_a_report_can_be_left_out_and_does_not_bind_a_run(tmp_path):
    config = small("erm")
    config.report.enabled = False
    train(check(config), tmp_path / "run")
    assert not (tmp_path / "run" / "report").exists()
    assert "report" not in records.read_json(tmp_path / "run" / "config.json")


def test_the_command_carries_every_kind_of_value(tmp_path):
    from osed_jax.reports.run_report import reproducing_command

    config = small("open")
    config.dataset.update({"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0), "data_dir": "a 'b'"})
    config.augment.update({"flip": True, "blur_sigma": (0.5, 1.0)})
    config.optimizer.decay_at = (0.5,)
    checked = check(config)
    command = reproducing_command(checked, tmp_path / "with space")
    assert parsed(command) == run_as_plain(checked)


def test_rows_of_a_map_are_spread_over_the_classes():
    label = np.repeat([0, 1, 2], [100, 10, 2])
    rows = _balanced_rows(label, 30, seed=0)
    assert np.bincount(label[rows]).tolist() == [10, 10, 2] and len(set(rows)) == len(rows)
