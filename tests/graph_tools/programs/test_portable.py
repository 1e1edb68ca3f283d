"""Files for other runtimes leave nothing to a default, and compute what they did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import onnx_attribution.server.engine.methods  # noqa: F401  # whose recipes are asked for
from onnx_attribution.graph_tools.programs.portable import portable
from onnx_attribution.graph_tools.read.load import load
from onnx_attribution.methods import make
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.export import gradient_model
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.standalone import Standalone, standalone_model
from onnx_attribution.values import Target

CONVOLUTION = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}
POOLING = {"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"}
TOLD = {
    "Conv": CONVOLUTION,
    "FusedConv": CONVOLUTION,
    "QLinearConv": CONVOLUTION,
    "ConvInteger": CONVOLUTION,
    "ConvTranspose": CONVOLUTION | {"output_padding"},
    "MaxPool": POOLING | {"storage_order"},
    "AveragePool": POOLING | {"count_include_pad"},
    "LpPool": POOLING | {"p"},
}
"""What the standard has of each operator in its newest versions."""
SINCE = {
    ("MaxPool", "storage_order"): 8,
    ("MaxPool", "ceil_mode"): 10,
    ("MaxPool", "dilations"): 10,
    ("AveragePool", "count_include_pad"): 7,
    ("AveragePool", "ceil_mode"): 10,
    ("AveragePool", "dilations"): 19,
    ("LpPool", "ceil_mode"): 18,
    ("LpPool", "dilations"): 18,
}


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def left_open(model: onnx.ModelProto, opset: int) -> list[tuple[str, str, str]]:
    """Returns what nodes of windows leave to a default: operator, output, attribute."""
    found = []
    for node in nodes_of(model.graph):
        given: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        told = set(TOLD.get(node.op_type, ()))
        if given.get("auto_pad", b"NOTSET") != b"NOTSET":
            told -= {"pads"}  # the standard has one or the other
        told = {name for name in told if opset >= SINCE.get((node.op_type, name), 1)}
        found += [(node.op_type, node.output[0], name) for name in told if given.get(name) in (None, [], b"")]
    return found


WINDOWS = """
net (float[N,4,9,8] x, float[6,2,3,3] w, float[6,2,3,2] u) => (float[N,C,H,W] a, float[N,D,I,J] b, float[N,E,K,L] c,
    float[N,F,O,P] d, float[N,G,Q,R] e)
{
    a = Conv <group = 2> (x, w)
    b = ConvTranspose <strides = [2, 1]> (a, u)
    c = MaxPool <kernel_shape = [3, 2], auto_pad = "SAME_UPPER"> (a)
    d = AveragePool <kernel_shape = [2, 2], pads = [0, 1, 0, 0]> (b)
    e = LpPool <kernel_shape = [2, 2]> (a)
}
"""


def text(body: str, opset: int = 21) -> onnx.ModelProto:
    made: onnx.ModelProto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {body}')
    return made


def test_every_attribute_of_a_window_is_written_and_nothing_computed_changes(
    rng: np.random.Generator,
) -> None:
    model = text(WINDOWS)
    model.graph.node[0].attribute.append(
        helper.make_attribute("strides", [], attr_type=onnx.AttributeProto.INTS)
    )
    feeds = {
        "x": rng.normal(size=(2, 4, 9, 8)),
        "w": rng.normal(size=(6, 2, 3, 3)),
        "u": rng.normal(size=(6, 2, 3, 2)),
    }
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[0].attribute[-1]
    wanted = ReferenceEvaluator(plain).run(None, feeds)
    assert len(left_open(model, 21)) > 20
    portable(model)
    onnx.checker.check_model(model, full_check=True)
    assert left_open(model, 21) == []
    for one, other in zip(ReferenceEvaluator(model).run(None, feeds), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("known", [True, False])
def test_pads_are_those_of_all_axes(known: bool, rng: np.random.Generator) -> None:
    body = (
        "net (float[N,3,4] x, int64[4] pads, int64[2] axes) => (float[A,B,C] y) { y = Pad(x, pads, , axes) }"
    )
    model = text(body)
    given: dict[str, NDArray[Any]] = {"pads": np.array([1, 0, 0, 2]), "axes": np.array([-1, 1])}
    if known:
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in given.items())
        del model.graph.input[1:]
    portable(model)
    (node,) = [one for one in model.graph.node if one.op_type == "Pad"]
    assert len(node.input) == 2
    assert (len(model.graph.node) == 1) == known
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x} | ({} if known else given))
    np.testing.assert_array_equal(found, np.pad(x, [(0, 0), (0, 2), (1, 0)]))


def test_pads_inside_of_a_branch_are_those_of_all_axes() -> None:
    body = """net (bool c, float[2,3] x) => (float[A,B] y)
        <int64[2] pads = {1, 2}, int64[1] axes = {1}>
    {
        y = If (c) <then_branch = yes () => (float[P,Q] t) { t = Pad(x, pads, , axes) },
                    else_branch = no () => (float[R,S] e) { e = Identity(x) }>
    }"""
    model = text(body)
    portable(model)
    (found,) = ReferenceEvaluator(model).run(None, {"c": np.array(True), "x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(found, np.pad(np.ones((2, 3)), [(0, 0), (1, 2)]))
    assert [len(one.input) for one in nodes_of(model.graph) if one.op_type == "Pad"] == [2]


def convolutional(shared: Path) -> Iterator[Path]:
    for path in sorted((shared / "models").glob("*/*.onnx")):
        if b"Conv" in path.read_bytes():
            yield path


def test_no_real_model_leaves_an_attribute_of_a_window_open(shared: Path) -> None:
    seen = 0
    for path in convolutional(shared):
        model = load(path)
        if model.functions:
            continue
        opset = next(one.version for one in model.opset_import if not one.domain)
        open_before = left_open(model, opset)
        portable(model)
        assert left_open(model, opset) == [], path.parent.name
        seen += bool(open_before)
    assert seen > 25


def doubles(model: onnx.ModelProto) -> list[str]:
    """Returns the names of what holds float64."""
    wide = [t.name for t in model.graph.initializer if t.data_type == TensorProto.DOUBLE]
    ends = (*model.graph.input, *model.graph.output)
    wide += [one.name for one in ends if one.type.tensor_type.elem_type == TensorProto.DOUBLE]
    for node in nodes_of(model.graph):
        for one in node.attribute:
            if (one.name == "to" and one.i == TensorProto.DOUBLE) or one.t.data_type == TensorProto.DOUBLE:
                wide.append(node.name)
    return wide


@pytest.mark.parametrize("name", ["mnist-cntk", "gtsrb-traffic-sign", "cifar10-wide-kw"])
def test_what_is_written_around_a_real_model_leaves_nothing_open_either(shared: Path, name: str) -> None:
    (file,) = (shared / "models" / name).glob("*.onnx")
    model = LoadedModel(file, Backend("cpu", 1))
    asked = [
        Standalone(make("neuron_ig", {"steps": 2})),
        Standalone(make("neuron_ig", {}), loop=True, steps_input=True),
        Standalone(make("deeplift_rescale", {})),
    ]
    built = [standalone_model(model, one) for one in asked]
    for found in (*built, gradient_model(model, (), Target(index=0))):
        assert left_open(found.model, 21) == []
        assert all(len(one.input) < 4 for one in nodes_of(found.model.graph) if one.op_type == "Pad")
        assert doubles(found.model) == []


PADDED = """
net (float[N,3,4] x) => (float[N] y) <int64[6] pads = {0, 1, 2, 0, 0, 1}, int64[2] axes = {1, 2}>
{ h = Mul(x, x) z = Pad <mode = "reflect"> (h, pads) w = Mul(z, z) y = ReduceSum <keepdims = 0> (w, axes) }"""
MEAN = """
net (float[N,W] x) => (float[N] y) <int64[1] axes = {1}>
{ h = Mul(x, x) y = ReduceMean <keepdims = 0> (h, axes) }"""


def test_a_model_of_float32_is_explained_without_float64(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    often = np.bincount(np.pad(np.arange(12).reshape(3, 4), [(1, 0), (2, 1)], mode="reflect").reshape(-1))
    slopes: dict[str, Any] = {PADDED: 4 * x**3 * often.reshape(3, 4), MEAN: 2 * x[0] / 4}
    for body, wanted in slopes.items():
        onnx.save(text(body), tmp_path / "a.onnx")
        model = LoadedModel(tmp_path / "a.onnx", Backend("cpu", 1))
        found = standalone_model(model, Standalone(make("gradient", {})))
        assert doubles(found.model) == []
        made = model.backend.run(found.model, {"x": x if body is PADDED else x[0]}, ["attribution/x"])
        np.testing.assert_allclose(np.asarray(made["attribution/x"], float), wanted, rtol=1e-5)
