"""Operators that onnxruntime's optimiser makes (com.microsoft), each by the standard operators that it fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.decompose import composite
from onnx_attribution.graph_tools.operators.quantised import number, unpacked
from onnx_attribution.graph_tools.operators.registry import NodeView, zero
from onnx_attribution.graph_tools.operators.sampling import MODES
from onnx_attribution.graph_tools.operators.transpose import rank_of

CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
POSITIVE_FP4 = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
FP4 = (*POSITIVE_FP4, *(-x for x in POSITIVE_FP4))
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The numbers that bitsandbytes' codes stand for; NF4 after arXiv:2305.14314, appendix E."""
SIMPLE = frozenset({"Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"})


def biased(op: Emitter, value: Value, *added: Value | None) -> Value:
    """The sum of the value and what is there of the others."""
    for other in added:
        if other is not None:
            value = op("Add", value, other)
    return value


def _only(node: NodeView, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in node.attributes.items() if name in names}


def unknown(node: NodeView, what: str) -> NotDifferentiable:
    """The error of a node whose rule does not know this form of it."""
    return NotDifferentiable(
        f"no gradient rule for {node.operator} (node {node.name!r}) with {what}",
        reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=node.z.name,
    )  # fmt: skip


def refuse(node: NodeView, **given: object) -> None:
    """Refuses a node that is given any of these.

    Raises:
        NotDifferentiable: it is; the words say what.
    """
    if found := [what.replace("_", " ") for what, is_given in given.items() if is_given]:
        raise unknown(node, ", ".join(found))


def activated(op: Emitter, node: NodeView, value: Value, parameters: Mapping[str, Any]) -> Value:
    """The activation that the attribute of the node names; none where it is absent."""
    kind = node.attribute("activation", "")
    kind = kind.decode() if isinstance(kind, bytes) else kind
    if not kind:
        return value
    if kind in SIMPLE:
        return op(kind, value)
    if kind in ("LeakyRelu", "Elu", "ThresholdedRelu", "HardSigmoid", "Selu"):
        names = ("alpha", "gamma" if kind == "Selu" else "beta")
        given = {
            n: v for n, v in parameters.items() if n in names[: 2 if kind in ("HardSigmoid", "Selu") else 1]
        }
        return op(kind, value, **given)
    if kind == "Clip":
        return op("Clip", value, op.like(value, parameters["alpha"]), op.like(value, parameters["beta"]))
    if kind == "HardSwish":
        return op("HardSwish", value)
    raise unknown(node, f"the activation {kind!r}")


def _parameters(node: NodeView) -> dict[str, Any]:
    listed = node.attribute("activation_params", [])
    named = {n: node.attributes.get(f"activation_{n}") for n in ("alpha", "beta", "gamma")}
    return {
        **dict(zip(("alpha", "beta"), listed, strict=False)),
        **{n: v for n, v in named.items() if v is not None},
    }


# --- convolutions and products


@composite("FusedConv")
def fused_conv(op: Emitter, node: NodeView) -> Value:
    made = op("Conv", node.input(0), node.input(1), node.optional(2), **_only(node, CONVOLUTION))
    return activated(op, node, biased(op, made, node.optional(3)), _parameters(node))


@composite("NhwcConv")
def nhwc_conv(op: Emitter, node: NodeView) -> Value:
    """Channels last, in the kernel too, as onnxruntime's own fusion makes it."""
    rank = rank_of(node.input(0))
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    x = op("Transpose", node.input(0), perm=first)
    kernel = op("Transpose", node.input(1), perm=first)
    made = op("Conv", x, kernel, node.optional(2), **_only(node, CONVOLUTION))
    return op("Transpose", made, perm=last)


