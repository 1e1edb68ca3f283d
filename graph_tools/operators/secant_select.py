"""Secants of choices and steps: Where, comparisons, logic, rounding, casts, Max and Min of many, Clip.

A truth value counts as 0 or 1. A comparison of x and y is a step of x - y; Where is the product c x + (1 - c) y with
its midpoints, so that the change of a condition is shared between it and the branches; and, or, xor are products too.
A step takes its own secant, whatever its size: what it jumps by is credited to what made it jump.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.operators.lost import WITHOUT_SECANT
from onnx_attribution.graph_tools.operators.quotients import quotient, times
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, Rule
from onnx_attribution.graph_tools.operators.secant import MANY, SECANT, STEPS, UNFOLLOWED, secant

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)


def _nothing(op: Emitter, node: NodeView, *g: Value | None) -> Gradients:
    return [None] * len(node.inputs)


def step(*operators: str) -> None:
    """Lists operators that have a secant, but no derivative."""
    for operator in operators:
        STEPS["", operator] = Rule(_nothing, elementwise=True, sparse=True)


def unfollowed(*operators: str) -> None:
    """Lists operators that have neither: where their output changes, DeepLIFT refuses."""
    for operator in operators:
        UNFOLLOWED["", operator] = Rule(_nothing, sparse=True)
        SECANT[operator] = lambda op, node, reference, *g: _nothing(op, node, *g)
        WITHOUT_SECANT[operator] = (0,)


unfollowed("ArgMax", "ArgMin", "Hardmax", "NonMaxSuppression", "NonZero", "TfIdfVectorizer")
unfollowed("BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")


def _ratio(op: Emitter, change: Value, d: Value, local: Value | None = None) -> Value:
    """change / d, and `local` (default: 0) where d is 0 or no number."""
    flat = op("Or", op("Equal", d, op.like(d, 0)), op("IsNaN", d))
    return quotient(op, change, d, flat, op.like(d, 0) if local is None else local)


# --- one input

step("Round", "Floor", "Ceil", "Sign", "Not", "IsNaN", "IsInf")


@secant("Round", "Floor", "Ceil", "Sign", "Not", "IsNaN", "IsInf")
def jump(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """What is no number counts as 0."""
    x, y = node.input(0), reference.input(0)
    if node.operator == "IsNaN":
        x, y = (op("Where", op("IsNaN", v), op.like(v, 0), v) for v in (x, y))
    d = op("Sub", x, y)
    change = op("Sub", op.cast(node.z, d.dtype), op.cast(reference.z, d.dtype))
    return (op("Mul", op.cast(g, d.dtype), _ratio(op, change, d)),)


@secant("ThresholdedRelu", "Shrink")
def sloped_jump(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """A jump between slopes: where x = x' its gradient."""
    d = op("Sub", node.input(0), reference.input(0))
    (local,) = VJP["", node.operator].vjp(op, node, op("Expand", op.like(d, 1), op.shape(node.z)))
    return (op("Mul", g, _ratio(op, op("Sub", node.z, reference.z), d, local)),)


