"""Secants of reductions and of pools by maximum.

A maximum goes by cross-max: with c the larger of the two maxima, c - z' goes to the place of the maximum of x and
z - c to that of x'; places that tie share. Minima are maxima upside down. The others are recomputed from sums,
products and functions of one number.
"""

from __future__ import annotations

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.convolution import windows
from onnx_attribution.graph_tools.operators.pooling import pool_indices, spread, unpool
from onnx_attribution.graph_tools.operators.quotients import quotient
from onnx_attribution.graph_tools.operators.reduce import _axes, _kept, _sum
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import parts, secant
from onnx_attribution.graph_tools.operators.secant_norm import LogSums
from onnx_attribution.graph_tools.operators.tricks import convert, declare, dimensions, known, rank_of


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


@secant("MaxPool")
def max_pool(op: Emitter, node: NodeView, reference: NodeView, g: Value, *_: Value | None) -> Gradients:
    """With c the larger of the two maxima: c - z' goes to the place of the maximum of x, z - c to that of x'.

    Windows that overlap add up. Elements that do not change have the mean of the gradients at x and x'.
    """
    x, y, z, w = node.input(0), reference.input(0), node.z, reference.z
    c, half = op("Max", z, w), op("Mul", g, op.like(g, 0.5))
    at_x, at_y = pool_indices(op, node, x), pool_indices(op, reference, y)
    to_x = unpool(op, x, op("Mul", g, op("Sub", c, w)), at_x)
    to_y = unpool(op, x, op("Mul", g, op("Sub", z, c)), at_y)
    local = op("Add", unpool(op, x, half, at_x), unpool(op, x, half, at_y))
    d = op("Sub", x, y)
    return (quotient(op, op("Add", to_x, to_y), d, op("Equal", d, op.like(d, 0)), local),)


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
    """The multiplier of x where c - w is shared out by `share_x` and z - c by `share_y`, c the larger of z and w.

    Elements that do not change have the mean gradient of the two ends.
    """
    c = op(extreme, z, w)
    to_x = op("Mul", op("Mul", g, op("Sub", c, w)), share_x)
    to_y = op("Mul", op("Mul", g, op("Sub", z, c)), share_y)
    local = op("Mul", g, op("Mul", op("Add", share_x, share_y), op.like(g, 0.5)))
    d = op("Sub", x, y)
    return quotient(op, op("Add", to_x, to_y), d, op("Equal", d, op.like(d, 0)), local)


@secant("TopK")
def top_k(op: Emitter, node: NodeView, reference: NodeView, g: Value | None, *_: Value | None) -> Gradients:
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


@parts("CumProd")
def cum_prod(op: Emitter, node: NodeView) -> Value:
    """Each product is the one before times the next element, at its midpoint."""
    x, axis = node.input(0), known(node.input(1))
    size = None if axis is None else dimensions(x)[int(axis.reshape(-1)[0])]
    if axis is None or not isinstance(size, int):
        raise NotDifferentiable(
            f"DeepLIFT needs the axis and the size that CumProd (node {node.name!r}) multiplies; they are unknown",
            reason=Reason.UNKNOWN_RANK, node=node.name, operator="CumProd", tensor=node.z.name,
        )  # fmt: skip
    place = int(axis.reshape(-1)[0]) % rank_of(x)
    one = [1 if a == place else d for a, d in enumerate(dimensions(x))]
    elements = [
        declare(op("Slice", x, op.ints([k]), op.ints([k + 1]), op.ints([place])), one) for k in range(size)
    ]
    if node.attribute("reverse", 0):
        elements.reverse()
    products = elements[:1]
    for element in elements[1:]:
        products.append(declare(op("Mul", products[-1], element), one))
    if node.attribute("exclusive", 0):
        first = declare(op("Expand", op.like(x, 1), op.shape(elements[0])), one)
        products = [first, *products[:-1]]
    if node.attribute("reverse", 0):
        products.reverse()
    return declare(op("Concat", *products, axis=place), dimensions(node.z))


@secant("MaxRoiPool")
def max_roi_pool(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Cross-max; the gradient's rule knows the way to the places of the maxima.

    Elements that do not change have the mean of the gradients at x and x'.
    """
    x, y, z, w = node.input(0), reference.input(0), node.z, reference.z
    route = VJP["", "MaxRoiPool"].vjp
    c = op("Max", z, w)
    (to_x,) = route(op, node, op("Mul", g, op("Sub", c, w)))[:1]
    (to_y,) = route(op, reference, op("Mul", g, op("Sub", z, c)))[:1]
    half = op("Mul", g, op.like(g, 0.5))
    local = op("Add", *(route(op, view, half)[0] for view in (node, reference)))
    d = op("Sub", x, y)
    return (quotient(op, op("Add", to_x, to_y), d, op("Equal", d, op.like(d, 0)), local), None)


@secant("LpPool")
def lp_pool(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """The root by its secant, spread over the window, times the secant of |x|^p."""
    x, y, z, w = node.input(0), reference.input(0), node.z, reference.z
    p = node.attribute("p", 2)
    share = op("Mul", g, _secant(op, (z, w), (_power(op, z, p), _power(op, w, p)), root=True, p=p))
    place_of = windows(op, node, node.attribute("kernel_shape"), x, z)
    slope = _secant(op, (x, y), (_power(op, x, p), _power(op, y, p)), root=False, p=p)
    return (op("Mul", spread(op, share, x, z, place_of), slope),)


def _secant(
    op: Emitter, ends: tuple[Value, Value], powers: tuple[Value, Value], *, root: bool, p: int
) -> Value:
    """The slope of the p-th power of |ends| between the two, or of its root; where nothing changes, that there."""
    if p == 2:
        total = op("Add", *ends)
        return (
            total
            if not root
            else quotient(op, op.like(total, 1), total, op("Equal", total, 0), op.like(total, 0))
        )
    changes = [op("Sub", *pair) for pair in (ends, powers)]
    change, d = changes if root else changes[::-1]
    here, nothing = ends[0], op.like(ends[0], 0)
    local = op("Mul", op("Sign", here), op("Pow", op("Abs", here), op.like(here, p - 1)))
    local = op("Mul", local, op.like(here, p))
    if root:
        local = quotient(op, op.like(local, 1), local, op("Equal", local, nothing), nothing)
    return quotient(op, change, d, op("Equal", d, nothing), local)


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
