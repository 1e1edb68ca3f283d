"""Quantised models: the gradient is that of the file with its rounding errors frozen, DeepLIFT sums to its change.

Frozen: every QuantizeLinear is replaced by x / scale + zero point, clipped, plus the error that rounding made at the
sample. That function has the file's value there, is smooth beside it, and shares no code with the rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.walk.differentiate import straight_through
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.check import check_file
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest, Target
from tests.checks import to_double
from tests.data.examples import example_of
from tests.programs import assert_slope, gradients, parsed

Array = NDArray[Any]


def frozen(model: onnx.ModelProto, inputs: dict[str, Array]) -> onnx.ModelProto:
    """The model with per-tensor QuantizeLinear, and DequantizeLinear behind it, in float arithmetic."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    values = _values(model, inputs, [name for node in rounding for name in (node.input[0], node.output[0])])
    real = {node.output[0] for node in rounding}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            x, z = node.input[0], node.output[0]
            q = values[z]
            scale = constants[node.input[1]].astype(np.float32)
            zero = constants[node.input[2]].astype(np.float32)
            low, high = np.float32(np.iinfo(q.dtype).min), np.float32(np.iinfo(q.dtype).max)
            at = np.clip(values[x] / scale + zero, low, high)
            parts: tuple[tuple[str, Any], ...] = (
                ("scale", scale), ("zero", zero), ("low", low), ("high", high),
                ("error", (q.astype(np.float32) - at).astype(np.float32)),
            )  # fmt: skip
            for name, value in parts:
                result.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{z}/{name}"))
            nodes += [
                helper.make_node("Div", [x, f"{z}/scale"], [f"{z}/a"]),
                helper.make_node("Add", [f"{z}/a", f"{z}/zero"], [f"{z}/b"]),
                helper.make_node("Clip", [f"{z}/b", f"{z}/low", f"{z}/high"], [f"{z}/c"]),
                helper.make_node("Add", [f"{z}/c", f"{z}/error"], [z]),
            ]
        elif node.op_type == "DequantizeLinear" and node.input[0] in real:
            made, z = node.input[0], node.output[0]
            nodes += [
                helper.make_node("Sub", [made, f"{made}/zero"], [f"{z}/shifted"]),
                helper.make_node("Mul", [f"{z}/shifted", f"{made}/scale"], [z]),
            ]
        else:
            if any(x in real for x in node.input):
                real.update(node.output)
            nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _values(model: onnx.ModelProto, inputs: dict[str, Array], names: list[str]) -> dict[str, Array]:
    return dict(
        LoadedModel(model, Backend("cpu"), given=inputs).backend.run(_exposed(model, names), inputs, names)
    )


def _exposed(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with these tensors as outputs as well."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    given = {x.name for x in (*model.graph.input, *model.graph.output)}
    result.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in given
    )
    return result


QDQ = """
net (float[2,3,6,6] x) => (float[2,4,4,4] z)
<float xs = {0.02}, uint8 xz = {100}, float[4] ws = {0.01,0.02,0.015,0.03}, int8[4] wz = {0,0,0,0}, int8[4,3,3,3] w,
 float ys = {0.03}, uint8 yz = {90}>
{
  q = QuantizeLinear(x, xs, xz)
  d = DequantizeLinear(q, xs, xz)
  wd = DequantizeLinear<axis=0>(w, ws, wz)
  y = Conv(d, wd)
  yq = QuantizeLinear(y, ys, yz)
  zd = DequantizeLinear(yq, ys, yz)
  z = Tanh(zd)
}
"""
QDQ_INTEGERS = """
net (float[2,1,6,6] x) => (float[2,3] z)
<float xs = {0.02}, int8 xz = {3}, int64[2] shape = {2,9}, int64[3] rows = {4,1,7}>
{
  q = QuantizeLinear(x, xs, xz)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q)
  t = Transpose<perm=[0,1,3,2]>(p)
  r = Reshape(t, shape)
  g = Gather<axis=1>(r, rows)
  d = DequantizeLinear(g, xs, xz)
  z = Mul(d, d)
}
"""


def drawn(model: onnx.ModelProto, **arrays: Array) -> onnx.ModelProto:
    """The model with some initializers replaced; those that have no value in the text are inputs there."""
    for name, value in arrays.items():
        for entries in (model.graph.initializer, model.graph.input):
            for entry in [e for e in entries if e.name == name]:
                entries.remove(entry)  # type: ignore[arg-type]
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def drawn_weights(
    rng: np.random.Generator, *shape: int, low: int = -127, high: int = 128, kind: Any = np.int8
) -> Array:
    return rng.integers(low, high, size=shape).astype(kind)


