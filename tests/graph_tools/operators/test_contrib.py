"""onnxruntime's own operators: the gradient against differences of onnxruntime, and DeepLIFT's sum, by a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.ir.convert import model_of as model_of_graph
from onnx_attribution.graph_tools.ir.emit import Emitter
from onnx_attribution.graph_tools.operators import VJP, NodeView
from onnx_attribution.graph_tools.operators.decompose import staged
from onnx_attribution.server.engine.backend import Backend
from tests.programs import assert_slope, contributions, gradients

Array = NDArray[Any]
Input = tuple[int, ...] | Array | None


@dataclass(frozen=True)
class Row:
    """One operator on normal inputs of the given shapes; an array is a constant, None an absent input.

    `outputs` names the outputs: m and i are left out, a and b are integers. Each of `targets` in turn is the target.
    """

    operator: str
    inputs: tuple[Input, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: str = "z"
    targets: str = "z"
    domain: str = "com.microsoft"
    deeplift: bool = True

    def __str__(self) -> str:
        shapes = [str(tuple(x.shape) if isinstance(x, np.ndarray) else x) for x in self.inputs]
        return " ".join([self.operator, *shapes, *(f"{k}={v}" for k, v in self.attributes.items())])


def ints(*values: int, kind: Any = np.int32) -> Array:
    return np.asarray(values, dtype=kind)


def table(size: int, function: Any) -> Array:
    angles = np.arange(16)[:, None] * (0.3 ** np.arange(size))[None]
    made: Array = function(angles).astype(np.float32)
    return made


COS, SIN = table(2, np.cos), table(2, np.sin)
TABLES = (table(8, np.cos), table(8, np.sin))
GRID = np.random.default_rng(2).uniform(-1.1, 1.1, size=(2, 3, 2, 2)).astype(np.float32)
BUFFER = ((2, 2, 8, 16),) * 2
CODES = np.random.default_rng(2).integers(0, 256, 50).astype(np.uint8)
SCALES = np.asarray([0.5, 2.0, 1.5, 0.1], dtype=np.float32)
BNB4 = {"N": 5, "K": 10, "block_size": 16, "quant_type": 1}
X, W, B = (2, 5, 8), (8, 24), (24,)
GQA = {"num_heads": 4, "kv_num_heads": 2}
Q, KV, ONE, PAST = (2, 5, 64), (2, 5, 32), ((2, 1, 64), (2, 1, 32), (2, 1, 32)), ((2, 2, 3, 16),) * 2
KEYS = ints(1, 1, 1, 0, 0, 1, 1, 1, 1, 0).reshape(2, 5)
OFFSETS = ints(
    3, 4, 0, 5, 10, 0, 5, 10
)  # lengths of two samples, then where each begins, of queries and of keys
LENGTHS = (ints(4, 4), ints(5).reshape(()))

ROWS = [
    Row("FusedConv", ((2, 3, 5, 5), (4, 3, 3, 3), (4,)), {"activation": "Relu", "pads": [1, 1, 1, 1]}),
    Row("FusedConv", ((2, 3, 5, 5), (4, 3, 3, 3), (4,), (2, 4, 3, 3)), {"activation": "Tanh"}),
    Row("FusedConv", ((2, 3, 5, 5), (4, 3, 3, 3)), {"activation": "LeakyRelu", "activation_params": [0.2]}),
    Row("FusedConv", ((2, 3, 5, 5), (4, 3, 3, 3)), {"activation": "Clip", "activation_params": [-2.0, 3.0]}),
    Row("FusedConv", ((2, 3, 5, 5), (4, 3, 3, 3)), {"activation": "HardSigmoid", "activation_params": [0.1, 0.4]}),
    Row("ConvTransposeWithDynamicPads", ((2, 3, 4, 4), (3, 4, 3, 3), ints(1, 0, 2, 1, kind=np.int64), (4,)),
        {"strides": [2, 2], "output_padding": [1, 0]}),
    Row("ConvTransposeWithDynamicPads", ((2, 4, 5), (4, 2, 3), ints(0, 2, kind=np.int64)),
        {"group": 2, "dilations": [2]}),
    Row("MatMulBnb4", ((2, 3, 10), CODES[:25], SCALES), BNB4),
    Row("MatMulBnb4", ((2, 10), CODES[25:], SCALES), {**BNB4, "quant_type": 0}),
    Row("FusedGemm", ((2, 3), (4, 3), (4,)), {"activation": "Sigmoid", "transB": 1, "alpha": 0.5}),
    Row("FusedGemm", ((2, 3), (3, 4), (4,)), {"activation": "LeakyRelu", "activation_alpha": 0.1}),
    Row("FusedMatMul", ((2, 3, 4), (2, 5, 3)), {"transA": 1, "transB": 1, "alpha": 0.3}),
    Row("FusedMatMul", ((3, 2, 4), (2, 4, 5)), {"transBatchA": 1}),
    Row("FusedMatMul", ((2, 3, 4), (5, 2, 4)), {"transBatchB": 1, "transB": 1}),
    Row("TransposeMatMul", ((3, 2), (3, 4)), {"transA": 1}),
    Row("FastGelu", ((2, 3), (3,))),
    Row("FastGelu", ((2, 3),)),
    Row("BiasGelu", ((2, 3), (3,))),
    Row("Gelu", ((2, 3),)),
    Row("QuickGelu", ((2, 3),), {"alpha": 1.5}),
    Row("Inverse", ((2, 3, 3),), deeplift=False),
    Row("CDist", ((3, 4), (2, 4)), {"metric": "sqeuclidean"}),
    Row("CDist", ((3, 4), (2, 4)), {"metric": "euclidean"}),
    Row("ExpandDims", ((2, 3), ints(1).reshape(()))),
    Row("GatherND", ((3, 4, 2), ints(0, 1, 2, 3).reshape(2, 2))),
    Row("Unique", ((5,),), outputs="zab", deeplift=False),
    Row("UnfoldTensor", ((2, 7, 3),), {"dim": 1, "size": 3, "step": 2}),
    Row("UnfoldTensor", ((2, 7),), {"size": 2}),
    Row("GridSample", ((2, 3, 4, 5), GRID), {"mode": "bilinear", "padding_mode": "border"}),
    Row("GridSample", ((2, 3, 4, 5), GRID), {"mode": "bicubic", "align_corners": 1}),
    Row("Trilu", ((2, 3, 4), ints(1, kind=np.int64).reshape(()))),
    Row("Pad", ((2, 3), ints(1, 0, 2, 1, kind=np.int64), np.asarray([2.0], dtype=np.float32))),
    Row("SkipLayerNormalization", ((2, 3, 6), (2, 3, 6), (6,), (6,), (6,)), {"epsilon": 1e-5}, "zmis", "zs"),
    Row("SkipLayerNormalization", ((2, 3, 6), (3, 6), (6,)), {"epsilon": 1e-5}),
    Row("SkipSimplifiedLayerNormalization", ((2, 3, 6), (2, 3, 6), (6,), (6,)), {"epsilon": 1e-5}, "zmis", "zs"),
    Row("SimplifiedLayerNormalization", ((2, 3, 6), (6,)), {"axis": -1, "epsilon": 1e-5}, domain=""),
    Row("RotaryEmbedding", ((2, 3, 5, 4), ints(3, kind=np.int64), COS, SIN)),
    Row("RotaryEmbedding", ((2, 5, 12), ints(*range(10), kind=np.int64).reshape(2, 5), COS, SIN)),
    Row("RotaryEmbedding", ((2, 5, 12), ints(0, kind=np.int64), COS, SIN), {"interleaved": 1}),
    Row("RotaryEmbedding", ((2, 5, 18), ints(0, kind=np.int64), COS, SIN),
        {"num_heads": 3, "rotary_embedding_dim": 4}),
    Row("Attention", (X, W, B), {"num_heads": 2}),
    Row("Attention", (X, W, B), {"num_heads": 2, "unidirectional": 1, "scale": 0.4}),
    Row("Attention", (X, W, B, KEYS), {"num_heads": 2}),
    Row("Attention", (X, W, B, ints(3, 4)), {"num_heads": 2}),
    Row("Attention", (X, W, B, ints(3, 4, 0, 1)), {"num_heads": 2}),
    Row("Attention", (X, W, B, (np.arange(50).reshape(2, 5, 5) % 3 != 1).astype(np.int32)), {"num_heads": 2}),
    Row("Attention", (X, W, B, None, (2, 2, 2, 3, 4)), {"num_heads": 2, "unidirectional": 1}, "zp", "zp"),
    Row("Attention", (X, W, B, None, None, (2, 2, 5, 5)), {"num_heads": 2}),
    Row("Attention", ((2, 5, 8), (8, 20), (20,)), {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]}),
    Row("Attention", (X, W, B, OFFSETS), {"num_heads": 2}),
    Row("Attention", (X, W, B, ints(3, 6), (2, 2, 2, 3, 4)), {"num_heads": 2}, "zp", "zp"),
    Row("Attention", (X, W, B, KEYS, None, (1, 1, 5, 5)), {"num_heads": 2, "mask_filter_value": -3.0}),
    Row("MultiHeadAttention", (X, (2, 6, 8), (2, 6, 8)), {"num_heads": 2}),
    Row("MultiHeadAttention", (X, (2, 6, 8), (2, 6, 8), (24,)), {"num_heads": 2}),
    Row("MultiHeadAttention", (X, X, X, None, KEYS), {"num_heads": 2}),
    Row("MultiHeadAttention", (X, X, X, None, ints(3, 5)), {"num_heads": 2}),
    Row("MultiHeadAttention", (X, X, X, None, None, (1, 2, 5, 5)), {"num_heads": 2, "unidirectional": 1}),
    Row("MultiHeadAttention", (X, (2, 2, 6, 4), (2, 2, 6, 4)), {"num_heads": 2}),
    Row("MultiHeadAttention", (X, X, X, None, None, None, (2, 2, 3, 4), (2, 2, 3, 4)), {"num_heads": 2}, "zkv", "zkv"),
    Row("MultiHeadAttention", (X, X, X, None, OFFSETS), {"num_heads": 2}),
    Row("MultiHeadAttention", (X, X, X, None, None, (2, 2, 5, 5)), {"num_heads": 2}, "zkvq", "zq"),
    Row("MultiHeadAttention", (*((2, 2, 8),) * 3, None, None, None, *((2, 2, 8, 4),) * 2, ints(3)), {"num_heads": 2},
        "zkv", "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS), GQA, "zkv"),
    Row("GroupQueryAttention", ((2, 5, 128), None, None, None, None, *LENGTHS), {**GQA, "scale": 0.3}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS, *TABLES), {**GQA, "do_rotary": 1}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS, *TABLES),
        {**GQA, "do_rotary": 1, "rotary_interleaved": 1, "softcap": 2.0}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS), {**GQA, "local_window_size": 2}, "zkv"),
    Row("GroupQueryAttention", (*ONE, *PAST, ints(3, 3), ints(4).reshape(()), *TABLES), {**GQA, "do_rotary": 1},
        "zkv", "zkv"),
    Row("GroupQueryAttention", (*ONE, *PAST, ints(2, 3), ints(4).reshape(())), GQA, "zkv", "zkv"),
    Row("GroupQueryAttention", (*ONE, *PAST, ints(2, 3), ints(4).reshape(())), {**GQA, "causal": 0}, "zkv"),
    Row("GroupQueryAttention", (*ONE, *BUFFER, ints(3, 3), ints(4).reshape(())), GQA, "zkv", "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, ints(2, 4), ints(5).reshape(()), *TABLES),
        {**GQA, "do_rotary": 1}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, ints(2, 4), ints(5).reshape(())), {**GQA, "causal": 0}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS, None, None, None, (1, 4, 5, 5), (4,)),
        {**GQA, "softcap": 2.0}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS), {**GQA, "smooth_softmax": 1}, "zkv"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS), {**GQA, "qk_output": 1, "local_window_size": 3},
        "zkvq", "zq"),
    Row("GroupQueryAttention", (Q, KV, KV, None, None, *LENGTHS), {**GQA, "qk_output": 2}, "zkvq", "zq"),
]  # fmt: skip


def model_of(row: Row) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model of one node and its inputs; constants are constants."""
    rng = np.random.default_rng(0)
    size = 0.4 if "Attention" in row.operator else 1.0  # softmax is steep
    names, given, constants, arrays = [], [], [], {}
    for k, x in enumerate(row.inputs):
        names.append("" if x is None else f"x{k}")
        if isinstance(x, np.ndarray):
            constants.append(onnx.numpy_helper.from_array(x, f"x{k}"))
        elif x is not None:
            given.append(helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, x))
            arrays[f"x{k}"] = (size * rng.normal(size=x)).astype(np.float32)
    node = helper.make_node(row.operator, names, list(row.outputs), domain=row.domain, **row.attributes)
    outputs = [
        helper.make_tensor_value_info(z, TensorProto.FLOAT, None) for z in row.outputs if z not in "miab"
    ]
    node.output[:] = [z if z not in "mi" else "" for z in row.outputs]
    graph = helper.make_graph([node], "net", given, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), arrays


