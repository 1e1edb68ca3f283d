"""What attributions cost, as ratios to the forward pass and to the bare gradient: `make bench`.

Each figure is the median of several rounds; the programs that are compared take turns within a round, so that what
else the machine does meets both. Results with the machine they were measured on go to `benchmarks/results.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.path import path_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.rows.plan import batches, conductance_plan
from onnx_attribution.values import Array

ROUNDS = 7
ROWS = 17


def residual_network(channels: int = 64, size: int = 56, blocks: int = 2) -> onnx.ModelProto:
    """Residual blocks of 3x3 convolutions on `[N, channels, size, size]` with random weights, and ten classes."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def weight(name: str, *shape: int) -> str:
        array = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    last = "x"
    for k in range(blocks):
        for step, source in (("a", last), ("b", f"relu{k}a")):
            kernel = weight(f"w{k}{step}", channels, channels, 3, 3)
            nodes.append(helper.make_node("Conv", [source, kernel], [f"conv{k}{step}"], pads=[1, 1, 1, 1]))
            if step == "a":
                nodes.append(helper.make_node("Relu", [f"conv{k}a"], [f"relu{k}a"]))
        nodes.append(helper.make_node("Add", [f"conv{k}b", last], [f"sum{k}"]))
        nodes.append(helper.make_node("Relu", [f"sum{k}"], [f"out{k}"]))
        last = f"out{k}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", weight("head", channels, 10)], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def medians(programs: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each program; they take turns, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for round_number in range(rounds + 1):
        for name, run in programs.items():
            started = time.perf_counter()
            run()
            if round_number:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def measure(name: str, source: onnx.ModelProto | Path, layer: str, backend: Backend) -> list[str]:
    """One row of the table: a model, the layer that is attributed, and the ratios."""
    model = LoadedModel(source, backend)
    info = model.inputs[0]
    target = model.outputs[0].name
    axis = model.network.input_axes[info.name]
    example = model.network.example[info.name]
    assert axis == 0
    rng = np.random.default_rng(0)
    x: Array = rng.normal(size=(ROWS, *example.shape[1:])).astype(np.float32)
    choice = Choice((info.name,), (layer,), target)
    model.rows_of([info.name, layer, target])
    one = x[:1]
    seed = np.zeros((ROWS, *model.network.unit_shapes[target][1:]), dtype=np.float32)
    seed.reshape(ROWS, -1)[:, 0] = 1
    forward = backend.session(model.network.model)
    gradient = backend.session(rows_program(model.network, choice).model)
    path = backend.session(path_program(model.network, choice).model)
    lift = backend.session(deeplift_program(model.network, choice).model)
    (batch,) = batches(conductance_plan("trapezoid", ROWS - 1), 1, ROWS)
    fields = {n: getattr(batch, n[5:]) for n in path.inputs if hasattr(batch, n.removeprefix("path/"))}
    ends = {
        f"sample/{info.name}": one,
        f"baseline/{info.name}": np.zeros_like(one),
        "target/weight": seed[:1],
    }
    found = medians(
        {
            "forward": lambda: forward.run({info.name: x}),
            "one by one": lambda: [forward.run({info.name: x[k : k + 1]}) for k in range(ROWS)],
            "gradient": lambda: gradient.run({info.name: x, "target/weight": seed}, [f"gradient/{layer}"]),
            "path": lambda: path.run({**ends, **fields, "path/slots": np.zeros(2, np.float32)}),
            "deeplift": lambda: lift.run(
                {info.name: x, f"baseline/{info.name}": np.zeros_like(x), "target/weight": seed},
                [f"contribution/{layer}"],
            ),
        }
    )
    units = int(np.prod(model.network.unit_shapes[layer][1:]))
    return [
        name,
        f"{layer} ({units:,} units)",
        f"{found['forward'] / ROWS * 1e3:.3g} ms",
        f"{found['one by one'] / found['forward']:.2f}",
        f"{found['gradient'] / found['forward']:.2f}",
        f"{found['path'] / found['gradient']:.2f}",
        f"{found['deeplift'] / found['forward']:.2f}",
    ]


HEADER = (
    "model",
    "layer",
    "forward, a row",
    "one by one / forward",
    "gradient / forward",
    "path sums / gradient",
    "DeepLIFT / forward",
)


def main() -> None:
    """Measures every model and prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    provider = parser.parse_args().provider
    backend = Backend(provider)
    rows = [
        measure("residual blocks, 64 x 56 x 56", residual_network(), "out0", backend),
        measure("residual blocks, 256 x 56 x 56", residual_network(256, 56, 1), "out0", backend),
        measure("digits", Path("tests/data/digits/digits.onnx"), "conv2", backend),
    ]
    folder = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    if folder:
        models = Path(folder) / "models"
        rows.append(
            measure("facemesh-landmarks", models / "facemesh-landmarks/model.onnx", "add_12", backend)
        )
    machine = f"{platform.machine()}, {backend.threads} threads, onnxruntime {ort.__version__}, {provider}"
    print(f"{ROWS} rows a run, median of {ROUNDS} rounds; {machine}\n")
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
