"""Quantised operators, straight-through: integers stand for real numbers, and rounding has the derivative 1.

A quantised tensor `q` is read as the real number `x / scale + zero point` that was rounded; its cotangent is that of
this number, in float32. So QuantizeLinear has the derivative 1 / scale where it does not clip, DequantizeLinear has
`scale`, and what integer operators do in between has the derivative of the same arithmetic on real numbers.
DeepLIFT takes the secant of the rounding itself, so that it sums to the change of the file's own output.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_quantised, shape_of
from onnx_attribution.graph_tools.operators.decompose import composite
from onnx_attribution.graph_tools.operators.ends import quotient
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import rank_of

DOMAINS = ("", "com.microsoft")


def number(op: Emitter, value: Value) -> Value:
    """A quantised value as float32."""
    return op.cast(value, np.float32)


def along(op: Emitter, value: Value, x: Value, axis: int, block: int = 0) -> Value:
    """A scale or zero point as float32 that broadcasts to `x`: one for all, one per place of `axis` or per block."""
    value, rank, shape = number(op, value), rank_of(x), shape_of(value)
    if shape is None or len(shape) == 0 or shape == (1,) or rank == 1:
        return value
    axis %= rank
    if len(shape) == 1:
        made = op("Reshape", value, op.ints([-1 if k == axis else 1 for k in range(rank)]))
        made.shape = [shape[0] if k == axis else 1 for k in range(rank)]
        return made
    size = op("Squeeze", op.dims(x, axis, axis + 1), op.ints([0]))
    step = op.constant(np.int64(block))
    places = op("Div", op("Range", op.constant(np.int64(0)), size, op.constant(np.int64(1))), step)
    made = op("Gather", value, places, axis=axis)
    made.shape = x.shape
    return made


def dequantised(
    op: Emitter, x: Value, scale: Value, zero: Value | None, axis: int = 1, block: int = 0
) -> Value:
    """(x - zero point) * scale in float32."""
    shifted = number(op, x)
    if zero is not None:
        shifted = op("Sub", shifted, along(op, zero, x, axis, block))
    made = op("Mul", shifted, along(op, scale, x, axis, block))
    made.shape = x.shape
    return made


def _bounds(kind: np.dtype[Any]) -> tuple[float, float]:
    limits: Any = ml_dtypes.finfo if kind.name.startswith("float8") else ml_dtypes.iinfo
    info = limits(kind)
    return float(info.min), float(info.max)


def _quantised_type(node: NodeView) -> np.dtype[Any]:
    """What a QuantizeLinear makes: the type of its zero point, else its attribute, else uint8."""
    zero = node.optional(2)
    if zero is not None and is_quantised(zero):
        return element_type(zero)
    return element_type(gs.Variable("", dtype=node.attribute("output_dtype", 0) or np.dtype(np.uint8)))


def _inside(op: Emitter, node: NodeView) -> Value:
    """Where QuantizeLinear does not clip."""
    x, zero = node.input(0), node.optional(2)
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    real = op("Div", x, along(op, node.input(1), x, axis, block))
    if zero is not None:
        real = op("Add", real, along(op, zero, x, axis, block))
    low, high = _bounds(_quantised_type(node))
    return op(
        "And", op("GreaterOrEqual", real, op.like(real, low)), op("LessOrEqual", real, op.like(real, high))
    )


def _quantize(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, axis, block = node.input(0), node.attribute("axis", 1), node.attribute("block_size", 0)
    g = op("Where", _inside(op, node), g, op.like(g, 0))
    dx = op("Div", g, along(op, node.input(1), x, axis, block))
    if not any(node.active[1:]):
        return (dx,)
    scale = along(op, node.input(1), x, axis, block)
    by_scale = op("Neg", op("Mul", dx, op("Div", x, scale)))
    d_zero = g if node.optional(2) is None else _gathered(op, g, node.input(2), x, axis, block)
    return dx, _gathered(op, by_scale, node.input(1), x, axis, block), d_zero


def _dequantize(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, scale, zero = node.input(0), node.input(1), node.optional(2)
    axis, block = node.attribute("axis", 1), node.attribute("block_size", 0)
    dx = op("Mul", g, along(op, scale, x, axis, block))
    if not any(node.active[1:]):
        return (dx,)
    shifted = number(op, x)
    if zero is not None:
        shifted = op("Sub", shifted, along(op, zero, x, axis, block))
    d_scale = _gathered(op, op("Mul", g, shifted), scale, x, axis, block)
    return dx, d_scale, None if zero is None else _gathered(op, op("Neg", dx), zero, x, axis, block)


for _domain in DOMAINS:
    vjp("QuantizeLinear", straight_through=True, linear=[], domain=_domain)(_quantize)
    vjp("DequantizeLinear", linear=[{0, 2}, {1}], bilinear=True, domain=_domain)(_dequantize)


def _gathered(op: Emitter, gradient: Value, like: Value, x: Value, axis: int, block: int) -> Value:
    """A gradient in the shape of `x` summed over all that share one element of `like`, a scale or zero point."""
    rank, shape = rank_of(x), shape_of(like) or ()
    gradient.shape = x.shape
    if len(shape) == 1 and shape != (1,) and rank > 1:
        return op("ReduceSum", gradient, op.ints([k for k in range(rank) if k != axis % rank]), keepdims=0)
    if len(shape) <= 1:
        total = gradient if rank == 1 and shape != (1,) and shape else op("ReduceSum", gradient, keepdims=0)
        return total if total is gradient else op.reshape_like(total, like)
    axis %= rank
    count = op.dims(like, axis, axis + 1)
    missing = op("Sub", op("Mul", count, op.ints([block])), op.dims(x, axis, axis + 1))  # of the last block
    whole = op("Pad", gradient, op("Concat", op.ints([0]), missing, axis=0), None, op.ints([axis]))
    split = op("Concat", op.dims(x, 0, axis), count, op.ints([block]), op.dims(x, axis + 1), axis=0)
    return op("ReduceSum", op("Reshape", whole, split), op.ints([axis + 1]), keepdims=0)


@secant("QuantizeLinear", domain="com.microsoft")
@secant("QuantizeLinear")
def quantize_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Any difference counts, however small: it may be one that rounding makes large."""
    x, y = node.input(0), reference.input(0)
    d = op("Sub", x, y)
    close = op("Equal", d, op.like(d, 0))
    local = op(
        "Reciprocal", along(op, node.input(1), x, node.attribute("axis", 1), node.attribute("block_size", 0))
    )
    slope = quotient(op, op("Sub", node.z, reference.z), d, close, local)
    return (op("Mul", g, slope),)


