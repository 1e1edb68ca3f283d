"""Reductions. `gk` and `zk` are the gradient and the output with the reduced axes kept at length 1.

Letters: `x` operand, `z` output, `g` its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type
from onnx_attribution.graph_tools.operators.ends import cross, quotient
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, decomposed, secant, vjp
from onnx_attribution.graph_tools.operators.softmax import LogSums
from onnx_attribution.graph_tools.operators.transpose import convert, declare, dimensions, known, rank_of


def _axes(op: Emitter, node: NodeView) -> Value | None:
    """The reduced axes as a vector, None for all: an input in newer opsets, an attribute in older ones."""
    declared = node.attribute("axes")
    return op.ints(declared) if declared else node.optional(1)


def _kept(op: Emitter, node: NodeView, value: Value) -> Value:
    """`value`, which has the shape of the output, with the reduced axes kept at length 1."""
    x = node.input(0)
    if rank_of(node.z) == rank_of(x):
        return value
    axes = _axes(op, node)
    numbers = None if axes is None else known(axes)
    if numbers is not None and numbers.size:
        reduced = {int(axis) % rank_of(x) for axis in numbers}
        made = op("Unsqueeze", value, op.ints(sorted(reduced)))
        return declare(made, [1 if a in reduced else d for a, d in enumerate(dimensions(x))])
    if rank_of(node.z) == 0:
        made = op("Reshape", value, op.ints([1] * rank_of(x)))
        made.shape = [1] * rank_of(x)
        return made
    model = op(
        "ReduceSum", x, axes, keepdims=1, noop_with_empty_axes=node.attribute("noop_with_empty_axes", 0)
    )
    model.shape = [None] * rank_of(x)
    made = op("Reshape", value, op.shape(model))
    made.shape = model.shape
    return made


def _sum(op: Emitter, node: NodeView, value: Value) -> Value:
    """The sum of `value`, which has the shape of the input, over the reduced axes, which are kept."""
    noop = node.attribute("noop_with_empty_axes", 0)
    made = op("ReduceSum", value, _axes(op, node), keepdims=1, noop_with_empty_axes=noop)
    made.shape = _kept(op, node, node.z).shape
    return made


def _safe(op: Emitter, value: Value) -> Value:
    """`value` with 1 in place of 0: a divisor."""
    return op("Where", op("Equal", value, op.like(value, 0)), op.like(value, 1), value)


def _reduced(op: Emitter, node: NodeView, value: Value) -> Value:
    """The sum of `value` as the node reduces."""
    made = op(
        "ReduceSum", value, _axes(op, node), keepdims=node.attribute("keepdims", 1),
        noop_with_empty_axes=node.attribute("noop_with_empty_axes", 0),
    )  # fmt: skip
    return declare(made, dimensions(node.z))


def mean_factor(op: Emitter, x: Value, z: Value, axes: Sequence[int] | None) -> Value:
    """How many elements of `x` come to one of `z`, inverted, as a scalar of their type; `axes` are what is left out.

    A constant where the sizes along the axes are known: a number that is made at run time is copied to the device.
    """
    if axes is not None:
        sizes = [dimensions(x)[axis] for axis in axes]
        if all(isinstance(size, int) for size in sizes):
            return op.like(x, 1 / max(math.prod(int(size) for size in sizes), 1))
    wide = np.float64 if element_type(x) == np.float64 else np.float32  # WebGPU has no float64
    return convert(op, op("Div", *(op.cast(op.size(value), wide) for value in (z, x))), x)


def _reduced_axes(op: Emitter, node: NodeView) -> list[int] | None:
    """The numbers of the reduced axes; None where they are not known."""
    rank, axes = rank_of(node.input(0)), _axes(op, node)
    numbers = np.empty(0) if axes is None else known(axes)
    if numbers is not None and not numbers.size:
        return [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return None if numbers is None else [int(axis) % rank for axis in numbers]


@vjp("ReduceSum", linear=[{0}], kinds={"carries"})
def reduce_sum(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (op("Expand", _kept(op, node, g), op.shape(x)),)


@vjp("ReduceMean", linear=[{0}], kinds={"carries"})
def reduce_mean(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    scaled = op("Mul", g, mean_factor(op, x, node.z, _reduced_axes(op, node)))
    return (op("Expand", _kept(op, node, scaled), op.shape(x)),)


@vjp("ReduceMax", "ReduceMin")
def reduce_max_min(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Those who reach the extremum share its gradient evenly."""
    x = node.input(0)
    reached = convert(op, op("Equal", x, _kept(op, node, node.z)), x)
    return (op("Mul", reached, op("Div", _kept(op, node, g), _sum(op, node, reached))),)


