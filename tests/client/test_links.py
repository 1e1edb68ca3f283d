"""Which layers follow which: what the listing says of all of them says it of any few, as the graph itself does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from onnx_attribution.client.links import links_of
from onnx_attribution.errors import NotFound
from onnx_attribution.graph_tools.select.links import links_between
from onnx_attribution.server.engine import Engine
from tests.server.cli.commands import model

GRAPH = """ m (float[N,4] x) => (float[N,4] y, float[N,4] z) {
    a = Relu(x) b = Sigmoid(a) c = Tanh(a) d = Mul(b, c) e = Add(d, a) y = Neg(e) z = Neg(b) }"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Returns an engine with two branches that meet, a skip around both, and a second output."""
    found = Engine(provider="cpu")
    found.add("m", model(tmp_path_factory.mktemp("links"), GRAPH))
    return found


def test_a_listing_says_after_which_layers_each_comes(engine: Engine) -> None:
    assert {one.name: set(one.after) for one in engine.layers("m")} == {
        "x": set(),
        "a": {"x"},
        "b": {"a"},
        "c": {"a"},
        "d": {"b", "c"},
        "e": {"d", "a"},
        "y": {"e"},
    }


def test_a_filter_leaves_ways_between_those_that_fit(engine: Engine) -> None:
    assert {one.name: one.after for one in engine.layers("m", "[acey]")} == {
        "a": (),
        "c": ("a",),
        "e": ("a", "c"),
        "y": ("e",),
    }


def test_layers_lead_to_the_target_that_is_asked_for(engine: Engine) -> None:
    found = engine.layers("m", target="z")
    assert [(one.name, one.cut, one.after) for one in found] == [
        ("x", True, ()),
        ("a", True, ("x",)),
        ("b", True, ("a",)),
        ("z", True, ("b",)),
    ]
    with pytest.raises(NotFound, match="nowhere"):
        engine.layers("m", target="nowhere")


def test_links_of_any_few_are_those_of_the_graph(engine: Engine) -> None:
    nodes = list(
        gs.import_onnx(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {GRAPH}'))
        .toposort()
        .nodes
    )
    layers, rng = engine.layers("m"), np.random.default_rng(0)
    for _ in range(40):
        few = [one.name for one in layers if rng.random() < 0.5]
        assert set(links_of(layers, few)) == set(links_between(nodes, few))


def test_links_of_a_trained_network_are_those_of_its_graph(digits_path: Path) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        names = ["image", "relu1", "pool", "logits"]
        assert links_of(engine.layers("digits"), names) == engine.links("digits", names)


@pytest.mark.parametrize("name", ["selfie-segmentation", "mnist-self-attention"])
def test_links_of_real_files_are_those_that_a_search_through_the_file_finds(shared: Path, name: str) -> None:
    """A network with skips over its middle and gates beside, and attention."""
    path = shared / "models" / name / "model.onnx"
    kinds = {"Add", "Clip", "GlobalAveragePool", "MaxPool", "Relu", "Sigmoid", "Softmax"}
    with Engine(provider="cpu") as engine:
        engine.add("m", path)
        layers = engine.layers("m")
    readers: dict[str, list[str]] = {}
    file = onnx.load(path).graph
    for node in file.node:
        for tensor in node.input if node.op_type not in ("Shape", "Size") else ():
            readers.setdefault(tensor, []).extend(node.output)
    made = {tensor for node in file.node for tensor in node.output}
    few = [one.name for one in layers if one.operator in kinds and one.name in made]
    wanted = set()
    for first in few:
        seen, left = set[str](), list(readers.get(first, ()))
        while left:
            tensor = left.pop()
            if tensor in few:
                wanted.add((first, tensor))
            elif tensor not in seen:
                seen.add(tensor)
                left += readers.get(tensor, ())
    assert len(wanted) >= len(few) - 1
    assert set(links_of(layers, few)) == wanted