def test_gradient_of_quantised_convolution_is_straight_through(rng: np.random.Generator) -> None:
    text = QDQ.replace(", int8[4,3,3,3] w", "")
    model = with_weight(text, "int8[4,3,3,3] w", drawn_weights(rng, 4, 3, 3, 3))
    inputs = {"x": rng.normal(size=(2, 3, 6, 6)).astype(np.float32) * 2}
    found = assert_slope(model, inputs, ["x"], step=1e-3, of=frozen(model, inputs))
    assert (found["x"][np.abs(inputs["x"]) > 3.2] == 0).all()  # clipped


def with_weight(text: str, declaration: str, value: Array) -> onnx.ModelProto:
    """The graph in text with one more initializer, given as an array."""
    model = parsed(text.replace("x) =>", f"x, {declaration}) =>", 1))
    return drawn(model, **{declaration.split()[-1]: value})


def test_gradient_passes_integer_operators_between_quantise_and_dequantise(rng: np.random.Generator) -> None:
    inputs = {"x": rng.normal(size=(2, 1, 6, 6)).astype(np.float32)}
    model = parsed(QDQ_INTEGERS)
    found = gradients(model, inputs, ["x"], np.ones((2, 3)))["x"]
    pooled = inputs["x"].reshape(2, 3, 2, 3, 2).transpose(0, 1, 3, 2, 4).reshape(2, 3, 3, 4)
    rounded = np.clip(np.round(pooled / np.float32(0.02)) + 3, -128, 127)
    expected = np.zeros((2, 3, 3, 4))
    for at in (4, 1, 7):
        column, row = divmod(at, 3)  # transposed before it is flattened
        best = rounded[:, row, column].argmax(-1)
        for k in range(2):
            top = rounded[k, row, column, best[k]]
            inside = abs(pooled[k, row, column, best[k]] / 0.02 + 3 - 0) <= 127
            expected[k, row, column, best[k]] = 2 * (top - 3) * 0.02 * inside
    np.testing.assert_allclose(found.reshape(2, 3, 2, 3, 2).transpose(0, 1, 3, 2, 4).reshape(2, 3, 3, 4), expected,
                               rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8", "int16", "uint16", "float8e4m3fn"])
def test_every_quantised_type_passes_the_gradient_where_it_does_not_clip(
    kind: str, rng: np.random.Generator
) -> None:
    model = parsed(f"""
net (float[4,6] x) => (float[4,6] z) <float s = {{0.25}}, float[1] zero = {{0}}>
{{
  zf = Cast<to={getattr(onnx.TensorProto, kind.upper())}>(zero)
  axes = Constant<value_ints=[0]>()
  z0 = Squeeze(zf, axes)
  q = QuantizeLinear(x, s, z0)
  d = DequantizeLinear(q, s, z0)
  z = Mul(d, d)
}}""")
    inputs = {"x": (rng.normal(size=(4, 6)) * 3).astype(np.float32)}
    kinds = {"float8e4m3fn": (-448, 448), "int4": (-8, 7), "uint4": (0, 15)}
    low, high = kinds.get(kind) or (np.iinfo(kind).min, np.iinfo(kind).max)
    v = rng.normal(size=(4, 6))
    found = gradients(model, inputs, ["x"], v)["x"]
    d: Array = Backend("cpu").run(_exposed(model, ["d"]), inputs, ["d"])["d"]
    inside = (inputs["x"] / 0.25 >= low) & (inputs["x"] / 0.25 <= high)
    np.testing.assert_allclose(found, np.where(inside, 2 * v * d, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("scale", "attributes"), [
    ([0.1], ""), ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "<axis=1>"), ([[0.1, 0.2, 0.3]] * 4, "<axis=1, block_size=2>"),
    ([[0.1, 0.2]] * 4, "<axis=1, block_size=4>"),
])  # fmt: skip
def test_scales_per_tensor_axis_and_block_have_a_gradient(
    scale: Any, attributes: str, rng: np.random.Generator
) -> None:
    s = np.asarray(scale, dtype=np.float32)
    shape = ",".join(map(str, s.shape)) if s.size > 1 else ""
    kind = f"float[{shape}]" if shape else "float"
    model = parsed(f"""
net (float[4,6] x, {kind} s) => (float[4,6] z)
{{
  q = QuantizeLinear{attributes}(x, s)
  d = DequantizeLinear{attributes}(q, s)
  z = Mul(d, d)
}}""")
    inputs = {"x": rng.normal(size=(4, 6)).astype(np.float32) * 4 + 9, "s": s if shape else s.reshape(())}
    v = rng.normal(size=(4, 6))
    wide = s if s.ndim < 2 else np.repeat(s, 2 if s.shape[1] == 3 else 4, axis=1)[:, :6]
    ratio = inputs["x"] / wide
    q = np.clip(np.round(ratio), 0, 255)
    inside = (ratio >= 0) & (ratio <= 255)
    found = gradients(model, inputs, ["x"], v)["x"]
    np.testing.assert_allclose(found, np.where(inside, 2 * v * q * wide, 0), rtol=1e-4)
    by_element = 2 * v * q * wide * (q - np.where(inside, ratio, 0))
    expected = by_element.sum(axis=0) if s.ndim == 1 and s.size > 1 else by_element.sum()
    if s.ndim == 2:
        starts = [0, 2, 4] if s.shape[1] == 3 else [0, 4]  # 6 is no multiple of 4: the last block is shorter
        expected = np.add.reduceat(by_element, starts, axis=1)
    np.testing.assert_allclose(gradients(model, inputs, ["s"], v)["s"], expected, rtol=2e-3, atol=2e-2)


# --- what is said about it


def test_answer_says_that_the_gradient_is_straight_through(rng: np.random.Generator) -> None:
    model = parsed(QDQ_INTEGERS)
    inputs = {"x": rng.normal(size=(2, 1, 6, 6)).astype(np.float32)}
    request = AttributionRequest("net", inputs, method="gradient", target=Target(index=1))
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model)
        answer = engine.attribute(request)
        lifted = engine.attribute(
            AttributionRequest("net", inputs, method="deeplift_rescale", target=Target(index=1))
        )
    said = "the gradient is straight-through at 1 quantising operator (QuantizeLinear)"
    assert said in answer.warnings
    assert said not in lifted.warnings