def _depends(row: Row, target: str, name: str) -> bool:
    """Whether an output depends on an input: present keys on keys, the sum that is normalised not on its scale."""
    if row.operator.endswith("LayerNormalization") and target == "s":
        return name in ("x0", "x1", "x4" if row.operator.startswith("SkipLayer") else "x3")
    if target == "q":
        return name not in ("x2", "x4")
    if target in "kv":
        return name in {"k": ("x1", "x6", "x3"), "v": ("x2", "x7", "x4")}[target]
    return True


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_fused_operator_has_the_gradient_of_its_own_differences(row: Row) -> None:
    model, inputs = model_of(row)
    for target in row.targets:
        wrt = [name for name in inputs if _depends(row, target, name)]
        kinked = "Conv" in row.operator
        step, few = (1e-3, 4) if kinked else (1e-2, None)
        assert_slope(
            model, inputs, wrt, output=target, tolerance=5e-3, step=step, few=few
        )  # curvature over the step


@pytest.mark.parametrize("row", [row for row in ROWS if row.deeplift], ids=str)
def test_fused_operator_has_contributions_that_sum_to_its_change(row: Row) -> None:
    model, inputs = model_of(row)
    rng = np.random.default_rng(1)
    moved = {"x0": (inputs["x0"] + rng.normal(size=inputs["x0"].shape)).astype(np.float32)}
    z = Backend("cpu").run(model, inputs, [model.graph.output[0].name])[model.graph.output[0].name]
    total, change, size = contributions(model, inputs, moved, rng.normal(size=z.shape))
    assert abs(total - change) <= 1e-4 * size  # the kernel of the operator differs from those of its parts


