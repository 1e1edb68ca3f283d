"""DeepLIFT inside of branches and bodies: shapes stay, positions are refused by name, and nothing is printed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter
from onnx_attribution.graph_tools.ir.subgraphs import graft, infer_types
from onnx_attribution.graph_tools.operators.control_flow.inner import twin
from onnx_attribution.graph_tools.walk.differentiate import naming
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, LayerAttribution, Target
from tests.programs import parsed

Array = NDArray[Any]
METHODS: tuple[str, ...] = ("deeplift_rescale", "deeplift_reveal_cancel")


def lifted(
    model: onnx.ModelProto, x: Array, y: Array, method: str = "deeplift_rescale", target: Any = 0
) -> LayerAttribution:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("body", model, batch_axes={"x": None})
        ask = AttributionRequest("body", {"x": x}, method, target=Target(index=target), baselines={"x": y})
        (layer,) = engine.attribute(ask).layers.values()
    return layer


SHAPED = {
    "Reshape": """h = Tanh(s) n = Shape<end = 1>(s) m = Constant<value = int64[1] {-1}>() t = Concat<axis = 0>(n, m)
        u = Reshape(h, t)""",
    "Expand": """h = Tanh(s) o = Constant<value = int64[1] {0}>() r = ReduceMax<keepdims = 1>(h, o) n = Shape(s)
        u = Expand(r, n)""",
    "Slice": """h = Tanh(s) n = Shape<start = 1>(s) a = Constant<value = int64[1] {1}>()
        b = Constant<value = int64[1] {0}>() u = Slice(h, b, n, a)""",
    "Range": """h = Tanh(s) n = Shape<start = 1>(s) q = Squeeze(n) b = Constant<value = int64 {0}>()
        o = Constant<value = int64 {1}>() r = Range(b, q, o) f = Cast<to = 1>(r) u = Mul(h, f)""",
    "ConstantOfShape": "h = Tanh(s) n = Shape(s) c1 = ConstantOfShape<value = float[1] {2}>(n) u = Mul(h, c1)",
    "Tile": """h = Tanh(s) n = Shape<end = 1>(s) k = Constant<value = int64[1] {2}>() d = Div(n, k)
        o = Constant<value = int64[1] {1}>() t = Concat<axis = 0>(d, o) u = Tile(h, t)""",
    "Size": "h = Tanh(s) n = Size(s) f = Cast<to = 1>(n) u = Mul(h, f)",
}
AROUND = {
    "If": """g (float[N,6] x) => (float[N,K] y) <float low = {{-100.0}}> {{ all = ReduceSum<keepdims = 0>(x)
        on = Greater(all, low) y = If(on) <
            then_branch = p () => (float[N,K] u) {{ s = Identity(x) {0} }},
            else_branch = q () => (float[N,K] u) {{ u = Identity(x) }} > }}""",
    "Loop": """g (float[N,6] x) => (float[N,K] y) <int64 trips = {{2}}> {{ y = Loop(trips, , x) <
        body = p (int64 i, bool c, float[N,6] s) => (bool go, float[N,6] u) {{ go = Identity(c) {0} }} > }}""",
    "Scan": """g (float[N,6] x) => (float[1,N,6] y) <int64[1] first = {{0}}> {{ whole = Unsqueeze(x, first)
        y = Scan<num_scan_inputs = 1, body = p (float[N,6] s) => (float[N,6] u) {{ {0} }} >(whole) }}""",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("form", SHAPED)
def test_a_shape_does_not_move(form: str, around: str, method: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(2, 6)).astype(np.float32) for _ in range(2))
    model = parsed(AROUND[around].format(SHAPED[form]))
    layer = lifted(model, x, y, method, (0, 1))
    size = np.abs(layer.values).sum()
    assert size > 0
    assert np.abs(layer.residual).max() <= 1e-5 * size


POSITIONS = "a = ArgMax<axis = 0>(s) w = Sin(s) t = Gather(w, a) u = Add(s, t)"
CHOOSING = {
    "If": """g (float[3] x) => (float[3] y) { all = ReduceSum<keepdims = 0>(x) on = GreaterOrEqual(all, all)
        [outer] y = If(on) <then_branch = p () => (float[3] u) { s = Identity(x) [inner] BODY },
            else_branch = q () => (float[3] u) { u = Identity(x) } > }""",
    "Loop": """g (float[3] x) => (float[3] y) <int64 m = {2}> { [outer] y = Loop(m, , x) <
        body = p (int64 i, bool c, float[3] s) => (bool go, float[3] u) { go = Identity(c) [inner] BODY } > }""",
    "Scan": """g (float[1,3] x) => (float[1,3] y) {
        [outer] y = Scan<num_scan_inputs = 1, body = p (float[3] s) => (float[3] u) { [inner] BODY } >(x) }""",
}


@pytest.mark.parametrize("around", CHOOSING)
def test_a_position_that_changes_inside_is_refused_by_name_and_else_followed(around: str) -> None:
    model = parsed(CHOOSING[around].replace("BODY", POSITIONS))
    x = np.array([3.0, 1, -2], np.float32).reshape((1, 3) if around == "Scan" else 3)
    y = np.array([0.0, 0.5, -1], np.float32).reshape(x.shape)
    with pytest.raises(NotDifferentiable, match=rf"{around} \(node 'outer'\).*ArgMax \(node 'inner'\)"):
        lifted(model, x, y, target=1)
    layer = lifted(model, x, x / 2, target=1)
    size = np.abs(layer.values).sum()
    assert size > 0
    assert np.abs(layer.residual).max() <= 1e-5 * size


def test_two_copies_of_a_graph_have_names_of_their_own_and_print_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The types of both are inferred together, and graphsurgeon warns of nodes of the same name."""
    x = gs.Variable("x", np.dtype(np.float32), [3])
    body = gs.Graph([gs.Node("Tanh", "named", inputs=[x], outputs=[gs.Variable("t")])], [x], opset=21)
    op = Emitter(gs.Graph(name="both", opset=21), "grad")
    here, there = graft(op, body, {"x": x}), twin(op, body, {"x": x})
    assert len({node.name for node in op.graph.nodes}) == 2
    assert here["t"].name != there["t"].name
    assert there["t"].shape == [3]
    assert capfd.readouterr() == ("", "")


def test_types_are_inferred_without_a_word_where_a_file_repeats_names(
    capfd: pytest.CaptureFixture[str],
) -> None:
    x = gs.Variable("x", np.dtype(np.float32), [3])
    nodes = [gs.Node("Tanh", "named", inputs=[x], outputs=[gs.Variable(f"t{k}")]) for k in range(2)]
    infer_types(gs.Graph(nodes, [x], opset=21))
    assert [node.outputs[0].shape for node in nodes] == [[3], [3]]
    assert capfd.readouterr() == ("", "")


def test_a_refusal_inside_of_a_rule_names_the_node() -> None:
    node = gs.Node("Mul", "product", inputs=[], outputs=[gs.Variable("z")])
    values = [
        gs.Variable(name, np.dtype(np.float32), shape) for name, shape in (("x", [3]), ("grad/y", None))
    ]
    words = r"'grad/y' is unknown at Mul \(node 'product'\)"
    with pytest.raises(NotDifferentiable, match=words) as raised, naming(node):
        unbroadcast(Emitter(gs.Graph(opset=21)), values[0], values[0], values[1])
    assert raised.value.metadata["node"] == "product"
