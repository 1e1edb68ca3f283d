"""Memory that is freed stays for the next call."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from onnx_attribution.server.operate.memory import keep_freed
assert sys.argv[1] == "as it is" or keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(50):
    several = [np.ones(1 << 18, np.float32) for _ in range(4)]
    del several
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_arrays_of_a_call_get_the_pages_of_those_before() -> None:
    pages = [
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True).stdout)
        for how in ("as it is", "kept")
    ]
    assert pages[1] < pages[0] / 5
