"""Targets in all their forms, and cuts against their definition by deletion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable, NotFound
from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY
from onnx_attribution.graph_tools.select.cuts import cut_tensors, is_cut
from onnx_attribution.graph_tools.select.layers import layers_between
from onnx_attribution.graph_tools.select.targets import target_tensor
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, ResolvedTarget, Target


def parsed(body: str) -> onnx.ModelProto:
    """A model from ONNX text, with the shapes that can be inferred."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 21]> g {body}')
    return onnx.shape_inference.infer_shapes(proto)


# --- Cuts


def reached(nodes: Sequence[gs.Node], sources: Sequence[str], target: str, deleted: set[str]) -> bool:
    """Whether a way leads from a source to the target when tensors are deleted: a search edge by edge."""
    frontier = [name for name in sources if name not in deleted]
    seen = set(frontier)
    while frontier:
        name = frontier.pop()
        for node in nodes:
            if node.op not in SHAPE_ONLY and any(x.name == name for x in node.inputs):
                for out in node.outputs:
                    if out.name not in seen and out.name not in deleted:
                        seen.add(out.name)
                        frontier.append(out.name)
    return target in seen


def cuts_by_deletion(nodes: Sequence[gs.Node], sources: Sequence[str], target: str) -> set[str]:
    if not reached(nodes, sources, target, set()):
        return set()
    names = {*sources, *(z.name for node in nodes for z in node.outputs)}
    return {name for name in names if not reached(nodes, sources, target, {name})}


def random_nodes(rng: np.random.Generator) -> tuple[list[gs.Node], list[str], str]:
    """A random acyclic graph: nodes of one to three inputs and one or two outputs, some of them shape-only."""
    tensors = [gs.Variable(f"in{k}", np.float32) for k in range(rng.integers(1, 4))]
    sources = [t.name for t in tensors[: rng.integers(1, len(tensors) + 1)]]
    nodes = []
    for k in range(rng.integers(2, 14)):
        recent = tensors[-4:] if rng.random() < 0.7 else tensors
        chosen = [recent[i] for i in rng.integers(0, len(recent), size=rng.integers(1, 4))]
        made = [gs.Variable(f"t{k}.{j}", np.float32) for j in range(1 + (rng.random() < 0.2))]
        nodes.append(gs.Node("Shape" if rng.random() < 0.07 else "Sum", f"n{k}", inputs=chosen, outputs=made))
        tensors += made
    hidden = [
        z.name for node in nodes[:-1] for z in node.outputs if rng.random() < 0.08
    ]  # they may lie in a row
    return nodes, [*sources, *hidden], tensors[-1].name


def test_cuts_of_random_graphs_are_those_found_by_deletion(rng: np.random.Generator) -> None:
    found = 0
    for _ in range(400):
        nodes, sources, target = random_nodes(rng)
        expected = cuts_by_deletion(nodes, sources, target)
        assert cut_tensors(nodes, sources, target) == expected, [
            (n.op, [x.name for x in n.inputs], [z.name for z in n.outputs]) for n in nodes
        ]
        found += len(expected)
    assert found > 400


def test_sets_of_tensors_are_cuts_exactly_if_their_deletion_parts_source_and_target(
    rng: np.random.Generator,
) -> None:
    verdicts = []
    for _ in range(300):
        nodes, sources, target = random_nodes(rng)
        names = [*sources, *(z.name for node in nodes for z in node.outputs)]
        chosen = [names[i] for i in rng.integers(0, len(names), size=rng.integers(1, 4))]
        verdicts.append(is_cut(nodes, sources, target, chosen))
        assert verdicts[-1] == (not reached(nodes, sources, target, set(chosen)))
    assert 30 < sum(verdicts) < 270


def test_a_hidden_source_is_a_cut_of_its_own_ways() -> None:
    net = parsed("(float[N] x) => (float[N] y) { a = Relu(x) b = Tanh(a) c = Sigmoid(b) y = Exp(c) }")
    nodes = list(graph_of(net).nodes)
    for sources in (["x"], ["a"], ["b"], ["c"]):
        assert cut_tensors(nodes, sources, "y") == cuts_by_deletion(nodes, sources, "y")


