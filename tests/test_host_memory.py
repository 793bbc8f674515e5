"""Large pages: asked for once, by the same process, unless somebody said otherwise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TELL = """
import os, sys
from osed_jax.host_memory import use_large_pages
started = os.environ.get("STARTED_AS", str(os.getpid()))
os.environ["STARTED_AS"] = started
use_large_pages()
held = b"x" * 2**27  # NumPy would ask for large pages by itself
print(os.environ["GLIBC_TUNABLES"], started == str(os.getpid()), *sys.argv[1:])
print(open("/proc/self/smaps_rollup").read())
"""


def tell(tunables):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    return subprocess.run(
        [sys.executable, "-c", TELL, "--a=1", "b c"],
        cwd=ROOT,
        env=environment | ({"GLIBC_TUNABLES": tunables} if tunables else {}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.tcache_count=3", "glibc.malloc.tcache_count=3:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_the_process_starts_anew_once_with_what_it_was_given(before, after):
    assert tell(before).splitlines()[0] == f"{after} True --a=1 b c"


def test_the_pages_are_large():
    choice = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not choice.exists() or "[madvise]" not in choice.read_text():
        pytest.skip("needs a kernel that gives large pages to those who ask")
    large = [
        int(re.search(r"AnonHugePages: +(\d+)", tell(t))[1])
        for t in ("", "glibc.malloc.tcache_count=3")
    ]
    small = int(re.search(r"AnonHugePages: +(\d+)", tell("glibc.malloc.hugetlb=0"))[1])
    assert min(large) > 64 * 1024 > small, "of 128 MiB"
