"""One session and one row, with numpy and onnxruntime alone.

`python -m benchmarks.bare FILE THREADS` prints seconds and MB. Imports nothing of this package: what it needs counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

TOKENS = 128


def peak() -> float:
    """The largest resident memory of this process so far, in MB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def bare(path: str, threads: int) -> float:
    """Seconds to a session of the file that has run once."""
    started = time.perf_counter()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {x.name: one_row(x.shape, x.type) for x in session.get_inputs()})
    return time.perf_counter() - started


def one_row(shape: Sequence[int | str | None], kind: str) -> NDArray[Any]:
    """A sample of an input: ones, in 128 places where the file leaves it open."""
    sizes = [1 if k == 0 else d if isinstance(d, int) else TOKENS for k, d in enumerate(shape)]
    return np.ones(sizes, np.int64 if "int64" in kind else np.float32)


if __name__ == "__main__":
    print(json.dumps([bare(sys.argv[1], int(sys.argv[2])), peak()]))