@composite("ConvTransposeWithDynamicPads")
def conv_transpose_with_dynamic_pads(op: Emitter, node: NodeView) -> Value:
    """The pads are an input, `[begins, ends]`: what they name is cut off the result without pads."""
    if (auto := node.attribute("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
        raise unknown(node, f"auto_pad={auto}")  # onnxruntime 1.31 then expects another shape than it makes
    attributes = _only(node, ("dilations", "group", "kernel_shape", "output_padding", "strides"))
    made = op("ConvTranspose", node.input(0), node.input(1), node.optional(3), **attributes)
    begins, ends = op.multi("Split", 2, node.input(2), axis=0, num_outputs=2)
    axes = op.ints(range(2, rank_of(node.input(0))))
    return op("Slice", made, begins, op("Sub", op("Shape", made, start=2), ends), axes)


@composite("FusedGemm")
def fused_gemm(op: Emitter, node: NodeView) -> Value:
    made = op("Gemm", *node.inputs, **_only(node, ("alpha", "beta", "transA", "transB")))
    return activated(op, node, made, _parameters(node))


@composite("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
def fused_matmul(op: Emitter, node: NodeView) -> Value:
    left = _turned(op, node.input(0), node.attribute("transBatchA", 0), node.attribute("transA", 0))
    right = _turned(op, node.input(1), node.attribute("transBatchB", 0), node.attribute("transB", 0))
    made = op("MatMul", left, right)
    if (alpha := node.attribute("alpha", 1.0)) != 1.0:
        made = op("Mul", made, op.like(made, alpha))
    return activated(op, node, made, _parameters(node))


def _turned(op: Emitter, value: Value, batch: int, last: int) -> Value:
    """`batch` moves the first axis to the last but one place, then `last` exchanges the last two."""
    rank = rank_of(value)
    perm = list(range(rank))
    if batch and rank > 2:
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if last and rank > 1:
        perm = [*perm[:-2], perm[-1], perm[-2]]
    return value if perm == list(range(rank)) else op("Transpose", value, perm=perm)


@composite("GemmFastGelu")
def gemm_fast_gelu(op: Emitter, node: NodeView) -> Value:
    made = biased(op, op("MatMul", node.input(0), node.input(1)), node.optional(2))
    return op("Gelu", made, approximate="tanh")


@composite("MatMulBnb4")
def matmul_bnb4(op: Emitter, node: NodeView) -> Value:
    """The weights `[N, K]` are codes of four bits, the first of a byte in its high bits, each block with its scale."""
    if not node.attribute("transB", 1):  # onnxruntime 1.31 then reads the weights out of order
        raise unknown(node, "transB=0")
    n, k, block = (node.attribute(name) for name in ("N", "K", "block_size"))
    pairs = op("Reshape", unpacked(op, node.input(1), 4), op.ints([-1, 2]))
    codes = op("Reshape", op("Gather", pairs, op.ints([1, 0]), axis=1), op.ints([-1]))
    scales = op("Expand", op("Unsqueeze", number(op, node.input(2)), op.ints([1])), op.ints([1, block]))
    weight, scale = (
        op("Slice", op("Reshape", flat, op.ints([-1])), op.ints([0]), op.ints([n * k]), op.ints([0]))
        for flat in (codes, scales)
    )
    values = op.constant(np.asarray(NF4 if node.attribute("quant_type") else FP4, dtype=np.float32))
    weight = op("Mul", op("Gather", values, op.cast(weight, np.int64), axis=0), scale)
    weight = op("Reshape", weight, op.ints([n, k]))
    return op("MatMul", node.input(0), op("Transpose", weight, perm=[1, 0]))


# --- elementwise


@composite("FastGelu")
def fast_gelu(op: Emitter, node: NodeView) -> Value:
    return op("Gelu", biased(op, node.input(0), node.optional(1)), approximate="tanh")


@composite("BiasGelu")
def bias_gelu(op: Emitter, node: NodeView) -> Value:
    return op("Gelu", op("Add", node.input(0), node.input(1)))


@composite("BiasAdd")
def bias_add(op: Emitter, node: NodeView) -> Value:
    return op("Add", op("Add", node.input(0), node.input(1)), node.input(2))


@composite("BiasSplitGelu")
def bias_split_gelu(op: Emitter, node: NodeView) -> Value:
    left, right = op.multi("Split", 2, op("Add", node.input(0), node.input(1)), axis=-1, num_outputs=2)
    return op("Mul", left, op("Gelu", right))


@composite("CDist")
def cdist(op: Emitter, node: NodeView) -> Value:
    d = op("Sub", op("Unsqueeze", node.input(0), op.ints([1])), op("Unsqueeze", node.input(1), op.ints([0])))
    squared = op("ReduceSum", op("Mul", d, d), op.ints([2]), keepdims=0)
    metric = node.attribute("metric", "sqeuclidean")
    return squared if metric in ("sqeuclidean", b"sqeuclidean") else op("Sqrt", squared)


# --- movement


@composite("ExpandDims")
def expand_dims(op: Emitter, node: NodeView) -> Value:
    return op("Unsqueeze", node.input(0), op.cast(op("Reshape", node.input(1), op.ints([1])), np.int64))


@composite("Trilu")
def trilu(op: Emitter, node: NodeView) -> Value:
    return op("Trilu", node.input(0), node.optional(1), upper=node.attribute("upper", 1))


@composite("Pad")
def pad(op: Emitter, node: NodeView) -> Value:
    pads = op("Reshape", node.input(1), op.ints([-1]))
    return op("Pad", node.input(0), pads, node.optional(2), mode=node.attribute("mode", "constant"))


@composite("GatherND")
def gather_nd(op: Emitter, node: NodeView) -> Value:
    return op("GatherND", node.input(0), op.cast(node.input(1), np.int64))


@composite("Unique")
def unique(op: Emitter, node: NodeView) -> list[Value | None]:
    """The values in the order in which they come."""
    return [op("Unique", node.input(0), sorted=0), None, None]


@composite("UnfoldTensor")
def unfold_tensor(op: Emitter, node: NodeView) -> Value:
    """Every slice of `size` elements along an axis, `step` apart, on a new last axis."""
    x, size, step = node.input(0), node.attribute("size"), node.attribute("step", 1)
    rank = rank_of(x)
    axis = node.attribute("dim", -1) % rank
    last = op("Sub", op("Squeeze", op.dims(x, axis, axis + 1), op.ints([0])), op.constant(np.int64(size - 1)))
    starts = op("Range", op.constant(np.int64(0)), last, op.constant(np.int64(step)))
    places = op("Add", op("Unsqueeze", starts, op.ints([1])), op.ints(range(size)))
    others = [k for k in range(rank + 1) if k != axis + 1]
    return op("Transpose", op("Gather", x, places, axis=axis), perm=[*others, axis + 1])


@composite("GridSample")
def grid_sample(op: Emitter, node: NodeView) -> Value:
    mode = node.attribute("mode", "bilinear")
    attributes = _only(node, ("align_corners", "padding_mode"))
    return op("GridSample", node.input(0), node.input(1), mode=MODES.get(mode, mode), **attributes)


# --- normalisations


@composite("SkipLayerNormalization")
def skip_layer_normalization(op: Emitter, node: NodeView) -> list[Value | None]:
    """Outputs: normalised, mean, inverse deviation (training only), and the sum that was normalised."""
    total = biased(op, node.input(0), node.input(1), node.optional(4))
    epsilon = node.attribute("epsilon", 1e-12)
    made = op("LayerNormalization", total, node.input(2), node.optional(3), axis=-1, epsilon=epsilon)
    return [made, None, None, op("Identity", total)]


@composite("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(op: Emitter, node: NodeView) -> list[Value | None]:
    total = biased(op, node.input(0), node.input(1), node.optional(3))
    squared = op("ReduceMean", op("Mul", total, total), op.ints([-1]), keepdims=1)
    deviation = op("Sqrt", op("Add", squared, op.like(squared, node.attribute("epsilon", 1e-12))))
    made = op("Mul", op("Div", total, deviation), node.input(2))
    return [made, None, None, op("Identity", total)]


def _group_norm(op: Emitter, node: NodeView, x: Value) -> Value:
    """Channels last unless the node says no; scale and bias are one number a channel."""
    rank = rank_of(node.input(0))
    last = bool(node.attribute("channels_last", 1))
    made = op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]) if last else x
    groups, epsilon = node.attribute("groups"), node.attribute("epsilon", 1e-5)
    sizes = op("Shape", made)
    folded = op("Reshape", made, op.ints([0, groups, -1]))
    center = op("Sub", folded, op("ReduceMean", folded, op.ints([2]), keepdims=1))
    variance = op("ReduceMean", op("Mul", center, center), op.ints([2]), keepdims=1)
    scaled = op("Div", center, op("Sqrt", op("Add", variance, op.like(variance, epsilon))))
    wide = op.ints([1, -1] + [1] * (rank - 2))
    made = op("Mul", op("Reshape", scaled, sizes), op("Reshape", op.cast(node.input(1), x.dtype), wide))
    made = op("Add", made, op("Reshape", op.cast(node.input(2), x.dtype), wide))
    made = op("Transpose", made, perm=[0, *range(2, rank), 1]) if last else made
    return op("Mul", made, op("Sigmoid", made)) if node.attribute("activation", 0) else made


@composite("GroupNorm")
def group_norm(op: Emitter, node: NodeView) -> Value:
    return _group_norm(op, node, node.input(0))


@composite("SkipGroupNorm")
def skip_group_norm(op: Emitter, node: NodeView) -> list[Value]:
    skip, rank = node.input(3), rank_of(node.input(0))
    if rank_of(skip) == 2:
        skip = op("Unsqueeze", skip, op.ints(range(1, rank - 1)))
    total = biased(op, node.input(0), skip, node.optional(4))
    return [_group_norm(op, node, total), op("Identity", total)]


# --- what has no derivative

zero("searches: its output is tokens", "BeamSearch", "GreedySearch", "Sampling", domain="com.microsoft")