# --- the scale is computed from the values


@vjp("DynamicQuantizeLinear", straight_through=True)
def dynamic_quantize(
    op: Emitter, node: NodeView, g: Value | None, g_scale: Value | None = None, *_: Value | None
) -> Gradients:
    """Scale and zero point count as constants: what they change is undone where they are used again.

    Where the scale is used without the values, it has its own derivative: that of (max(x, 0) - min(x, 0)) / 255.
    """
    if g is not None:
        return (op("Div", g, _float(node.outputs[1])),)
    x = node.input(0)
    if g_scale is None:
        return (op.zeros_like(x),)
    zero = op.like(x, 0)
    high = _share(op, x, op("Max", op("ReduceMax", x, keepdims=0), zero))
    low = _share(op, x, op("Min", op("ReduceMin", x, keepdims=0), zero))
    return (op("Mul", op("Sub", high, low), op("Mul", g_scale, op.like(x, 1 / 255))),)


def _share(op: Emitter, x: Value, extreme: Value) -> Value:
    """Who reaches the extreme shares it; at 0 nobody does."""
    hits = op.cast(op("Equal", x, extreme), x.dtype)
    hits = op("Where", op("Equal", extreme, op.like(x, 0)), op.like(x, 0), hits)
    return op("Div", hits, op("Max", op("ReduceSum", hits, keepdims=0), op.like(x, 1)))


def _float(value: Value | None) -> Value:
    assert value is not None
    return value


@secant("DynamicQuantizeLinear")
def dynamic_quantize_secant(
    op: Emitter, node: NodeView, reference: NodeView, *gradients: Value | None
) -> Gradients:
    """The gradient at the mean scale; the rest, which is rounding, in proportion to how far each element moves."""
    x, y = node.input(0), reference.input(0)
    parts = []
    for g, z, w in zip(gradients, node.outputs, reference.outputs, strict=False):
        if g is not None and z is not None and w is not None:
            parts.append(op("ReduceSum", op("Mul", g, op("Sub", z, w)), keepdims=0))
    change = parts[0] if len(parts) == 1 else op("Sum", *parts)
    d = op("Sub", x, y)
    straight = op.zeros_like(x)
    if gradients[0] is not None:
        scale = op("Mul", op("Add", _float(node.outputs[1]), _float(reference.outputs[1])), op.like(x, 0.5))
        straight = op("Div", gradients[0], scale)
    rest = op("Sub", change, op("ReduceSum", op("Mul", straight, d), keepdims=0))
    length = op("ReduceSum", op("Abs", d), keepdims=0)
    share = quotient(op, rest, length, op("Equal", length, op.like(length, 0)), op.like(length, 0))
    return (op("Add", straight, op("Mul", op("Sign", d), share)),)


