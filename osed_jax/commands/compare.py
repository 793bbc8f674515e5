"""--mode=compare: compares all finished runs below a folder."""

from pathlib import Path
from typing import Any

from osed_jax.comparison import tables
from osed_jax.comparison.finished_runs import find_runs, variants
from osed_jax.comparison.paired_tests import all_pairs
from osed_jax.files import atomic
from osed_jax.reports.comparison_page import FOLDER, PAGE, _write
from osed_jax.runtime.console import say


def compare(directory: Path) -> list[dict[str, Any]]:
    """Compares the runs below `directory`; writes `comparison/` there, returns their summaries.

    Raises:
      UserError: if there is no finished run, runs have different data, or a run is there twice.
    """
    runs = find_runs(directory)
    rows, notes = variants(runs)
    pairs = all_pairs(rows)
    overall, classes, paired = tables.overall(rows), tables.classes(rows), tables.paired(pairs)
    for note in notes:
        say(note)
    say(tables.markdown(overall))
    if pairs:
        say(tables.markdown(paired))
    folder = directory / FOLDER
    if atomic.can_be_written(folder):
        _write(folder, rows, notes, {"methods": overall, "classes": classes, "pairs": paired})
        say(f"the comparison is {folder / PAGE}")
    else:
        say(f"note: {directory} is read-only, so the comparison is not saved")
    return [run.summary for run in runs]
