"""A short part of the fault injection; the whole is run by hand, see docs/guide/reliability.md."""

from tests.inject_faults import SUBJECTS, inject

CHEAP = tuple(name for name in SUBJECTS if name.startswith(("store", "cache")))


def test_no_damage_is_used_in_silence_or_ends_in_a_traceback(tmp_path):
    counts, bad = inject(60, tmp_path, CHEAP)
    assert bad == []
    seen = {result for _, _, result in counts}
    assert counts.total() == 60 and {"refused", "same", "said"} <= seen


def test_no_damage_of_a_run_is_used_in_silence(tmp_path):
    counts, bad = inject(8, tmp_path, ("run, --mode=evaluate", "run, --mode=compare"))
    assert bad == [] and counts.total() == 8
