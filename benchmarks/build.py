"""From a model file to a gradient that is ready to run: seconds, memory and nodes. `python -m benchmarks.build`

Each measurement is a process of its own. The bare one imports numpy and onnxruntime alone, makes a session of the
file and runs one row (`bare.py`); the other loads the file as the engine does and makes the session of the gradient of
the first output with respect to the default sources. Bare and built take turns, so that what else the machine does
meets both; seconds are without imports, memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx
import onnxruntime as ort

from benchmarks.bare import TOKENS, peak
from benchmarks.networks import bert, resnet, vit
from onnx_attribution.graph_tools.ir.weights import whole
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel

ROUNDS = 3


def built(path: Path) -> float:
    """Seconds to a session of the gradient."""
    started = time.perf_counter()
    backend = Backend("cpu")
    model = LoadedModel(path, backend)
    session = backend.session(gradient(model).model)
    ready = time.perf_counter() - started
    assert session.outputs
    return ready


def gradient(model: LoadedModel) -> Program:
    """The gradient of the first target with respect to its default sources."""
    target = model.first_target()
    sources = model.sources((), target)
    return rows_program(model.network, Choice(sources, sources, target))


KINDS: Mapping[str, tuple[str, ...]] = {
    "bare": ("benchmarks.bare",),
    "built": ("benchmarks.build", "--measure"),
}
FILES: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-50": partial(resnet, (3, 4, 6, 3), True),
    "BERT-base": partial(bert, tokens=TOKENS),
}
# node counts do not depend on widths
COUNTED: Mapping[str, Callable[[int | str], onnx.ModelProto]] = {
    "ResNet-18": lambda batch: resnet((2, 2, 2, 2), False, batch),
    "ViT-B/16": lambda batch: vit(width=48, batch=batch),
    "BERT-base": lambda batch: bert(width=48, vocabulary=90, batch=batch, tokens=TOKENS),
}


def measure(path: Path) -> dict[str, tuple[float, float]]:
    """Median seconds and MiB of each kind."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, results in found.items():
            call = [sys.executable, "-m", *KINDS[kind], str(path)]
            results.append(json.loads(subprocess.run(call, check=True, capture_output=True).stdout))
    return {
        k: (statistics.median(s for s, _ in r), statistics.median(m for _, m in r)) for k, r in found.items()
    }


def nodes(model: onnx.ModelProto, folder: Path) -> int:
    """How many nodes are left when onnxruntime has folded constants and dropped what has no effect."""
    options, path = ort.SessionOptions(), folder / "folded.onnx"
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return len(onnx.load(str(path)).graph.node)


def added(model: onnx.ModelProto, folder: Path) -> float:
    """Nodes of the gradient per node of the forward pass."""
    loaded = LoadedModel(model, Backend("cpu"))
    forward = nodes(whole(loaded.network.model), folder)
    return (nodes(whole(gradient(loaded).model), folder) - forward) / forward


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def main() -> None:
    """Measures every file and prints two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure once, in this process")
    file = parser.parse_args().measure
    if file:
        print(json.dumps([built(file), peak()]))
        return
    machine = f"{platform.machine()}, {Backend('cpu').threads} threads, onnxruntime {ort.__version__}, cpu"
    print(f"Median of {ROUNDS} rounds; {machine}; {peak()} MiB are the imports of this package\n")
    rows = []
    for name, make in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(make(), str(path))
            found, size = measure(path), path.stat().st_size >> 20
        (plain, small), (ready, large) = found["bare"], found["built"]
        rows.append(
            (name, f"{size} MiB", f"{plain:.2f} s", f"{ready:.2f} s", f"{small:.0f} MiB", f"{large:.0f} MiB",
             f"{large / small:.2f}")
        )  # fmt: skip
    header = ("model", "file", "bare session", "ready gradient", "bare peak", "gradient's peak", "ratio")
    print(table(header, rows), "\n")
    with tempfile.TemporaryDirectory() as folder:
        counts = [
            (name, *(f"{added(make(batch), Path(folder)):.2f}" for batch in (1, "batch")))
            for name, make in COUNTED.items()
        ]
    print(table(("nodes added per forward node", "batch of 1", "dynamic batch"), counts))


if __name__ == "__main__":
    main()