def test_rounding_outside_quantisers_is_refused_by_name() -> None:
    model = parsed(
        "net (float[2,3] x) => (float[2,3] z) { r = Round(x) i = Cast<to=6>(x) f = Cast<to=1>(i) z = Add(r, f) }"
    )
    with pytest.raises(NotDifferentiable, match=r"every way goes through Round \(node .*Cast \(node"):
        gradients(model, {"x": np.ones((2, 3), dtype=np.float32)}, ["x"], np.ones((2, 3)))


MODELS = {"conv-int4-qdq": 2, "qdq-multi-consumer": 9, "derived-mnist-qoperator-int8": 8, "mobilenetv2-qdq": 66,
          "matmul-integer-dynamic": 1, "attention-past-u8s8": 0}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_quantised_file_is_attributable_and_deeplift_complete(shared: Path, name: str) -> None:
    verdict = check_file(shared / "models" / name / "model.onnx", Backend("cpu"))
    assert verdict.attributable, verdict.refused
    notes = [n for n in verdict.notes if n.startswith("the gradient is straight-through at")]
    if MODELS[name]:
        assert f"at {MODELS[name]} quantising" in notes[0]
        assert float(notes[0].rsplit(" ", 1)[1]) <= 1e-5
    else:
        assert not notes


@pytest.mark.parametrize("name", ["conv-int4-qdq", "qdq-multi-consumer"])
def test_gradient_of_file_is_that_of_frozen_rounding(shared: Path, name: str) -> None:
    path = shared / "models" / name / "model.onnx"
    given, shapes = example_of(path)
    loaded = LoadedModel(path, Backend("cpu"), given=given, shapes=shapes)
    inputs: dict[str, Array] = dict(loaded.network.example)
    model = onnx.load(path)
    (name,), output = loaded.sources((), loaded.outputs[0].name), loaded.outputs[0].name
    assert straight_through(list(loaded.graph.nodes), [name], output)
    smooth = to_double(frozen(model, inputs))
    for entry in smooth.opset_import:
        entry.version = 21 if entry.domain == "" else entry.version  # what the reference evaluator knows
    reference = ReferenceEvaluator(smooth)
    rng = np.random.default_rng(0)
    v = rng.normal(size=loaded.backend.run(model, inputs, [output])[output].shape)
    u = rng.normal(size=inputs[name].shape)
    g = gradients(model, inputs, [name], v)[name]
    run: Any = reference.run
    ahead, behind = (run([output], {name: inputs[name] + h * u})[0] for h in (1e-6, -1e-6))
    expected = float((v * (ahead - behind)).sum()) / 2e-6
    # onnxruntime fuses what lies between quantisers, and rounds some values to the next step
    assert abs(float((g * u).sum()) - expected) <= 1e-2 * np.linalg.norm(g)