KERNELS = {"FusedConv", "ConvTransposeWithDynamicPads"}


@pytest.mark.parametrize("row", [r for r in ROWS if r.deeplift and r.operator not in KERNELS], ids=str)
def test_contributions_sum_where_only_the_last_sizes_are_known(row: Row) -> None:
    model, inputs = model_of(row)
    for info in model.graph.input:
        sizes = list(info.type.tensor_type.shape.dim)
        for k, one in enumerate(sizes[:-1]):
            one.dim_param = f"{info.name}.{k}"
    rng = np.random.default_rng(1)
    moved = {"x0": (inputs["x0"] + rng.normal(size=inputs["x0"].shape)).astype(np.float32)}
    z = Backend("cpu").run(model, inputs, [model.graph.output[0].name])[model.graph.output[0].name]
    total, change, size = contributions(model, inputs, moved, rng.normal(size=z.shape))
    assert abs(total - change) <= 1e-4 * size


def test_a_kernel_of_unknown_size_is_refused_by_name() -> None:
    model, inputs = model_of(Row("FusedConv", ((2, 3, 5, 5), (4, 3, 3, 3)), {"activation": "Relu"}))
    for size, name in zip(model.graph.input[1].type.tensor_type.shape.dim, "mckl", strict=True):
        size.dim_param = name
    with pytest.raises(NotDifferentiable, match="the size of the kernel 'x1' of Conv"):
        gradients(model, inputs, ["x0"], np.ones((2, 4, 3, 3)))


