"""Layers follow each other by ways that cross no other of them: branches stay apart, shapes are no way."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from onnx_attribution.graph_tools.select.links import links_between

TEXT = """<ir_version: 8, opset_import: ["" : 17]> m (float[N,4] x) => (float[N,4] y) {
    a = Relu(x) b = Sigmoid(a) c = Tanh(a) d = Mul(b, c) e = Add(d, a) s = Shape(e) y = Reshape(e, s) }"""


@pytest.mark.parametrize(
    ("layers", "links"),
    [
        (["x", "a", "y"], {("x", "a"), ("a", "y")}),
        (["a", "b", "c", "e"], {("a", "b"), ("a", "c"), ("b", "e"), ("c", "e"), ("a", "e")}),
        (["b", "y"], {("b", "y")}),
        (["b", "c"], set()),
        ([], set()),
    ],
)
def test_links_are_the_edges_between_what_is_seen(layers: list[str], links: set[tuple[str, str]]) -> None:
    nodes = list(gs.import_onnx(parser.parse_model(TEXT)).toposort().nodes)
    assert set(links_between(nodes, layers)) == links