def _dynamic(op: Emitter, x: Value) -> Value:
    """x rounded as DynamicQuantizeLinear does it."""
    q, scale, zero = op.multi("DynamicQuantizeLinear", 3, x)
    q.dtype = zero.dtype = np.dtype(np.uint8)
    q.shape, scale.shape, zero.shape = x.shape, [], []
    return dequantised(op, q, scale, zero)


# --- integer products


def _rows(op: Emitter, zero: Value) -> Value:
    """A scale or zero point of the left operand of a product: one number, or one a row."""
    value = number(op, zero)
    return (
        op("Unsqueeze", value, op.ints([1]))
        if shape_of(zero) not in ((), (1,), None) and len(shape_of(zero) or ()) == 1
        else value
    )


def _shifted(op: Emitter, x: Value, zero: Value | None) -> Value:
    return number(op, x) if zero is None else op("Sub", number(op, x), zero)


@composite("MatMulInteger", domain="")
def matmul_integer(op: Emitter, node: NodeView) -> Value:
    a_zero, b_zero = node.optional(2), node.optional(3)
    left = _shifted(op, node.input(0), a_zero and _rows(op, a_zero))
    return op("MatMul", left, _shifted(op, node.input(1), b_zero and number(op, b_zero)))


@composite("ConvInteger", domain="")
def conv_integer(op: Emitter, node: NodeView) -> Value:
    x, w, x_zero, w_zero = node.input(0), node.input(1), node.optional(2), node.optional(3)
    data = _shifted(op, x, x_zero and number(op, x_zero))
    data.shape = x.shape
    weight = _shifted(op, w, w_zero and along(op, w_zero, w, 0))
    weight.shape = w.shape
    return op("Conv", data, weight, **node.attributes)


@composite("MatMulIntegerToFloat")
def matmul_integer_to_float(op: Emitter, node: NodeView) -> Value:
    a_scale, b_scale, a_zero, b_zero = node.input(2), node.input(3), node.optional(4), node.optional(5)
    left = op("Mul", _shifted(op, node.input(0), a_zero and _rows(op, a_zero)), _rows(op, a_scale))
    right = op("Mul", _shifted(op, node.input(1), b_zero and number(op, b_zero)), number(op, b_scale))
    return _biased(op, op("MatMul", left, right), node.optional(6))


@composite("DynamicQuantizeMatMul", straight_through=True)
def dynamic_quantize_matmul(op: Emitter, node: NodeView) -> Value:
    zero = node.optional(3)
    weight = op("Mul", _shifted(op, node.input(1), zero and number(op, zero)), number(op, node.input(2)))
    return _biased(op, op("MatMul", _dynamic(op, node.input(0)), weight), node.optional(4))


def _biased(op: Emitter, value: Value, bias: Value | None) -> Value:
    return value if bias is None else op("Add", value, bias)


# --- QLinear*: dequantise, calculate, quantise


def _quantised(op: Emitter, value: Value, scale: Value, zero: Value | None) -> Value:
    made = op("QuantizeLinear", value, op.cast(scale, np.float32), zero)
    made.dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    return made


def _operand(op: Emitter, node: NodeView, at: int, axis: int = 1) -> Value:
    """The inputs `at`, `at + 1`, `at + 2`, which are a value, its scale and its zero point, as one real number."""
    return dequantised(op, node.input(at), node.input(at + 1), node.optional(at + 2), axis)


def _result(op: Emitter, node: NodeView, value: Value, at: int) -> Value:
    return _quantised(op, value, node.input(at), node.optional(at + 1))


@composite("QLinearConv", domain="", straight_through=True)
def qlinear_conv(op: Emitter, node: NodeView) -> Value:
    bias = node.optional(8)
    if bias is not None:
        bias = op("Mul", number(op, bias), op("Mul", node.input(1), node.input(4)))
        bias.shape = node.input(8).shape
    made = op("Conv", _operand(op, node, 0), _operand(op, node, 3, axis=0), bias, **node.attributes)
    return _result(op, node, made, 6)


def _qlinear_matmul(op: Emitter, node: NodeView) -> Value:
    a, a_scale, a_zero = node.input(0), node.input(1), node.optional(2)
    left = op("Mul", _shifted(op, a, a_zero and _rows(op, a_zero)), _rows(op, a_scale))
    b_zero = node.optional(5)
    right = op("Mul", _shifted(op, node.input(3), b_zero and number(op, b_zero)), number(op, node.input(4)))
    return _result(op, node, op("MatMul", left, right), 6)


composite("QLinearMatMul", domain="", straight_through=True)(_qlinear_matmul)


@composite("QLinearAdd", "QLinearMul", straight_through=True)
def qlinear_binary(op: Emitter, node: NodeView) -> Value:
    made = op(node.operator.removeprefix("QLinear"), _operand(op, node, 0), _operand(op, node, 3))
    return _result(op, node, made, 6)