@secant("ReduceMax", "ReduceMin")
def reduce_max_min_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    z, w = _kept(op, node, node.z), _kept(op, reference, reference.z)

    def share(view: NodeView, extreme: Value) -> Value:
        reached = convert(op, op("Equal", view.input(0), extreme), g)
        return op("Div", reached, _sum(op, node, reached))

    return (
        cross(op, node.input(0), reference.input(0), z, w, share(node, z), share(reference, w),
              _kept(op, node, g), "Max" if node.operator == "ReduceMax" else "Min"),
    )  # fmt: skip


@vjp("ReduceProd")
def reduce_prod(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """The product of all others, also where one of them is zero."""
    x = node.input(0)
    divisor = _safe(op, x)
    is_zero = convert(op, op("Equal", x, op.like(x, 0)), x)
    others = node.again(op, divisor, *node.inputs[1:], keepdims=1)
    alone = convert(op, op("Equal", _sum(op, node, is_zero), is_zero), x)
    return (op("Mul", op("Mul", _kept(op, node, g), alone), op("Div", others, divisor)),)


@decomposed("ReduceProd")
def reduce_prod_decomposed(op: Emitter, node: NodeView) -> Value:
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
            reason=Reason.UNKNOWN_RANK, node=node.name, operator="ReduceProd", tensor=node.z.name,
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


@vjp("ReduceL1")
def reduce_l1(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op("Mul", _kept(op, node, g), op("Sign", node.input(0))),)


@decomposed("ReduceL1")
def reduce_l1_decomposed(op: Emitter, node: NodeView) -> Value:
    return _reduced(op, node, op("Abs", node.input(0)))


@vjp("ReduceL2")
def reduce_l2(op: Emitter, node: NodeView, g: Value) -> Gradients:
    scaled = op("Div", _kept(op, node, g), _safe(op, _kept(op, node, node.z)))
    return (op("Mul", scaled, node.input(0)),)


@decomposed("ReduceL2")
def reduce_l2_decomposed(op: Emitter, node: NodeView) -> Value:
    return op("Sqrt", _reduced(op, node, op("Mul", node.input(0), node.input(0))))


@vjp("ReduceLogSum")
def reduce_log_sum(op: Emitter, node: NodeView, g: Value) -> Gradients:
    each = op("Mul", g, op("Exp", op("Neg", node.z)))
    return (op("Expand", _kept(op, node, each), op.shape(node.input(0))),)


@decomposed("ReduceLogSum")
def reduce_log_sum_decomposed(op: Emitter, node: NodeView) -> Value:
    return op("Log", _reduced(op, node, node.input(0)))


@vjp("ReduceLogSumExp")
def reduce_log_sum_exp(op: Emitter, node: NodeView, g: Value) -> Gradients:
    zk = _kept(op, node, node.z)
    finite = op("Where", op("Equal", zk, op.like(zk, float("-inf"))), op.like(zk, 0), zk)
    return (op("Mul", _kept(op, node, g), op("Exp", op("Sub", node.input(0), finite))),)


@secant("ReduceLogSumExp")
def reduce_log_sum_exp_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    axes = _axes(op, node)
    if axes is None:
        axes = op.ints(range(rank_of(node.input(0))))
    found = LogSums.of(op, node.input(0), reference.input(0), axes)
    return (op("Mul", _kept(op, node, g), found.slope),)


@vjp("ReduceSumSquare")
def reduce_sum_square(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (op("Mul", _kept(op, node, g), op("Add", x, x)),)


@decomposed("ReduceSumSquare")
def reduce_sum_square_decomposed(op: Emitter, node: NodeView) -> Value:
    return _reduced(op, node, op("Mul", node.input(0), node.input(0)))


@vjp("TopK", unfollowed=(1,))
def top_k(op: Emitter, node: NodeView, g: Value | None, *_: Value | None) -> Gradients:
    x, index = node.input(0), node.outputs[1]
    if g is None:
        return (op.zeros_like(x),)
    axis = node.attribute("axis", -1) % rank_of(x)
    return (op("ScatterElements", op.zeros_like(x), index, g, axis=axis),)


@secant("TopK")
def top_k_secant(
    op: Emitter, node: NodeView, reference: NodeView, g: Value | None, *_: Value | None
) -> Gradients:
    """Each place of the ranking by itself: its change goes to the elements that crossed it.

    Where the k-th value rises from w to z, at least one element was at most w and is at least z now, because fewer than
    k elements were above w; those that crossed share z - w. Where it falls, the other way round. For the largest alone
    this is cross-max. Elements that do not change have the mean of the gradients at x and x'.
    """
    x, y = node.input(0), reference.input(0)
    count = known(node.input(1))
    if not node.attribute("sorted", 1) and (count is None or int(count.reshape(-1)[0]) != 1):
        raise NotDifferentiable(
            f"DeepLIFT has no rule for TopK without an order (node {node.name!r}, sorted=0): its places at x and at x' "
            "do not correspond",
            reason=Reason.NO_SECANT, node=node.name, operator="TopK", tensor=node.z.name,
        )  # fmt: skip
    if g is None:
        return (op.zeros_like(x),)
    rank = rank_of(x)
    axis = node.attribute("axis", -1) % rank
    order = [a for a in range(rank) if a != axis] + [axis]
    elements = [op("Unsqueeze", op("Transpose", v, perm=order), op.ints([rank])) for v in (x, y)]
    places = [
        op("Unsqueeze", op("Transpose", v, perm=order), op.ints([rank - 1])) for v in (node.z, reference.z, g)
    ]
    (here, there), (z, w, arrived) = elements, places
    rose = op("And", op("GreaterOrEqual", here, z), op("LessOrEqual", there, w))
    fell = op("And", op("LessOrEqual", here, z), op("GreaterOrEqual", there, w))
    rises = op("GreaterOrEqual", z, w)
    crossed = convert(op, op("Or", op("And", rises, rose), op("And", op("Not", rises), fell)), g)
    share = op("Div", crossed, op("ReduceSum", crossed, op.ints([rank - 1]), keepdims=1))
    back = [order.index(a) for a in range(rank)]

    def gathered(each: Value) -> Value:
        given = op("ReduceSum", op("Mul", arrived, each), op.ints([rank]), keepdims=0)
        return declare(op("Transpose", given, perm=back), dimensions(x))

    held = [convert(op, op("Equal", *pair), g) for pair in ((here, z), (there, w))]
    ties = [op("ReduceSum", reached, op.ints([rank - 1]), keepdims=1) for reached in held]
    local = op(
        "Mul", op("Sum", *(op("Div", *pair) for pair in zip(held, ties, strict=True))), op.like(g, 0.5)
    )
    d = op("Sub", x, y)
    credit = gathered(op("Mul", op("Sub", z, w), share))
    return (quotient(op, credit, d, op("Equal", d, op.like(d, 0)), gathered(local)),)
