"""Choices: Where, Max, Min, Clip.

Where is the product c x + (1 - c) y with its midpoints, so that the change of a condition, 0 or 1, is shared between it
and the branches.
"""

from __future__ import annotations

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.ends import ratio, shapley, share_of_way, slope_of_one, times
from onnx_attribution.graph_tools.operators.gates import above, below, fits, of_relu6
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import number_of

RELU6 = (0.0, 6.0)


@vjp("Where", elementwise=True, linear=[{1, 2}])
def where(op: Emitter, node: NodeView, g: Value) -> Gradients:
    condition, nothing = node.input(0), op.like(g, 0)
    return None, op("Where", condition, g, nothing), op("Where", condition, nothing, g)


@secant("Where")
def where_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
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
    by_condition = times(op, g, ratio(op, given, op("Sub", now, before)))
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


@vjp("Clip", elementwise=True, kinds={"activation", "piecewise_linear", "routes"})
def clip(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """What is at a bound passes; not at those of ReLU6, of which PyTorch and TensorFlow make a Clip from 0 to 6.

    ReLU6 is read from its output, so that the runtime may fuse the node with what makes its input.
    """
    x, low, high = node.input(0), node.optional(1), node.optional(2)
    zero = op.like(g, 0)
    ends = _ends(node)
    if ends == RELU6:
        return _relu6(op, node, g), None, None
    factors = [
        None if end is None else gate(op, x, end, reached=True)
        for gate, end in zip((above, below), ends, strict=True)
    ]
    known = [f for f in factors if f is not None]
    if known and len(known) == len([bound for bound in (low, high) if bound is not None]) and fits(node, x):
        return op("Mul", g, known[0] if len(known) == 1 else op("Mul", *known)), None, None
    dx = g
    if low is not None:
        dx = op("Where", op("GreaterOrEqual", x, low), dx, zero)
    if high is not None:
        dx = op("Where", op("LessOrEqual", x, high), dx, zero)
    d_low = None if low is None else op("Where", op("Less", x, low), g, zero)
    if d_low is not None and high is not None:
        d_low = op("Where", op("Greater", low, high), zero, d_low)
    d_high = (
        None
        if high is None
        else op("Where", op("Greater", x if low is None else op("Max", x, low), high), g, zero)
    )
    return dx, d_low, d_high


@secant("Clip")
def clip_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Of ReLU6, what of the way between x and x' lies between its bounds; else its secant, or its Shapley value.

    What lies above 0 of the upper end, or below 6 of the lower one, is more than the way where both are inside.
    """
    moved = [k for k, active in enumerate(node.active) if active]
    rule = VJP["", "Clip"]
    if _ends(node) != RELU6 or moved != [0]:
        if len(moved) == 1:
            return slope_of_one(op, node, reference, rule, moved[0], g)
        return shapley(op, node, reference, rule, moved, g)
    x, y = node.input(0), reference.input(0)
    top, bottom = op("Max", x, y), op("Min", x, y)
    inside = op("Clip", op("Min", top, op("Sub", op.like(x, 6), bottom)), None, op.like(x, 6))
    return op("Mul", g, share_of_way(op, inside, op("Sub", top, bottom))), None, None


def _ends(node: NodeView) -> tuple[float | None, float | None]:
    """The bounds of a Clip that are constants."""
    low, high = (None if bound is None else number_of(bound) for bound in map(node.optional, (1, 2)))
    return low, high


def _relu6(op: Emitter, node: NodeView, g: Value) -> Value:
    factor = of_relu6(op, node.z) if fits(node, node.z) else None
    if factor is not None:
        return op("Mul", g, factor)
    inside = op("And", op("Greater", node.z, op.like(node.z, 0)), op("Less", node.z, op.like(node.z, 6)))
    return op("Where", inside, g, op.like(g, 0))


@vjp("Max", "Min", elementwise=True, kinds={"piecewise_linear", "routes"})
def max_min(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Ties are split evenly between the operands that reach the extreme."""
    z = node.again(op, *node.inputs)  # node.z may be rounded to a half type, which its inputs never were
    hits = [op.cast(op("Equal", node.input(k), z), g.dtype) for k in range(len(node.inputs))]
    count = hits[0] if len(hits) == 1 else op("Sum", *hits)
    share = op("Div", g, count)
    return [op("Mul", share, hit) for hit in hits]


@secant("Max", "Min", to="many")
def max_min_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
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
        results.append(ratio(op, given, d, op("Mul", op("Mul", g, ends_k), op.like(g, 0.5))))
    return results
