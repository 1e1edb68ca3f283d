"""A program is divided into what comes before the target and what is done for each: both together are the whole."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.halves import before_target
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.programs import parsed

Array = NDArray[Any]
BACKEND = Backend("cpu", 1)
RNG = np.random.default_rng(0)
X, LOW = (RNG.normal(size=(3, 2, 6, 6)).astype(np.float32) for _ in range(2))
TEXT = """g (float[N,2,6,6] x) => (float[N,3] z) {
    w = Constant<value = float[4,2,3,3] {%s}>()
    v = Constant<value = float[64,3] {%s}>()
    c = Conv<pads = [0,0,0,0]>(x, w)
    t = Tanh(c)
    s = Softmax<axis = 1>(t)
    m = Mul(s, c)
    f = Flatten(m)
    z = MatMul(f, v)
}"""


def text(sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{v:.4f}" for v in RNG.normal(size=sizes).ravel())


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel(parsed(TEXT % (text((4, 2, 3, 3)), text((64, 3)))), BACKEND, given={"x": X})


def programs(model: LoadedModel) -> dict[str, tuple[Program, dict[str, Array]]]:
    choice, low = Choice(("x",), ("c", "x"), "z"), {"x": X, "baseline/x": LOW}
    return {
        "rows": (rows_program(model.network, choice), {"x": X}),
        "rescale": (deeplift_program(model.network, choice), low),
        "reveal_cancel": (deeplift_program(model.network, choice, reveal_cancel="everywhere"), low),
    }


def run(program: onnx.ModelProto, feeds: dict[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
    names = {x.name for x in program.graph.input}
    return BACKEND.run(program, {n: a for n, a in feeds.items() if n in names}, list(outputs))


@pytest.mark.parametrize("kind", ["rows", "rescale", "reveal_cancel"])
def test_both_halves_are_the_whole_for_every_target(model: LoadedModel, kind: str) -> None:
    whole, feeds = programs(model)[kind]
    halves = before_target(whole)
    assert halves is not None
    before, behind = halves
    assert "target/weight" not in before.inputs
    assert "target/weight" in behind.inputs
    kept = run(before.model, feeds, before.outputs)
    for target in range(3):
        weight = np.zeros((3, 3), np.float32)
        weight[:, target] = 1
        wanted = run(whole.model, {**feeds, "target/weight": weight}, whole.outputs)
        found = run(behind.model, {**feeds, **kept, "target/weight": weight}, behind.outputs)
        found |= {name: kept[name] for name in whole.outputs if name in kept}
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_network_is_in_the_first_half_only(model: LoadedModel) -> None:
    halves = before_target(programs(model)["rows"][0])
    assert halves is not None
    counted = [Counter(node.op_type for node in half.model.graph.node) for half in halves]
    assert (counted[0]["Conv"], counted[0]["Tanh"], counted[0]["Softmax"]) == (1, 1, 1)
    assert (counted[1]["Conv"], counted[1]["Tanh"], counted[1]["Softmax"]) == (0, 0, 0)


def test_a_program_without_a_target_stays_whole(model: LoadedModel) -> None:
    program, _ = programs(model)["rows"]
    assert before_target(program, late="no/such/input") is None