def assert_cuts(model: onnx.ModelProto, source: str | None = None, target: str | None = None) -> None:
    graph = graph_of(model)
    graph.toposort()
    nodes = list(graph.nodes)
    given = {t.name for t in model.graph.initializer}
    source = source or next(x.name for x in graph.inputs if x.name not in given)
    target = target or graph.outputs[0].name
    expected = cuts_by_deletion(nodes, [source], target)
    assert expected >= {source, target}
    assert cut_tensors(nodes, [source], target) == expected


def test_cuts_of_the_digits_model_are_those_found_by_deletion(digits_path: Path) -> None:
    assert_cuts(onnx.load(digits_path))


@pytest.mark.parametrize("name", ["facemesh-landmarks", "cct2-layernorm-decomposed", "selfie-segmentation"])
def test_cuts_of_real_models_are_those_found_by_deletion(shared: Path, name: str) -> None:
    assert_cuts(onnx.load(shared / "models" / name / "model.onnx"))


def test_layers_say_what_is_a_cut_and_list_only_what_lies_between() -> None:
    net = parsed("""(float[N,4] x, float[N,4] other) => (float[N,4] y, float[N,4] side) {
        a = Relu(x)
        b = Tanh(a)
        s = Add(a, b)
        y = Add(s, other)
        side = Exp(b)
    }""")
    graph = graph_of(net)
    found = layers_between(graph, ["x"], "y")
    assert [(x.name, x.operator, x.cut) for x in found] == [
        ("x", "input", True), ("a", "Relu", True), ("b", "Tanh", False), ("s", "Add", True), ("y", "Add", True),
    ]  # fmt: skip
    assert found[1].dtype == "float32"
    assert found[1].shape == ("N", 4)


