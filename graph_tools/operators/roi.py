"""Pooling over regions of interest. The regions themselves have no gradient here, as in other frameworks.

Letters: `N` images of `C` channels, `R` regions, `P` rows or columns of the result.
"""

from __future__ import annotations

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.ends import quotient
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import convert, scatter_add

HALF_PIXEL = 16  # since this opset, half a pixel is subtracted by default


@vjp("RoiAlign", linear=[{0}])
def roi_align(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """The mean of samples in each cell: a matrix along the rows times one along the columns, for each region."""
    x, rois, image = node.input(0), node.input(1), node.input(2)
    mode = node.attribute("mode", "avg")
    if mode not in ("avg", b"avg"):
        raise NotDifferentiable(
            f"no gradient rule for RoiAlign in mode {mode} (node {node.name!r}); there is one for avg",
            reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator="RoiAlign", tensor=node.z.name,
        )  # fmt: skip
    rows, columns = _matrix(op, node, x, rois, 0), _matrix(op, node, x, rois, 1)
    tall = op(
        "MatMul", op("Transpose", op("Unsqueeze", rows, op.ints([1])), perm=[0, 1, 3, 2]), g
    )  # [R, C, H, P]
    numbers = _range(op, op.dims(x, 0, 1))
    own = convert(op, op("Equal", op("Unsqueeze", image, op.ints([1])), numbers), x)  # [R, N]
    placed = op("Mul", op("Unsqueeze", columns, op.ints([2])), op("Unsqueeze", own, op.ints([1, 3])))
    width = op("Mul", op.dims(x, 0, 1), op.dims(x, 3, 4))
    right = op("Reshape", placed, op("Concat", op.ints([-1]), width, axis=0))  # [R * P, N * W]
    left = op("Reshape", op("Transpose", tall, perm=[1, 2, 0, 3]), op.ints([0, 0, -1]))
    shape = op("Concat", op.dims(x, 1, 3), op.dims(x, 0, 1), op.dims(x, 3, 4), axis=0)
    return (op("Transpose", op("Reshape", op("MatMul", left, right), shape), perm=[2, 0, 1, 3]),)


def _matrix(op: Emitter, node: NodeView, x: Value, rois: Value, axis: int) -> Value:
    """What each pixel along an axis (0 rows, 1 columns) weighs in each cell, `[R, P, pixels]`."""
    cells = int(node.attribute("output_width" if axis else "output_height", 1))
    ratio = int(node.attribute("sampling_ratio", 0))
    default = "half_pixel" if node.opset >= HALF_PIXEL else "output_half_pixel"
    half = node.attribute("coordinate_transformation_mode", default) in ("half_pixel", b"half_pixel")
    scale, one, zero = op.like(x, node.attribute("spatial_scale", 1.0)), op.like(x, 1), op.like(x, 0)

    def corner(k: int) -> Value:
        at = op("Mul", op("Gather", rois, op.constant(np.int64(k)), axis=1), scale)
        return op("Sub", at, op.like(x, 0.5)) if half else at

    start, end = corner(1 - axis), corner(3 - axis)
    length = op("Sub", end, start) if half else op("Max", op("Sub", end, start), one)
    cell = op("Div", length, op.like(x, cells))
    if ratio > 0:
        count = op("Add", op("Mul", cell, zero), op.like(x, ratio))
        most: Value = op.ints([ratio])
    else:
        count = op("Ceil", cell)
        most = op(
            "Cast",
            op("ReduceMax", op("Concat", count, op("Reshape", one, op.ints([1])), axis=0), keepdims=1),
            to=7,
        )
    samples = _range(op, most)
    start, cell, count = (op("Unsqueeze", v, op.ints([1, 2])) for v in (start, cell, count))  # [R, 1, 1]
    number = convert(op, samples, x)
    inside = op("Div", op("Add", number, op.like(x, 0.5)), op("Max", count, one))
    steps = op.constant(np.arange(cells).reshape(1, cells, 1), dtype=x.dtype)
    at = op("Add", start, op("Mul", op("Add", inside, steps), cell))  # [R, P, samples]
    size = convert(op, op.dims(x, 2 + axis, 3 + axis), x)
    used = op("And", op("Less", number, count), op("And", op("GreaterOrEqual", at, op.like(x, -1)),
              op("LessOrEqual", at, size)))  # fmt: skip
    clamped = op("Min", op("Max", at, zero), op("Sub", size, one))
    pixels = convert(op, _range(op, op.dims(x, 2 + axis, 3 + axis)), x)
    distance = op("Abs", op("Sub", op("Unsqueeze", clamped, op.ints([3])), pixels))
    weight = op("Max", op("Sub", one, distance), zero)
    kept = op("Where", op("Unsqueeze", used, op.ints([3])), weight, zero)
    return op("Div", op("ReduceSum", kept, op.ints([2]), keepdims=0), op("Max", count, one))


def _range(op: Emitter, count: Value) -> Value:
    return op("Range", op.constant(np.int64(0)), op("Reshape", count, op.ints([])), op.constant(np.int64(1)))


@vjp("MaxRoiPool")
def max_roi_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """To the place of each cell's maximum, found region by region: along the rows first, then along the columns."""
    x, rois = node.input(0), node.input(1)
    image = op("Cast", op("Gather", rois, op.constant(np.int64(0)), axis=1), to=7)
    rows, columns = _cells(op, node, x, rois, 0), _cells(op, node, x, rois, 1)
    image.shape, lowest = [None], op.like(x, float(np.finfo(x.dtype).min))
    rows.shape = columns.shape = [None, None, None]
    width = op("Reshape", op.dims(x, 3, 4), op.ints([]))
    area = op("Reshape", op("Mul", op.dims(x, 2, 3), op.dims(x, 3, 4)), op.ints([]))

    def step(op: Emitter, states: list[Value], slices: list[Value]) -> tuple[list[Value], list[Value]]:
        number, row, column = slices
        pixels = op("Unsqueeze", op("Gather", x, number, axis=0), op.ints([1]))  # [C, 1, H, W]
        tall = op("Where", op("Unsqueeze", row, op.ints([2])), pixels, lowest)  # [C, P, H, W]
        best = op("ReduceMax", tall, op.ints([2]), keepdims=1)  # [C, P, 1, W]
        wide = op("Where", column, best, lowest)  # [C, P, P, W]
        across = op("ArgMax", wide, axis=3, keepdims=0)
        down = op("GatherElements", op("ArgMax", tall, axis=2, keepdims=0), across, axis=2)
        place = op("Add", op("Mul", down, width), across)
        channels = _range(op, op.dims(x, 1, 2))
        first = op("Add", op("Mul", number, op("Reshape", op.dims(x, 1, 2), op.ints([]))), channels)
        offset = op("Mul", op("Unsqueeze", first, op.ints([1, 2])), area)
        made = op("Add", place, offset)
        made.shape = [None, None, None]
        return [], [made]

    _, (places,) = scan(op, step, [], [image, rows, columns])
    filled = op(
        "And",
        op("Unsqueeze", _any(op, rows), op.ints([1, 3])),
        op("Unsqueeze", _any(op, columns), op.ints([1, 2])),
    )
    return (scatter_add(op, x, places, op("Where", filled, g, op.like(g, 0))),)


@secant("MaxRoiPool")
def max_roi_pool_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
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


def _any(op: Emitter, mask: Value) -> Value:
    """Whether a cell holds any pixel, `[R, P]`."""
    return op(
        "Greater",
        op("ReduceMax", op("Cast", mask, to=1), op.ints([2]), keepdims=0),
        op.constant(np.float32(0)),
    )


def _cells(op: Emitter, node: NodeView, x: Value, rois: Value, axis: int) -> Value:
    """Which pixels along an axis each cell holds, `[R, P, pixels]`, as Fast R-CNN cuts them."""
    cells = int(node.attribute("pooled_shape")[axis])
    scale, one = op.like(x, node.attribute("spatial_scale", 1.0)), op.like(x, 1)

    def corner(k: int) -> Value:
        scaled = op("Mul", op("Gather", rois, op.constant(np.int64(k)), axis=1), scale)
        return op("Floor", op("Add", scaled, op.like(x, 0.5)))  # coordinates are not negative: half goes up

    start, end = corner(2 - axis), corner(4 - axis)
    length = op("Max", op("Add", op("Sub", end, start), one), one)
    cell = op("Unsqueeze", op("Div", length, op.like(x, cells)), op.ints([1]))
    step = op.constant(np.arange(cells).reshape(1, cells), dtype=x.dtype)
    begin = op("Unsqueeze", start, op.ints([1]))
    low = op("Add", op("Floor", op("Mul", step, cell)), begin)
    high = op("Add", op("Ceil", op("Mul", op("Add", step, one), cell)), begin)
    pixels = convert(op, _range(op, op.dims(x, 2 + axis, 3 + axis)), x)
    low, high = op("Unsqueeze", low, op.ints([2])), op("Unsqueeze", high, op.ints([2]))
    return op("And", op("GreaterOrEqual", pixels, low), op("Less", pixels, high))
