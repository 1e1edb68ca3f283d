"""One request in a process of its own, which prints seconds and peak MB: `python -m benchmarks.child FILE THREADS ...`.

The arguments after the threads: method, budget in MB (0: the default), steps (0: none), and layers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bare import one_row, peak
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest


def measured(module: str, *arguments: object) -> tuple[float, float]:
    """Seconds and peak MB that a process of its own prints of itself."""
    call = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(megabytes)


def answer(path: str, threads: str, method: str, budget: str = "0", steps: str = "0", *layers: str) -> float:
    """Seconds from the file to the answer, without imports."""
    started = time.perf_counter()
    memory: dict[str, Any] = {"memory_budget": int(budget) * 10**6} if int(budget) else {}
    fixed: dict[str, Any] = {"steps": int(steps), "quadrature": "trapezoid"} if int(steps) else {}
    with Engine(provider="cpu", threads=int(threads), **memory) as engine:
        engine.add("model", Path(path))
        inputs = {x.name: one_row(x.shape or (), x.dtype) for x in engine.info("model").inputs}
        engine.attribute(AttributionRequest("model", inputs, method, layers, target=1, **fixed))
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps([answer(*sys.argv[1:]), peak()]))