# --- Targets


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Returns an engine with a model of two samples: `y` [N,3], `grid` [N,2,3], `one` [N,1], `flat` [N]."""
    body = """(float[N,3] x) => (float[N,3] y, float[N,2,3] grid, float[N,1] one, float[N] flat, int64[N] best)
        <float factor = {2.0}, int64[1] a = {1}, int64[1] last = {-1}> {
            y = Mul(x, factor)
            wide = Unsqueeze(y, a)
            thrice = Mul(wide, factor)
            grid = Concat<axis = 1>(wide, thrice)
            one = ReduceSum(y, last)
            flat = ReduceSum<keepdims = 0>(y, last)
            best = ArgMax<axis = 1, keepdims = 0>(y)
        }"""
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", parsed(body))
        yield made


X = np.array([[1, 5, 2], [3, -1, 4]], dtype=np.float32)
Y = 2.0 * X
GRID = np.stack([Y, 2 * Y], axis=1)


def taken(engine: Engine, tensor: str | None, index: Any = None, minus: Any = None) -> ResolvedTarget:
    return engine.attribute(
        AttributionRequest("net", {"x": X}, "gradient", target=Target(tensor, index, minus))
    ).target


@pytest.mark.parametrize(
    ("tensor", "index", "expected"),
    [
        ("y", None, Y.max(axis=1)),
        ("one", None, Y.sum(axis=1)),
        ("flat", None, Y.sum(axis=1)),
        ("y", 1, Y[:, 1]),
        ("y", -1, Y[:, -1]),
        ("y", np.int64(2), Y[:, 2]),
        ("y", (2,), Y[:, 2]),
        ("y", [2], Y[:, 2]),
        ("y", [0, 2], [Y[0, 0], Y[1, 2]]),
        ("y", np.array([0, 2]), [Y[0, 0], Y[1, 2]]),
        ("y", [(0,), (2,)], [Y[0, 0], Y[1, 2]]),
        ("y", slice(None), Y.sum(axis=1)),
        ("y", slice(0, 2), Y[:, :2].sum(axis=1)),
        ("y", [slice(0, 2), 1], [Y[0, :2].sum(), Y[1, 1]]),
        ("grid", (1, 2), GRID[:, 1, 2]),
        ("grid", (slice(None), 0), GRID[:, :, 0].sum(axis=1)),
        ("grid", (0, slice(1, None)), GRID[:, 0, 1:].sum(axis=1)),
        ("grid", [(0, 1), (1, 0)], [GRID[0, 0, 1], GRID[1, 1, 0]]),
        ("wide", (0, 1), Y[:, 1]),
    ],
    ids=str,
)
def test_a_target_in_any_form_has_the_value_it_selects(
    engine: Engine, tensor: str, index: Any, expected: Any
) -> None:
    np.testing.assert_allclose(taken(engine, tensor, index).value, expected, rtol=1e-6)


def test_a_target_less_another_is_their_difference(engine: Engine) -> None:
    found = taken(engine, "y", [1, 2], [0, 0])
    np.testing.assert_allclose(found.value, [Y[0, 1] - Y[0, 0], Y[1, 2] - Y[1, 0]], rtol=1e-6)
    assert found.index == ("1 - 0", "2 - 0")


def test_the_answer_says_per_sample_which_element_was_taken(engine: Engine) -> None:
    assert taken(engine, "y").index == ("1", "2")
    assert taken(engine, "grid", (-1, slice(1, None))).index == ("1,1:", "1,1:")


@pytest.mark.parametrize(
    ("tensor", "index", "error", "words"),
    [
        (None, 0, InvalidArgument, r"4 float outputs; name the target: 'y', 'grid'"),
        ("nowhere", 0, NotFound, r"no tensor or node 'nowhere'; close names"),
        ("best", 0, NotDifferentiable, r"target 'best' has type int64"),
        ("factor", 0, InvalidArgument, r"target 'factor' is a constant"),
        ("y", 3, InvalidArgument, r"index 3 is out of range along axis 0; legal are 0 to 2"),
        ("y", -4, InvalidArgument, r"index -4 is out of range"),
        ("y", [0, 7], InvalidArgument, r"index 7 is out of range"),
        ("y", (0, 0), InvalidArgument, r"has 2 parts; the target has shape \[3\]"),
        ("grid", 1, InvalidArgument, r"has 1 part; the target has shape \[2, 3\]"),
        ("grid", None, InvalidArgument, r"shape \[2, 3\] for each sample; name an element or a region"),
        ("y", [0, 1, 2], InvalidArgument, r"3 entries in index; there are 2 samples"),
        ("y", [], InvalidArgument, r"0 entries in index; there are 2 samples"),
        ("y", slice(2, 2), InvalidArgument, r"region is empty along axis 0"),
        ("y", 1.0, InvalidArgument, r"index 1.0 is no integer"),
        ("y", "1", InvalidArgument, r"index '1' is no integer"),
        ("y", True, InvalidArgument, r"index True is no integer"),
        ("flat", 0, InvalidArgument, r"has 1 part; the target has shape \[\]"),
    ],
    ids=str,
)
def test_a_target_that_cannot_be_taken_is_refused_by_name(
    engine: Engine, tensor: str | None, index: Any, error: type[AttributionError], words: str
) -> None:
    with pytest.raises(error, match=words):
        taken(engine, tensor, index)


@pytest.mark.parametrize("minus", [3, (0, 0), slice(2, 2), [0, 1, 2]], ids=str)
def test_what_is_subtracted_is_checked_like_the_target(engine: Engine, minus: Any) -> None:
    with pytest.raises(InvalidArgument):
        taken(engine, "y", 0, minus)


def test_a_model_without_float_outputs_is_refused_with_the_float_tensor_before_them() -> None:
    net = parsed("(float[N,3] x) => (int64[N] best) { y = Tanh(x) best = ArgMax<axis = 1, keepdims = 0>(y) }")
    with pytest.raises(InvalidArgument, match=r"no output of the model holds floats .*: 'y'"):
        target_tensor(graph_of(net), None)
