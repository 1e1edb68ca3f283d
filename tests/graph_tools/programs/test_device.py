"""Forms for a CUDA device compute what the file's forms do, and are those that have kernels there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.programs.device import for_device
from onnx_attribution.server.engine.backend import Backend
from tests.programs import parsed

BACKEND = Backend("cpu", 1)
Floats = NDArray[np.float32]


def run(model: onnx.ModelProto, **inputs: Floats) -> Floats:
    name = model.graph.output[0].name
    return BACKEND.run(model, inputs, [name])[name].astype(np.float32)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_model_that_has_kernels_is_left_alone() -> None:
    model = parsed("net (float[N,3] x) => (float[N,3] z) { z = Relu(x) }")
    assert for_device(model) is model


@pytest.mark.parametrize(
    ("attributes", "added"),
    [
        ("pads=[1,1,0,0], strides=[2,2]", [1, 1]),
        ("pads=[1,0,0,0], strides=[2,2]", [1, 0]),
        ("pads=[1,1,0,0], strides=[3,3], output_padding=[1,0]", [2, 1]),
        ("pads=[0,0,1,1], strides=[2,2]", [0, 0]),
        ("pads=[0,1,1,0], strides=[2,2]", [0, 1]),
        ("pads=[0,0,1,1], strides=[2,2], output_padding=[1,0]", [0, 0]),
        ("pads=[1,0,0,1], strides=[1,1], dilations=[2,2]", [0, 0]),
        ("pads=[2,2,0,1], strides=[2,2]", [0, 1]),
    ],
)
def test_a_transposed_convolution_cuts_the_same_at_both_ends(
    attributes: str, added: list[int], rng: np.random.Generator
) -> None:
    model = parsed(f"""net (float[N,2,4,5] x, float[2,3,3,3] w) => (float[N,3,h,v] z) {{
  z = ConvTranspose<{attributes}>(x, w)
}}""")
    even = for_device(model)
    node = next(node for node in even.graph.node if node.op_type == "ConvTranspose")
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert given["pads"][:2] == given["pads"][2:]
    assert given["output_padding"] == added
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((2, 2, 4, 5), (2, 3, 3, 3)))
    np.testing.assert_array_equal(run(even, x=x, w=w), run(model, x=x, w=w))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("zero", [False, True])
def test_constants_of_int32_are_the_floats_that_they_stand_for(axis: int | None, zero: bool) -> None:
    values = np.arange(-3, 3, dtype=np.int32).reshape(2, 3) * 1000
    count = () if axis is None else (values.shape[axis],)
    scale = np.linspace(0.1, 1, 3, dtype=np.float32)[: count[0] if count else 1].reshape(count)
    held = {"q": values, "s": scale, "p": np.zeros(count, dtype=np.int32)}
    model = parsed("net (float[2,3] x) => (float[2,3] z) { z = Add(x, b) }")
    names = ["q", "s", "p"][: 3 if zero else 2]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", names, ["b"], "bias", axis=axis or 0))
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in held.items())
    folded = for_device(model)
    assert operators(folded) == ["Constant", "Add"]
    wide = scale if axis is None else np.expand_dims(scale, 1 - axis)
    x = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(run(folded, x=x), x + values.astype(np.float32) * wide)


def test_quantised_numbers_that_are_computed_stay() -> None:
    model = parsed("net (int32[N] q, float s) => (float[N] z) { z = DequantizeLinear(q, s) }")
    assert operators(for_device(model)) == ["DequantizeLinear"]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("", lambda z: z),
        (', activation="Relu"', lambda z: np.maximum(z, 0)),
        (', activation="LeakyRelu", activation_alpha=0.5', lambda z: np.where(z < 0, z / 2, z)),
    ],
)
def test_a_fused_product_is_split(
    activation: str, expected: Callable[[Floats], Floats], rng: np.random.Generator
) -> None:
    model = parsed(f"""net (float[N,3] x, float[4,3] w, float[4] b) => (float[N,4] z) {{
  z = com.microsoft.FusedGemm<alpha=2.0, transB=1{activation}>(x, w, b)
}}""")
    split = for_device(model)
    assert all(not node.domain for node in split.graph.node)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 3), (4, 3), (4,)))
    np.testing.assert_allclose(run(split, x=x, w=w, b=b), expected(2 * x @ w.T + b), rtol=1e-5, atol=1e-6)


def test_a_fused_convolution_is_split_into_what_it_adds_and_its_activation(rng: np.random.Generator) -> None:
    model = parsed("""net (float[N,2,4,4] x, float[3,2,1,1] w, float[3] b, float[N,3,4,4] y) => (float[N,3,4,4] z) {
  z = com.microsoft.FusedConv<activation="Relu", kernel_shape=[1,1]>(x, w, b, y)
}""")
    split = for_device(model)
    assert operators(split) == ["Conv", "Add", "Relu"]
    x, w, b, y = (
        rng.normal(size=s).astype(np.float32) for s in ((2, 2, 4, 4), (3, 2, 1, 1), (3,), (2, 3, 4, 4))
    )
    summed = np.einsum("nchw,kc->nkhw", x, w[:, :, 0, 0]) + b[:, None, None] + y
    np.testing.assert_allclose(run(split, x=x, w=w, b=b, y=y), np.maximum(summed, 0), rtol=1e-5, atol=1e-6)


def test_bodies_are_rewritten_too() -> None:
    model = parsed("""net (bool c, float[2,2] x) => (float[2,2] z) {
  z = If (c) <
    then_branch = yes () => (float[2,2] a) { a = com.microsoft.FusedGemm<activation="Relu">(x, x) },
    else_branch = no () => (float[2,2] e) { e = Identity(x) }
  >
}""")
    branch = for_device(model).graph.node[0].attribute[0].g
    assert [node.op_type for node in branch.node] == ["Gemm", "Relu"]
