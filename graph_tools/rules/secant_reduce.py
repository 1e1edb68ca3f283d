"""Secants of reductions and of pools by maximum.

A maximum goes by cross-max: with c the larger of the two maxima, c - z' goes to the place of the maximum of x and
z - c to that of x'; places that tie share. Minima are maxima upside down. The others are recomputed from sums,
products and functions of one number.
"""

from __future__ import annotations

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.emit import Emitter, Value
from onnx_attribution.graph_tools.rules.reduce import _axes, _kept, _sum
from onnx_attribution.graph_tools.rules.registry import Gradients, NodeView
from onnx_attribution.graph_tools.rules.secant import parts, quotient, secant
from onnx_attribution.graph_tools.rules.secant_norm import LogSums
from onnx_attribution.graph_tools.rules.tricks import convert, declare, dimensions, known, rank_of


@secant("ReduceMax", "ReduceMin")
def reduce_max_min(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    z, w = _kept(op, node, node.z), _kept(op, reference, reference.z)

    def share(view: NodeView, extreme: Value) -> Value:
        reached = convert(op, op("Equal", view.input(0), extreme), g)
        return op("Div", reached, _sum(op, node, reached))

    return (
        cross(op, node.input(0), reference.input(0), z, w, share(node, z), share(reference, w),
              _kept(op, node, g), "Max" if node.operator == "ReduceMax" else "Min"),
    )  # fmt: skip


@secant("GlobalMaxPool")
def global_max_pool(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    axes = op.ints(range(2, rank_of(node.input(0))))

    def share(view: NodeView) -> Value:
        reached = convert(op, op("Equal", view.input(0), view.z), g)
        return op("Div", reached, op("ReduceSum", reached, axes, keepdims=1))

    return (
        cross(op, node.input(0), reference.input(0), node.z, reference.z, share(node), share(reference), g, "Max"),
    )  # fmt: skip


def cross(
    op: Emitter,
    x: Value,
    y: Value,
    z: Value,
    w: Value,
    share_x: Value,
    share_y: Value,
    g: Value,
    extreme: str,
) -> Value:
    """The multiplier of x where c - w is shared out by `share_x` and z - c by `share_y`, c the larger of z and w."""
    c = op(extreme, z, w)
    to_x = op("Mul", op("Mul", g, op("Sub", c, w)), share_x)
    to_y = op("Mul", op("Mul", g, op("Sub", z, c)), share_y)
    d = op("Sub", x, y)
    return quotient(op, op("Add", to_x, to_y), d, op("Equal", d, op.like(d, 0)), op.like(d, 0))


@secant("TopK")
def top_k(op: Emitter, node: NodeView, reference: NodeView, g: Value | None, *_: Value | None) -> Gradients:
    """The largest one by cross-max; more than one has no split between the places that is exact for every x and x'."""
    x, y = node.input(0), reference.input(0)
    count = known(node.input(1))
    if count is None or int(count.reshape(-1)[0]) != 1:
        raise NotDifferentiable(
            f"DeepLIFT has no rule for TopK of more than one (node {node.name!r}); it has one for the largest alone",
            node=node.name, operator="TopK", tensor=node.z.name,
        )  # fmt: skip
    if g is None:
        return (op.zeros_like(x),)

    def share(view: NodeView) -> Value:
        axis = op.ints([node.attribute("axis", -1)])
        reached = convert(op, op("Equal", view.input(0), view.z), g)
        return op("Div", reached, op("ReduceSum", reached, axis, keepdims=1))

    extreme = "Max" if node.attribute("largest", 1) else "Min"
    return (cross(op, x, y, node.z, reference.z, share(node), share(reference), g, extreme),)


@secant("ReduceLogSumExp")
def reduce_log_sum_exp(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    axes = _axes(op, node)
    if axes is None:
        axes = op.ints(range(rank_of(node.input(0))))
    found = LogSums.of(op, node.input(0), reference.input(0), axes)
    return (op("Mul", _kept(op, node, g), found.slope),)


def _reduced(op: Emitter, node: NodeView, value: Value) -> Value:
    """The sum of `value` as the node reduces."""
    made = op(
        "ReduceSum", value, _axes(op, node), keepdims=node.attribute("keepdims", 1),
        noop_with_empty_axes=node.attribute("noop_with_empty_axes", 0),
    )  # fmt: skip
    return declare(made, dimensions(node.z))


@parts("ReduceL1")
def reduce_l1(op: Emitter, node: NodeView) -> Value:
    return _reduced(op, node, op("Abs", node.input(0)))


@parts("ReduceL2")
def reduce_l2(op: Emitter, node: NodeView) -> Value:
    return op("Sqrt", _reduced(op, node, op("Mul", node.input(0), node.input(0))))


@parts("ReduceSumSquare")
def reduce_sum_square(op: Emitter, node: NodeView) -> Value:
    return _reduced(op, node, op("Mul", node.input(0), node.input(0)))


@parts("ReduceLogSum")
def reduce_log_sum(op: Emitter, node: NodeView) -> Value:
    return op("Log", _reduced(op, node, node.input(0)))


@parts("ReduceProd")
def reduce_prod(op: Emitter, node: NodeView) -> Value:
    """A tree of products, each at its midpoint: pairs of neighbours along each axis in turn."""
    x = node.input(0)
    axes = _axes(op, node)
    numbers = known(axes) if axes is not None else None
    noop = bool(node.attribute("noop_with_empty_axes", 0))
    chosen = [int(a) for a in numbers.reshape(-1)] if numbers is not None else []
    reduced = sorted({a % rank_of(x) for a in chosen})
    if not reduced and not noop:
        reduced = list(range(rank_of(x)))
    sizes = [dimensions(x)[a] for a in reduced]
    if (axes is not None and numbers is None) or not all(isinstance(n, int) for n in sizes):
        raise NotDifferentiable(
            f"DeepLIFT needs the sizes that ReduceProd (node {node.name!r}) multiplies; they are unknown",
            node=node.name, operator="ReduceProd", tensor=node.z.name,
        )  # fmt: skip
    value = x
    for axis in reduced:
        value = _product(op, value, axis)
    return (
        declare(op("Reshape", value, op.shape(node.z)), dimensions(node.z))
        if reduced
        else op("Identity", value)
    )


def _product(op: Emitter, value: Value, axis: int) -> Value:
    """The product along one axis, kept at length 1: halves multiplied until one element is left."""
    size = dimensions(value)[axis]
    assert isinstance(size, int)
    while size > 1:
        half = size // 2

        def piece(begin: int, end: int, whole: Value = value) -> Value:
            made = op("Slice", whole, op.ints([begin]), op.ints([end]), op.ints([axis]))
            return declare(made, [end - begin if a == axis else d for a, d in enumerate(dimensions(whole))])

        product = op("Mul", piece(0, half), piece(half, 2 * half))
        declare(product, dimensions(piece(0, half)))
        if size % 2:
            product = op("Concat", product, piece(2 * half, size), axis=axis)
        size = half + size % 2
        value = declare(product, [size if a == axis else d for a, d in enumerate(dimensions(value))])
    return value


@parts("GlobalLpPool")
def global_lp_pool(op: Emitter, node: NodeView) -> Value:
    x, p = node.input(0), node.attribute("p", 2)
    powers = _power(op, x, p)
    shape = [*dimensions(x)[:2], *[1] * (rank_of(x) - 2)]
    total = declare(op("ReduceSum", powers, op.ints(range(2, rank_of(x))), keepdims=1), shape)
    return _root(op, total, p)


def _power(op: Emitter, x: Value, p: int) -> Value:
    if p == 2:
        return op("Mul", x, x)
    return op("Abs", x) if p == 1 else op("Pow", op("Abs", x), op.like(x, p))


def _root(op: Emitter, x: Value, p: int) -> Value:
    if p == 2:
        return op("Sqrt", x)
    return x if p == 1 else op("Pow", x, op.like(x, 1 / p))