PADS = ints(1, 1, kind=np.int64)
REFUSED = {
    "auto_pad=SAME_UPPER": Row("ConvTransposeWithDynamicPads", ((2, 3, 4), (3, 4, 3), PADS),
                               {"auto_pad": "SAME_UPPER"}),
    "transB=0": Row("MatMulBnb4", ((2, 5), CODES[:25], SCALES), {**BNB4, "transB": 0}),
    "sliding window cache": Row("GroupQueryAttention", (*ONE, *BUFFER, ints(3, 3), ints(4).reshape(())),
                                {**GQA, "local_window_size": 4, "sliding_window_cache": 1}, "zkv"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_form_without_a_rule_is_refused_by_name(form: str) -> None:
    model, inputs = model_of(REFUSED[form])
    z = Backend("cpu").run(model, inputs, ["z"])["z"]
    with pytest.raises(
        NotDifferentiable, match=f"no gradient rule for {REFUSED[form].operator} .* with {form}"
    ):
        gradients(model, inputs, ["x0"], np.ones_like(z))


def test_gradient_at_an_output_that_is_not_computed_is_refused_by_name() -> None:
    value = gs.Variable("x", np.dtype(np.float32), [2])
    outputs = tuple(gs.Variable(name, np.dtype(np.float32), [2]) for name in ("z", "mean"))
    node = NodeView("SkipLayerNormalization", "n", (value,), outputs, {}, (True,), 21, "com.microsoft")
    op = Emitter(gs.Graph(opset=21))
    parts = staged(op, node, lambda inner, view: [inner("Relu", view.input(0)), None])
    with pytest.raises(NotDifferentiable, match="no gradient rule for the output 'mean' of SkipLayerNorm"):
        parts.back(op, node, [None, value])


# --- operators that onnxruntime has on other devices only: what they are computed from, against numpy


def _normal(x: Array, groups: int) -> Array:
    """Normalised over the places and channels of each group; channels last."""
    n, h, w, c = x.shape
    folded = x.reshape(n, h * w, groups, c // groups)
    mean = folded.mean(axis=(1, 3), keepdims=True)
    made: Array = (folded - mean) / np.sqrt(folded.var(axis=(1, 3), keepdims=True) + 1e-5)
    return made.reshape(x.shape)


def _silu(x: Array) -> Array:
    made: Array = x / (1 + np.exp(-x))
    return made


def _gelu(x: Array) -> Array:
    made: Array = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return made


def _convolved(x: Array, w: Array, b: Array) -> Array:
    """Channels last, in the kernel `[M, kh, kw, C]` too."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], axis=(1, 2))
    made: Array = np.einsum("nhwckl,mklc->nhwm", windows, w) + b
    return made


ELSEWHERE: dict[str, tuple[tuple[tuple[int, ...], ...], dict[str, Any], Any]] = {
    "BiasAdd": (((2, 3, 4), (4,), (2, 3, 4)), {}, lambda x, b, s: x + b + s),
    "BiasSplitGelu": (((2, 3, 8), (8,)), {}, lambda x, b: (x + b)[..., :4] * _gelu((x + b)[..., 4:])),
    "GroupNorm": (((2, 3, 4, 6), (6,), (6,)), {"groups": 2, "activation": 1},
                  lambda x, s, b: _silu(_normal(x, 2) * s + b)),
    "SkipGroupNorm": (((2, 3, 4, 6), (6,), (6,), (2, 6)), {"groups": 3, "activation": 0},
                      lambda x, s, b, k: _normal(x + k[:, None, None], 3) * s + b),
    "NhwcConv": (((2, 5, 6, 3), (4, 3, 2, 3), (4,)), {}, _convolved),
    "FusedMatMulActivation": (((2, 3), (4, 3)), {"transB": 1, "alpha": 0.5, "activation": "Relu"},
                              lambda x, y: np.maximum(0.5 * x @ y.T, 0)),
}  # fmt: skip


@pytest.mark.parametrize("operator", ELSEWHERE)
def test_operator_of_other_devices_is_what_it_is_computed_from(operator: str) -> None:
    shapes, attributes, expected = ELSEWHERE[operator]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    values = [gs.Variable(f"x{k}", np.dtype(np.float32), list(a.shape)) for k, a in enumerate(arrays)]
    graph = gs.Graph(inputs=list(values), opset=21)
    rule = VJP["com.microsoft", operator]
    assert rule.forward is not None
    outputs = (gs.Variable("z", np.dtype(np.float32), [None] * len(shapes[0])),)
    node = NodeView(
        operator, "n", tuple(values), outputs, attributes, (True,) * len(values), 21, "com.microsoft"
    )
    made = rule.forward(Emitter(graph), node)
    graph.outputs = [made if isinstance(made, gs.Tensor) else made[0]]
    graph.outputs[0].dtype = np.dtype(np.float32)
    model = model_of_graph(graph)
    name = graph.outputs[0].name
    found: Array = Backend("cpu").run(model, {f"x{k}": a for k, a in enumerate(arrays)}, [name])[name]
    np.testing.assert_allclose(found, expected(*arrays), rtol=1e-4, atol=1e-5)
