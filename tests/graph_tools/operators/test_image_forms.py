"""The forms that gradients of image networks take, beside finite differences and numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.checks import assert_gradient, gradient_model, session
from tests.programs import parsed

Array = NDArray[Any]

# --- What a convolution reads


def convolution(x: tuple[int, ...], w: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """A convolution of x with a constant kernel."""
    kernel = np.random.default_rng(3).standard_normal(w).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"], **attributes)],
        "convolution",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [helper.make_empty_tensor_value_info("z")],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def operators(model: onnx.ModelProto, wrt: str = "x") -> set[str]:
    """The operators of the gradient."""
    return {node.op_type for node in gradient_model(model, [wrt])[0].graph.node}


Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]
DENSE = (2, 16, 9, 8)
CONVOLUTIONS: list[Case] = [
    (DENSE, (32, 16, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((1, 32, 8, 9), (16, 32, 3, 3), {"strides": [2, 2], "pads": [0, 1, 2, 0]}),
    (DENSE, (16, 16, 3, 2), {"strides": [2, 1], "auto_pad": "SAME_UPPER"}),
    (DENSE, (16, 16, 2, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    (DENSE, (16, 16, 5, 4), {"strides": [2, 2], "auto_pad": "VALID"}),
    ((2, 16, 11, 9), (16, 16, 3, 3), {"strides": [2, 2], "dilations": [2, 3], "pads": [2, 2, 1, 2]}),
    ((1, 16, 11, 10), (16, 16, 2, 3), {"strides": [2, 2], "dilations": [4, 1], "pads": [3, 2, 1, 2]}),
    ((1, 16, 9, 9), (16, 16, 3, 1), {"strides": [1, 2], "pads": [1, 0, 1, 0]}),
    ((1, 16, 9, 9), (16, 16, 3, 3), {"strides": [2, 2], "pads": [2, 2, 2, 2]}),
    ((1, 32, 9, 9), (64, 16, 3, 3), {"strides": [2, 2], "group": 2, "pads": [1, 1, 1, 1]}),
    (DENSE, (16, 1, 3, 3), {"strides": [2, 2], "group": 16, "pads": [1, 1, 1, 1]}),
    ((2, 16, 8, 9), (16, 1, 5, 3), {"strides": [3, 2], "group": 16, "pads": [2, 0, 2, 1]}),
    ((2, 16, 9, 9), (16, 1, 3, 3), {"strides": [2, 2], "group": 16, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((1, 128, 5, 4), (16, 128, 1, 1), {"strides": [2, 2]}),
]  # fmt: skip
TRANSPOSED: list[Case] = [
    ((2, 20, 9, 8), (4, 20, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 16, 9, 8), (16, 16, 3, 3), {"strides": [3, 3], "pads": [1, 1, 1, 1]}),
    ((2, 3, 12, 12), (16, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    ((2, 16, 9, 9), (16, 1, 3, 3), {"strides": [2, 2], "group": 16, "pads": [3, 3, 3, 3]}),
    ((2, 8, 9, 9), (16, 1, 3, 3), {"strides": [2, 2], "group": 8, "pads": [1, 1, 1, 1]}),
    ((1, 128, 5, 5), (16, 128, 1, 1), {"strides": [2, 2], "pads": [1, 1, 0, 0]}),
    ((2, 16, 13), (16, 16, 5), {"strides": [3], "pads": [2, 1]}),
    ((2, 2, 6, 7, 5), (3, 2, 3, 3, 2), {"strides": [2, 2, 2], "pads": [1, 1, 0, 1, 1, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("x", "w", "attributes"), CONVOLUTIONS + TRANSPOSED, ids=str)
def test_strided_convolutions_agree_with_finite_differences(
    x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    values = {"x": np.random.default_rng(5).standard_normal(x).astype(np.float32)}
    assert_gradient(convolution(x, w, **attributes), values, forms=["batch"], seeds=[0])


def test_blocks_of_channels_need_no_transposed_convolution() -> None:
    for cases, transposed in ((CONVOLUTIONS, False), (TRANSPOSED, True)):
        for x, w, attributes in cases:
            assert ("ConvTranspose" in operators(convolution(x, w, **attributes))) is transposed, attributes


def test_where_the_kernel_is_an_input_pads_are_symmetric() -> None:
    """CUDA's kernel takes no others."""
    model = convolution((2, 3, 8, 8), (4, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    kernel = model.graph.initializer.pop()
    model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3]))
    (node,) = (n for n in gradient_model(model, ["x"])[0].graph.node if n.op_type == "ConvTranspose")
    found = {a.name: list(a.ints) for a in node.attribute}
    assert (found["pads"], found["output_padding"]) == ([1, 1, 1, 1], [1, 1])
    values = {"x": np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    assert_gradient(
        model, {**values, "w": numpy_helper.to_array(kernel)}, forms=["batch"], seeds=[0], wrt=["x"]
    )


# --- Where activations pass


def gradient(text: str, x: Array, cotangent: Array | None = None, **constants: float) -> Array:
    """The gradient of <cotangent, z>, default the sum of z, with respect to x."""
    model = parsed(text)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, x.dtype), name))
    graded, names = gradient_model(model, ["x"])
    (seed,) = {v.name for v in graded.graph.input} - {"x"}
    outputs = [v.name for v in graded.graph.output]
    feeds = {"x": x, seed: np.ones_like(x) if cotangent is None else cotangent}
    return np.asarray(session(graded)(feeds)[outputs.index(names["x"])])


