"""DeepLIFT where positions depend on the source: shared between values and positions as Shapley's two factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.values import AttributionRequest, Target
from tests.programs import parsed

Array = NDArray[Any]
RNG = np.random.default_rng(3)


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def places(*values: float) -> Array:
    """Positions that a floor makes whole."""
    return np.asarray(values, np.float32) + 0.25


FORMS: dict[str, tuple[str, dict[str, tuple[Array, Array]]]] = {
    "Gather": (
        "(float[4,5] v, float[2,2] p) => (float[4,2,2] z) { POSITIONS z = Gather<axis = 1>(v, i) }",
        {"v": (normal(4, 5), normal(4, 5)), "p": (places(0, 3, 2, -1).reshape(2, 2), places(1, 3, 2, 0).reshape(2, 2))},
    ),
    "Gather of one": (
        "(float[4,5] v, float p) => (float[5] z) { POSITIONS z = Gather(v, i) }",
        {"v": (normal(4, 5), normal(4, 5)), "p": (places(2).reshape(()), places(3).reshape(()))},
    ),
    "GatherElements": (
        "(float[3,4] v, float[2,4] p) => (float[2,4] z) { POSITIONS z = GatherElements(v, i) }",
        {
            "v": (normal(3, 4), normal(3, 4)),
            "p": (places(*[0, 1, 2, 0] * 2).reshape(2, 4), places(*[0, 2, 1, 1] * 2).reshape(2, 4)),
        },
    ),
    "GatherND": (
        "(float[3,4,2] v, float[2,2] p) => (float[2,2] z) { POSITIONS z = GatherND(v, i) }",
        {"v": (normal(3, 4, 2), normal(3, 4, 2)),
         "p": (places(0, 1, 2, 3).reshape(2, 2), places(0, 2, 1, 0).reshape(2, 2))},
    ),
    "ScatterElements": (
        "(float[3,4] v, float[1,4] u, float[1,4] p) => (float[3,4] z) { POSITIONS z = ScatterElements(v, i, u) }",
        {
            "v": (normal(3, 4), normal(3, 4)),
            "u": (normal(1, 4), normal(1, 4)),
            "p": (places(0, 1, 2, 0).reshape(1, 4), places(0, 2, 1, 1).reshape(1, 4)),
        },
    ),
    "ScatterElements that adds": (
        """(float[3,4] v, float[2,4] u, float[2,4] p) => (float[3,4] z) {
           POSITIONS z = ScatterElements<reduction = "add">(v, i, u) }""",
        {
            "v": (normal(3, 4), normal(3, 4)),
            "u": (normal(2, 4), normal(2, 4)),
            "p": (places(*[0, 1, 2, 0] * 2).reshape(2, 4), places(*[0, 2, 1, 1] * 2).reshape(2, 4)),
        },
    ),
    "ScatterND": (
        "(float[3,4,2] v, float[2,2] u, float[2,2] p) => (float[3,4,2] z) { POSITIONS z = ScatterND(v, i, u) }",
        {
            "v": (normal(3, 4, 2), normal(3, 4, 2)),
            "u": (normal(2, 2), normal(2, 2)),
            "p": (places(0, 1, 2, 3).reshape(2, 2), places(0, 2, 1, 0).reshape(2, 2)),
        },
    ),
    "OneHot": (
        "(float[2] v, float[3] p) => (float[3,4] z) <int64 n = {4}> { POSITIONS z = OneHot(i, n, v) }",
        {"v": (normal(2), normal(2)), "p": (places(0, 2, 1), places(0, 3, 9))},
    ),
    "OneHot of held values": (
        """(float[3] p) => (float[4,3] z) <int64 n = {4}, float[2] v = {-1.0, 2.0}> {
           POSITIONS z = OneHot<axis = 0>(i, n, v) }""",
        {"p": (places(0, 2, 1), places(0, 3, 3))},
    ),
    "MaxUnpool": (
        """(float[1,1,2] v, float[1,1,2] p) => (float[1,1,4] z) {
           POSITIONS z = MaxUnpool<kernel_shape = [2], strides = [2]>(v, i) }""",
        {"v": (normal(1, 1, 2), normal(1, 1, 2)),
         "p": (places(0, 3).reshape(1, 1, 2), places(1, 3).reshape(1, 1, 2))},
    ),
}  # fmt: skip


def model_of(form: str) -> onnx.ModelProto:
    whole = "q = Floor(p) i = Cast<to = 7>(q)"
    return onnx.shape_inference.infer_shapes(
        parsed("g " + FORMS[form][0].replace("POSITIONS", whole)), data_prop=True
    )


def contributions(
    model: onnx.ModelProto, x: Mapping[str, Array], y: Mapping[str, Array], weight: Array
) -> dict[str, Array]:
    names = tuple(x)
    program = deeplift_program(
        Network(model, "single", dict.fromkeys(names), dict(x)), Choice(names, names, "z")
    )
    given = {**x, **{f"baseline/{n}": a for n, a in y.items()}, "target/weight": weight}
    found = Backend("cpu", 1).session(program.model).run(given)
    return {n: found[f"contribution/{n}"] for n in names}


@pytest.mark.parametrize("form", FORMS)
def test_values_and_positions_have_the_shapley_values_of_two_players(form: str) -> None:
    model, ends = model_of(form), FORMS[form][1]
    x, y = ({n: pair[k] for n, pair in ends.items()} for k in (0, 1))
    run = Backend("cpu", 1).run
    weight = normal(*run(model, x, ["z"])["z"].shape)

    def value(values: Mapping[str, Array], positions: Mapping[str, Array]) -> float:
        found = run(model, {**values, "p": positions["p"]}, ["z"])["z"]
        return float((found.astype(np.float64) * weight).sum())

    found = contributions(model, x, y, weight)
    of_positions = (value(x, x) - value(x, y) + value(y, x) - value(y, y)) / 2
    of_values = (value(x, x) - value(y, x) + value(x, y) - value(y, y)) / 2
    np.testing.assert_allclose(found["p"].sum(), of_positions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        sum(c.sum() for n, c in found.items() if n != "p"), of_values, rtol=1e-4, atol=1e-5
    )
    assert not found["p"][x["p"] == y["p"]].any()


def test_each_position_has_what_it_moves_alone() -> None:
    """By hand: the first reads 7 in place of 3, the second stays."""
    model = parsed("""g (float[2] p) => (float[2] z) <float[3] v = {3.0, 7.0, 5.0}> {
        q = Floor(p) i = Cast<to = 7>(q) z = Gather(v, i) }""")
    model = onnx.shape_inference.infer_shapes(model)
    found = contributions(model, {"p": places(1, 2)}, {"p": places(0, 2)}, np.ones(2, np.float32))
    np.testing.assert_allclose(found["p"], [4, 0], rtol=1e-6)


METHODS: tuple[str, ...] = ("deeplift_rescale", "deeplift_reveal_cancel")
CHOSEN = """g (float[N,3] x) => (float[N,1] z) {
    a = ArgMax<axis = 1>(x) s = Sin(x) z = GatherElements<axis = 1>(s, a) }"""
SORTED = """g (float[N,3] x) => (float[N,3] z) <int64[1] k = {3}> {
    v, a = TopK(x, k) s = Sin(x) z = GatherElements<axis = 1>(s, a) }"""
CUT = """g (float[N,3] x) => (float[N,2] z) <int64[1] one = {1}, int64[1] far = {3}, float limit = {0.0}> {
    t = ReduceMax<keepdims = 0>(x) b = Greater(t, limit) n = Cast<to = 7>(b) m = Reshape(n, one)
    s = Sin(x) z = Slice(s, m, far, one) }"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("text", [CHOSEN, SORTED, CUT], ids=["ArgMax", "TopK", "Slice"])
def test_positions_without_a_secant_are_followed_where_they_agree(text: str, method: str) -> None:
    x, y = np.array([[3.0, 1, -2]], np.float32), np.array([[2.0, 0.5, -1]], np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("positions", parsed(text), batch_axes={"x": None} if text is CUT else {})
        ask = AttributionRequest("positions", {"x": x}, method, target=Target(index=0), baselines={"x": y})
        (layer,) = engine.attribute(ask).layers.values()
    place = 1 if text is CUT else 0
    expected: Array = np.zeros((1, 3))
    expected[0, place] = np.sin(x[0, place]) - np.sin(y[0, place])
    found: Array = layer.values.reshape(1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("text", "operator"), [(CHOSEN, "ArgMax"), (SORTED, "TopK")])
def test_positions_without_a_secant_that_change_are_refused_by_name(text: str, operator: str) -> None:
    x, y = np.array([[3.0, 1, -2]], np.float32), np.array([[0.0, 0.5, -1]], np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("positions", parsed(text))
        ask = AttributionRequest(
            "positions", {"x": x}, "deeplift_rescale", target=Target(index=0), baselines={"x": y}
        )
        with pytest.raises(NotDifferentiable, match=f"no rule for {operator}"):
            engine.attribute(ask)
