"""One session and one row, with numpy and onnxruntime alone: `python -m benchmarks.bare FILE` prints seconds, MiB."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

TOKENS = 128


def peak() -> int:
    """The largest resident memory of this process so far, in MiB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def bare(path: str) -> float:
    """Seconds to a session of the file, which then runs once."""
    started = time.perf_counter()
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ready = time.perf_counter() - started
    session.run(None, {x.name: _one_row(x.shape, x.type) for x in session.get_inputs()})
    return ready


def _one_row(shape: list[int | str], kind: str) -> np.ndarray:
    sizes = [1 if k == 0 else TOKENS if isinstance(d, str) else d for k, d in enumerate(shape)]
    return np.ones(sizes, np.int64 if "int64" in kind else np.float32)


if __name__ == "__main__":
    print(json.dumps([bare(sys.argv[1]), peak()]))
