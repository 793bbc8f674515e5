"""Freed memory stays with the program where JAX computes on the CPU."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FAULTS = """
import resource, sys
from osed_jax.runtime import host_memory
if sys.argv[1] == "keep":
    host_memory.keep()
import numpy as np
def touched():
    np.ones(2**23)  # 64 MiB, 16,384 pages, taken, written and freed
touched()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touched()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **environment):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, env=env, cwd=ROOT, capture_output=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is on Linux only")
def test_freed_memory_is_used_again_on_a_cpu_alone():
    huge = {"GLIBC_TUNABLES": "", "NUMPY_MADVISE_HUGEPAGE": "0"}
    usual = faults("leave", **huge)
    if usual < 5 * 16_384 // 2:
        pytest.skip("this machine's malloc keeps freed memory by itself")
    assert faults("keep", **huge) < 1_000
    assert faults("keep", **huge, JAX_PLATFORMS="cuda") > 5 * 16_384 // 2