@composite("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", straight_through=True)
def qlinear_unary(op: Emitter, node: NodeView) -> Value:
    attributes = {k: v for k, v in node.attributes.items() if k in ("alpha", "axis")}
    made = op(node.operator.removeprefix("QLinear"), _operand(op, node, 0), **attributes)
    return _result(op, node, made, 3)


@composite("QLinearGlobalAveragePool", "QLinearAveragePool", straight_through=True)
def qlinear_pool(op: Emitter, node: NodeView) -> Value:
    x = _operand(op, node, 0)
    last = bool(node.attribute("channels_last", 0))
    rank = rank_of(x)
    attributes = {k: v for k, v in node.attributes.items() if k not in ("channels_last", "channels")}
    made = op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]) if last else x
    made = op(node.operator.removeprefix("QLinear"), made, **attributes)
    made = op("Transpose", made, perm=[0, *range(2, rank), 1]) if last else made
    return _result(op, node, made, 3)


@composite("QLinearConcat", straight_through=True)
def qlinear_concat(op: Emitter, node: NodeView) -> Value:
    parts = [_operand(op, node, at) for at in range(2, len(node.inputs), 3)]
    return _result(op, node, op("Concat", *parts, axis=node.attribute("axis")), 0)


@composite("QLinearWhere", straight_through=True)
def qlinear_where(op: Emitter, node: NodeView) -> Value:
    made = op("Where", node.input(0), _operand(op, node, 1), _operand(op, node, 4))
    return _result(op, node, made, 7)


@composite("QGemm", straight_through=True)
def qgemm(op: Emitter, node: NodeView) -> Value:
    """C is int32 in units of alpha times both scales; without a scale of the result, it is float."""
    alpha, scale = node.attribute("alpha", 1.0), op("Mul", node.input(1), node.input(4))
    flip = node.attribute("transB", 0)
    right = _operand(op, node, 3, axis=0 if flip else 1)
    made = op(
        "Gemm", _operand(op, node, 0), right, alpha=alpha, transA=node.attribute("transA", 0), transB=flip
    )
    if (c := node.optional(6)) is not None:
        made = op("Add", made, op("Mul", number(op, c), op("Mul", scale, op.like(scale, alpha))))
    return made if node.optional(7) is None else _result(op, node, made, 7)


# --- packed weights


@composite("MatMulNBits")
def matmul_nbits(op: Emitter, node: NodeView) -> Value:
    """The weights lie packed in rows of bytes, the lowest bits first; without zero points, half the range is 0."""
    bits, k, n, block = (node.attribute(name) for name in ("bits", "K", "N", "block_size"))
    bits = bits or 4
    if node.optional(4) is not None:
        raise NotDifferentiable(
            f"no gradient rule for MatMulNBits (node {node.name!r}) with groups in another order",
            reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=node.z.name,
        )  # fmt: skip
    count = -(-k // block)
    scale, zero = node.input(2), node.optional(3)
    weight = op("Reshape", number(op, unpacked(op, node.input(1), bits)), op.ints([n, count, -1]))
    weight = op("Slice", weight, op.ints([0]), op.ints([block]), op.ints([2]))
    if zero is None:
        offset: Value = op.constant(np.float32(2 ** (bits - 1)))
    elif is_quantised(zero):
        rows = op("Reshape", number(op, unpacked(op, zero, bits)), op.ints([n, -1]))
        offset = op("Slice", rows, op.ints([0]), op.ints([count]), op.ints([1]))
        offset = op("Unsqueeze", offset, op.ints([2]))
    else:
        offset = op("Reshape", number(op, zero), op.ints([n, count, 1]))
    scaled = op("Mul", op("Sub", weight, offset), op("Reshape", number(op, scale), op.ints([n, count, 1])))
    flat = op("Slice", op("Reshape", scaled, op.ints([n, -1])), op.ints([0]), op.ints([k]), op.ints([1]))
    return _biased(op, op("MatMul", node.input(0), op("Transpose", flat, perm=[1, 0])), node.optional(5))


def unpacked(op: Emitter, packed: Value, bits: int) -> Value:
    """Bytes as their parts of `bits` bits along the last axis, which grows."""
    if bits == 8:
        return packed
    mask = op.constant(np.uint8(2**bits - 1))
    shifts = [op.constant(np.uint8(s)) for s in range(0, 8, bits)]
    parts = [op("BitwiseAnd", op("BitShift", packed, s, direction="RIGHT"), mask) for s in shifts]
    rank = rank_of(packed)
    stacked = op("Concat", *(op("Unsqueeze", part, op.ints([rank])) for part in parts), axis=rank)
    return op("Reshape", stacked, op("Concat", op.dims(packed, 0, rank - 1), op.ints([-1]), axis=0))
