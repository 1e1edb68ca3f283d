"""The rows of a run stay near the memory budget, also where what a program holds is far more than the network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.programs.footprint import Footprint
from tests.methods.toys import model

UNITS, BUDGET = 200_000, 140  # MiB; one row of a layer is 0.76 MiB
WIDE = """(float[N,3] x) => (float[N,2] y) {
    h = MatMul(x, A)
    r = Tanh(h)
    s = Mul(r, r)
    y = MatMul(s, B)
}"""
CODE = """
import sys, resource, numpy as np
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
path, method, budget, steps, *layers = sys.argv[1:]
x = np.random.default_rng(0).random((40, 3)).astype("f")
given = {"steps": int(steps)} if int(steps) else {}
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with Engine(provider="cpu", threads=1, memory_budget=int(budget) << 20) as engine:
    engine.add("wide", path)
    def ask(count, method, layers=()):
        engine.attribute(
            AttributionRequest("wide", {"x": x[:count]}, method, layers, target=Target(index=0), **given)
        )
    ask(1, "gradient", layers)
    before = peak()
    ask(2 if layers else 40, method, layers)
    print(peak() - before)
"""


@pytest.mark.parametrize(
    ("method", "steps", "layers"),
    [
        ("neuron_ig", 64, ("h",)),
        ("neuron_ig", 64, ("h", "r", "s")),
        ("neuron_ig", 0, ("h", "r", "s")),
        ("integrated_gradients", 64, ()),
        ("deeplift_rescale", 64, ()),
    ],
    ids=["one layer", "layers", "layers whose rows do not fit", "input", "between ends"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux counts it")
def test_a_run_takes_at_most_twice_its_budget(
    tmp_path: Path, method: str, steps: int, layers: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(0)
    weights = {"A": rng.normal(size=(3, UNITS)), "B": rng.normal(size=(UNITS, 2)) / 1000}
    onnx.save(model(WIDE, **{n: a.astype(np.float32) for n, a in weights.items()}), tmp_path / "wide.onnx")
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "wide.onnx"), method, str(BUDGET), str(steps), *layers],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(run.stdout) < 2 * BUDGET


def test_the_footprint_counts_what_is_alive_at_once() -> None:
    """a and b live together; c takes the memory of one of them, the view v none; both are gone when d is made."""
    text = """(float[N,4] x) => (float[N,2] y) {
        a = MatMul(x, A)
        b = MatMul(x, A)
        c = Add(a, b)
        v = Reshape(c, turned)
        d = Transpose(v)
        y = MatMul(d, B)
    }"""
    weights = {"A": np.zeros((4, 100), np.float32), "B": np.zeros((5, 2), np.float32)}
    proto = model(text, **weights, turned=[5, -1])
    rows = 5
    given, layer = rows * 4 * 4, rows * 100 * 4
    assert Footprint(proto).peak({"x": (rows, 4)}) == given + 2 * layer


def test_what_has_no_known_shape_is_as_large_as_what_it_is_made_of() -> None:
    proto = model(
        "(float[N,4] x) => (float[M] y) { c = Greater(x, zero) y = Compress(x, c) }", zero=np.float32(0)
    )
    proto.graph.node[1].input[1] = "c"
    x, c = 7 * 4 * 4, 7 * 4
    assert Footprint(proto).peak({"x": (7, 4)}) == x + c + x