@secant("Cast", "CastLike")
def cast(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Between floats the identity; to integers or truth values a step."""
    to = node.attribute("to")
    if node.operator == "CastLike":
        return (g if is_float(node.input(1)) else jump(op, node, reference, g)[0]), None
    return (g,) if to in FLOATS else jump(op, node, reference, g)


# --- two inputs

step("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor")


@secant("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def compare(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """A step of the difference of the two."""
    kind = g.dtype
    x, y, x0, y0 = (
        op.cast(v, kind) for v in (node.input(0), node.input(1), reference.input(0), reference.input(1))
    )
    d = op("Sub", op("Sub", x, y), op("Sub", x0, y0))
    slope = op("Mul", g, _ratio(op, op("Sub", node.z, reference.z), d))
    return slope, op("Neg", slope)


def _logic(
    slope: Callable[[Emitter, Value], Value],
) -> Callable[[Emitter, NodeView, NodeView, Value], Gradients]:
    def rule(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
        middle = [
            op("Mul", op("Add", op.cast(node.input(k), g.dtype), op.cast(reference.input(k), g.dtype)), op.like(g, 0.5))
            for k in (0, 1)
        ]  # fmt: skip
        return op("Mul", g, slope(op, middle[1])), op("Mul", g, slope(op, middle[0]))

    return rule


SECANT["And"] = _logic(lambda op, other: other)  # x y
SECANT["Or"] = _logic(lambda op, other: op("Sub", op.like(other, 1), other))  # x + y - x y
SECANT["Xor"] = _logic(
    lambda op, other: op("Sub", op.like(other, 1), op("Add", other, other))
)  # x + y - 2 x y


@secant("Where")
def where(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """With c halfway between its two values, c g to x, (1 - c) g to y, and x - y, halfway, times g to c.

    A branch that is no number at x or at x', as a guarded division by 0, counts as it is where it is chosen, and all of
    the change is the condition's.
    """
    nothing = op.like(g, 0)
    if not node.active[0]:
        c = node.input(0)
        return None, op("Where", c, g, nothing), op("Where", c, nothing, g)
    kind, half = g.dtype, op.like(g, 0.5)
    now, before = node.input(0), reference.input(0)
    c = op("Mul", op("Add", now, before), half)
    x, x_broken = _branch(op, node, reference, 1, kind)
    y, y_broken = _branch(op, node, reference, 2, kind)
    change = op("Sub", node.z, reference.z)
    plain = op("Mul", op("Sub", x, y), op("Sub", now, before))
    broken = op("Or", x_broken, y_broken)
    given = op("Where", broken, change, plain)
    by_condition = times(op, g, _ratio(op, given, op("Sub", now, before)))
    unmoved = op("Equal", now, before)
    lost = op("And", broken, op("Not", unmoved))
    share = op("Where", lost, nothing, g)
    return by_condition, op("Mul", share, c), op("Mul", share, op("Sub", op.like(c, 1), c))


def _branch(
    op: Emitter, node: NodeView, reference: NodeView, index: int, kind: object
) -> tuple[Value, Value]:
    """The mean of a branch at x and at x', and where that is no number."""
    total = op("Add", op.cast(node.input(index), kind), op.cast(reference.input(index), kind))
    mean = op("Mul", total, op.like(total, 0.5))
    finite = op("Equal", op("Sub", mean, mean), op.like(mean, 0))
    return op("Where", finite, mean, op.like(mean, 0)), op("Not", finite)


# --- many inputs


def extreme(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Max and Min of many: cross-max, ties share. An input that does not move has the mean gradient."""
    z, w = (view.again(op, *view.inputs) for view in (node, reference))  # the outputs may be rounded
    c = op(node.operator, z, w)
    ends = []
    for view, of in ((node, z), (reference, w)):
        hits = [op.cast(op("Equal", view.input(k), of), g.dtype) for k in range(len(view.inputs))]
        ends.append((hits, op("Sum", *hits)))
    (hits_x, count_x), (hits_y, count_y) = ends
    to_x = op("Div", op("Mul", g, op("Sub", c, w)), count_x)
    to_y = op("Div", op("Mul", g, op("Sub", z, c)), count_y)
    results: list[Value | None] = []
    for k, active in enumerate(node.active):
        if not active:
            results.append(None)
            continue
        d = op("Sub", node.input(k), reference.input(k))
        given = op("Add", op("Mul", to_x, hits_x[k]), op("Mul", to_y, hits_y[k]))
        ends_k = op("Add", op("Div", hits_x[k], count_x), op("Div", hits_y[k], count_y))
        results.append(_ratio(op, given, d, op("Mul", op("Mul", g, ends_k), op.like(g, 0.5))))
    return results


MANY.update({"Max": extreme, "Min": extreme})