def around(*bounds: float) -> Array:
    """Each bound with its two neighbours, and numbers far away."""
    at = np.asarray(bounds, np.float32)
    near = [np.nextafter(at, np.float32(side)) for side in (-np.inf, np.inf)]
    small = np.float32(2) ** np.arange(-126, -118)
    far = np.asarray([-np.inf, -1e30, -1, *-small, *small, 1, 5, 1e30, np.inf], np.float32)
    found = np.concatenate([at, *near, far])
    normal = (np.abs(found) >= 2.0**-126) | (found == 0)
    kept: Array = found[normal].reshape(1, 1, 1, -1)
    return kept


CLIP = "g (KIND[1,1,1,N] x) => (KIND[1,1,1,N] z) { z = Clip(x, low, high) }"
ONE = "g (KIND[1,1,1,N] x) => (KIND[1,1,1,N] z) { z = OPERATOR(x) }"
KINDS = {"float": np.float32, "double": np.float64, "float16": np.float16}


@pytest.mark.parametrize("kind", KINDS)
def test_a_relu_passes_what_is_above_0(kind: str) -> None:
    with np.errstate(over="ignore"):
        x = around(0).astype(KINDS[kind])
    found = gradient(ONE.replace("KIND", kind).replace("OPERATOR", "Relu"), x)
    np.testing.assert_array_equal(found, (x > 0).astype(found.dtype))


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("alpha", [0.25, 1.5, -0.5, 0.0])
def test_a_leaky_relu_has_its_slope_up_to_0(alpha: float, kind: str) -> None:
    """Of as many channels as the blocked layout wants, and of fewer."""
    for channels in (1, 16):
        with np.errstate(over="ignore"):
            x = np.tile(around(0).astype(KINDS[kind]), (1, channels, 1, 1))
        text = ONE.replace("[1,1,", f"[1,{channels},").replace("KIND", kind)
        found = gradient(text.replace("OPERATOR", f"LeakyRelu<alpha={alpha:f}>"), x)
        np.testing.assert_array_equal(found, np.where(x > 0, 1, alpha).astype(found.dtype))


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize(
    ("low", "high"), [(-1, 1), (0, 1), (0.1, 6), (-3, -2), (2, 4), (0, 3.4e38), (-4e-30, 1e-30), (3, 1)]
)
def test_a_clip_passes_what_is_at_a_bound(low: float, high: float, kind: str) -> None:
    low, high = (float(np.float32(v)) for v in (low, high))
    x = around(low, high).astype(KINDS[kind])
    found = gradient(CLIP.replace("KIND", kind), x, low=low, high=high)
    np.testing.assert_array_equal(found, ((low <= x) & (x <= high)).astype(found.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_relu6_passes_nothing_at_its_bounds(kind: str) -> None:
    """As PyTorch's and TensorFlow's, of which exporters make a Clip."""
    for channels in (1, 16):
        with np.errstate(over="ignore"):
            x = np.tile(around(0, 6).astype(KINDS[kind]), (1, channels, 1, 1))
        text = CLIP.replace("[1,1,", f"[1,{channels},").replace("KIND", kind)
        found = gradient(text, x, low=0, high=6)
        np.testing.assert_array_equal(found, ((x > 0) & (x < 6)).astype(found.dtype))


@pytest.mark.parametrize("activation", ["Relu(x)", "LeakyRelu<alpha=0.5>(x)", "Clip(x, low, high)"])
@pytest.mark.parametrize("behind", ["Sqrt(a)", "Log(a)", "Reciprocal(a)", "Pow(a, half)", "Div(one, a)"])
def test_what_is_cut_off_stays_0_where_the_gradient_is_infinite(activation: str, behind: str) -> None:
    text = f"g (float[1,16,1,3] x) => (float[1,16,1,3] z) {{ a = {activation} z = {behind} }}"
    x = np.tile(np.asarray([0 if "Leaky" in activation else -1, 1, 2], np.float32), (1, 16, 1, 1))
    found = gradient(text, x, low=0, high=6, half=0.5, one=1)
    slope = {"S": 0.5, "L": 1, "R": -1, "P": 0.5, "D": -1}[behind[0]]
    np.testing.assert_allclose(found[0, :, 0, 1], slope, rtol=1e-6)
    if "Leaky" not in activation:
        np.testing.assert_array_equal(found[0, :, 0, 0], 0)
    assert not np.isnan(found).any()


def test_between_convolutions_no_choice_leaves_their_layout() -> None:
    """The blocked layout of onnxruntime: one order in, one out, and of the activations nothing but products."""
    text = """g (float[N,16,8,8] x) => (float[N,16,8,8] z) {
        a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Clip(c, low, high) e = Conv(d, w) f = LeakyRelu<alpha=0.1>(e)
        s = Add(f, b) h = Clip(s, low, one) z = Conv(h, w)
    }"""
    model = parsed(text)
    held = {"w": np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1), "low": 0, "high": 6, "one": 1}
    for name, value in held.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    assert not {"Where", "Greater", "Less", "GreaterOrEqual"} & operators(model)


# --- Where maxima come from

POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 3, 9, 7), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((2, 3, 9, 7), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((2, 3, 7, 7), {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2, 2, 2, 2]}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 2], "strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    ((2, 3, 9, 8), {"kernel_shape": [2, 3], "strides": [2, 1], "auto_pad": "SAME_LOWER"}),
    ((2, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [0, 2, 1, 0]}),
    ((2, 3, 9, 8), {"kernel_shape": [1, 2], "strides": [2, 3]}),
    ((2, 3, 9), {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}),
    ((2, 2, 5, 6, 4), {"kernel_shape": [2, 3, 2], "strides": [2, 2, 1], "pads": [0, 1, 1, 0, 1, 0]}),
]


