"""Memory of the host in large pages."""

import os
import sys

_TUNABLE = "glibc.malloc.hugetlb"


def use_large_pages() -> None:
    """Starts the program anew, as the same process, with large pages for all large memory.

    A training step on a CPU takes and returns hundreds of megabytes, which the kernel hands out in
    pages of 4 KiB (what that costs: docs/performance.md). The GNU C library asks for pages of 2 MiB
    where GLIBC_TUNABLES says so, which it reads only as a process starts. Does nothing where the
    variable already speaks of large pages (`glibc.malloc.hugetlb=0` is the way to do without them),
    and nothing outside Linux.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and _TUNABLE not in tunables:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{_TUNABLE}=1"]))
        os.execv(sys.executable, sys.orig_argv)
