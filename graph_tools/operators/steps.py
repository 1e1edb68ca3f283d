"""Operators that stop every gradient, with the reason; the secants of those that step: rounding, comparisons, logic.

A truth value counts as 0 or 1. A comparison of x and y is a step of x - y; and, or, xor are products. A step takes its
own secant, whatever its size: what it jumps by is credited to what made it jump.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.ends import ratio
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, zero

zero(
    "depends on the shape or the type of its input only",
    "ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size",
)  # fmt: skip
zero("has no input that a gradient could reach", "Constant", "RandomNormal", "RandomUniform")
zero("draws at random", "Bernoulli", "Multinomial")
zero(
    "compares: its output is true or false",
    "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", elementwise=True,
)  # fmt: skip
zero("works on true and false", "And", "Not", "Or", "Xor", elementwise=True)
zero(
    "works on the bits of integers",
    "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", unfollowed=True,
)  # fmt: skip
zero("its output is a position", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", unfollowed=True)
zero("is constant between jumps", "Ceil", "Floor", "Round", "Sign", elementwise=True)
zero("is constant between jumps", "Hardmax", unfollowed=True)
zero("makes a table from sizes", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range")
zero("takes or gives text", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit")
zero("takes or gives text", "TfIdfVectorizer", unfollowed=True)
zero("reads a file", "ImageDecoder")


@secant("Round", "Floor", "Ceil", "Sign", "Not", "IsNaN", "IsInf")
def jump(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """What is no number counts as 0."""
    x, y = node.input(0), reference.input(0)
    if node.operator == "IsNaN":
        x, y = (op("Where", op("IsNaN", v), op.like(v, 0), v) for v in (x, y))
    d = op("Sub", x, y)
    change = op("Sub", op.cast(node.z, d.dtype), op.cast(reference.z, d.dtype))
    return (op("Mul", op.cast(g, d.dtype), ratio(op, change, d)),)


@secant("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def compare(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """A step of the difference of the two."""
    kind = g.dtype
    x, y, x0, y0 = (
        op.cast(v, kind) for v in (node.input(0), node.input(1), reference.input(0), reference.input(1))
    )
    d = op("Sub", op("Sub", x, y), op("Sub", x0, y0))
    slope = op("Mul", g, ratio(op, op("Sub", node.z, reference.z), d))
    return slope, op("Neg", slope)


def _logic(operator: str, slope: Callable[[Emitter, Value], Value]) -> None:
    """Registers a product of two truth values; `slope(op, other)` is what one of them does, the other halfway."""

    def rule(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
        middle = [
            op("Mul", op("Add", op.cast(node.input(k), g.dtype), op.cast(reference.input(k), g.dtype)), op.like(g, 0.5))
            for k in (0, 1)
        ]  # fmt: skip
        return op("Mul", g, slope(op, middle[1])), op("Mul", g, slope(op, middle[0]))

    secant(operator)(rule)


_logic("And", lambda op, other: other)  # x y
_logic("Or", lambda op, other: op("Sub", op.like(other, 1), other))  # x + y - x y
_logic("Xor", lambda op, other: op("Sub", op.like(other, 1), op("Add", other, other)))  # x + y - 2 x y