def pool(x: tuple[int, ...], kind: Any, attributes: Mapping[str, Any]) -> onnx.ModelProto:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("MaxPool", ["x"], ["z"], **attributes)],
        "pool",
        [helper.make_tensor_value_info("x", number, x)],
        [helper.make_empty_tensor_value_info("z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "attributes"), POOLS, ids=str)
def test_a_maximum_goes_back_to_the_first_that_has_it(
    shape: tuple[int, ...], attributes: dict[str, Any], kind: Any
) -> None:
    """Of few values, so that most windows have several; onnxruntime's indices say which is first."""
    rng = np.random.default_rng(1)
    x = rng.integers(-2, 2, shape).astype(kind)
    x[rng.random(shape) < 0.1] = -np.inf
    model = pool(shape, kind, attributes)
    indexed = onnx.ModelProto.FromString(model.SerializeToString())
    indexed.graph.node[0].output.append("i")
    indexed.graph.output.append(helper.make_tensor_value_info("i", onnx.TensorProto.INT64, None))
    z, index = session(indexed)({"x": x})
    g = rng.integers(1, 9, z.shape).astype(kind) * (z > -3)  # of a window of -inf there is no index
    wanted = np.zeros(x.size, kind)
    np.add.at(wanted, index.reshape(-1), g.reshape(-1))
    graded, names = gradient_model(model, ["x"])
    outputs = [v.name for v in graded.graph.output]
    found = session(graded)({"x": x, "v/z": g})[outputs.index(names["x"])]
    np.testing.assert_array_equal(found, wanted.reshape(shape))
    assert "ScatterElements" not in operators(model)


def test_windows_with_gaps_are_gone_back_by_indices() -> None:
    model = pool((2, 3, 9, 8), np.float32, {"kernel_shape": [2, 2], "dilations": [2, 2]})
    assert "ScatterElements" in operators(model)


def test_of_an_infinite_gradient_the_rest_of_a_window_is_0() -> None:
    text = "g (float[1,1,1,4] x) => (float[1,1,1,2] z) { a = MaxPool<kernel_shape=[1,2], strides=[1,2]>(x) z = Sqrt(a)}"
    x = np.asarray([0, -1, 4, 1], np.float32).reshape(1, 1, 1, 4)
    found = gradient(text, x, np.ones((1, 1, 1, 2), np.float32))
    np.testing.assert_array_equal(found.reshape(-1), [np.inf, 0, 0.25, 0])


# --- What a mean reads

MEANS: list[tuple[dict[str, Any], str]] = [
    ({"kernel_shape": [2, 2], "strides": [2, 2]}, "Resize"),
    ({"kernel_shape": [3, 2], "strides": [3, 2]}, "Resize"),
    ({"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, "Resize"),
    ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, "AveragePool"),
    ({"kernel_shape": [3, 2], "pads": [2, 0, 0, 1], "count_include_pad": 1}, "ConvTranspose"),
    ({"kernel_shape": [3, 4], "pads": [2, 1, 2, 1], "count_include_pad": 1}, "AveragePool"),
    ({"kernel_shape": [4, 1]}, "AveragePool"),
    ({"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER"}, "ConvTranspose"),
    ({"kernel_shape": [3, 5], "auto_pad": "SAME_LOWER"}, "AveragePool"),
    ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, "ConvTranspose"),
    ({"kernel_shape": [2, 2], "dilations": [2, 2]}, "ConvTranspose"),
    ({}, "Resize"),
]


@pytest.mark.parametrize("channels", [2, 16])
@pytest.mark.parametrize(("attributes", "by"), MEANS, ids=str)
def test_a_mean_goes_back_to_what_it_is_of(attributes: dict[str, Any], by: str, channels: int) -> None:
    """Each element has what the pool of 1 there and 0 elsewhere makes of what arrives."""
    shape = (channels, 5, 6)
    operator = "AveragePool" if attributes else "GlobalAveragePool"
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["z"], **attributes)],
        "mean",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *shape])],
        [helper.make_empty_tensor_value_info("z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    units = np.eye(math.prod(shape), dtype=np.float32).reshape(-1, *shape)
    (pooled,) = session(model)({"x": units})
    g = np.random.default_rng(1).standard_normal((1, *pooled.shape[1:])).astype(np.float32)
    graded, names = gradient_model(model, ["x"])
    outputs = [v.name for v in graded.graph.output]
    given = {
        name: a
        for name, a in {"x": units[:1], "v/z": g}.items()
        if name in {v.name for v in graded.graph.input}
    }
    found = session(graded)(given)[outputs.index(names["x"])]
    wanted = (pooled.astype(np.float64) * g).sum(axis=(1, 2, 3)).reshape(1, *shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert by in operators(model) or channels == 2


# --- Secants


@pytest.mark.parametrize(
    "activation", ["Relu(x)", "Clip(x, low, high)", "Clip(x, low)", "Clip(x, one, high)"]
)
def test_the_secant_of_two_points_and_of_one(activation: str) -> None:
    """The quotient of the changes; where nothing changes the slope there, which at a bound is that of the gradient."""
    at = np.asarray([-8, -1, 0, 1e-30, 0.5, 1, 3, 6, 7, 20], np.float64)
    x, y = (v.reshape(1, 1, 1, -1).astype(np.float32) for v in np.meshgrid(at, at))
    model = parsed(f"g (float[1,1,1,100] x) => (float[1,1,1,100] z) {{ z = {activation} }}")
    for name, value in {"low": 0.0, "one": 1.0, "high": 6.0}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    low = 1 if "one" in activation else 0
    high = 6 if "high" in activation else np.inf
    program = deeplift_program(
        LoadedModel(model, Backend("cpu")).network, Choice(("x",), ("x",), "z"), multiply=False
    )
    found = session(program.model)({"x": x, "baseline/x": y, "target/weight": np.ones_like(x)})
    m = found[program.outputs.index("contribution/x")]
    ends = [np.clip(v.astype(np.float64), low, high) for v in (x, y)]
    closed = activation in ("Clip(x, low)", "Clip(x, one, high)")
    slope = ((low <= x) & (x <= high)) if closed else ((low < x) & (x < high))
    d = np.where(x == y, 1, x.astype(np.float64) - y)
    np.testing.assert_allclose(m, np.where(x == y, slope, (ends[0] - ends[1]) / d), rtol=1e-6, atol=1e-30)
