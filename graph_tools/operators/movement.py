"""Operators that move, copy, cut or join elements; gathering and scattering are in `indexing`, sizes in `resize`.

Letters: `x, y` operands, `z` output, `g` its gradient.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.operators.registry import (
    ALL_INPUTS,
    Gradients,
    NodeView,
    decomposed,
    secant,
    vjp,
)
from onnx_attribution.graph_tools.operators.steps import jump
from onnx_attribution.graph_tools.operators.transpose import (
    convert,
    declare,
    dimensions,
    flat,
    known,
    moved,
    moved_or_filled,
    place,
    positions,
    rank_of,
    scatter_add,
)

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze", linear=[{0}], kinds={"carries"})
def reshape(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op.reshape_like(g, node.input(0)),)


@vjp("Identity", linear=[{0}], kinds={"carries"})
def identity(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (g,)


@vjp("Cast", linear=[{0}], kinds={"carries"})
def cast(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (convert(op, g, node.input(0)),)


@vjp("CastLike", linear=[{0, 1}])
def cast_like(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return convert(op, g, node.input(0)), op.zeros_like(node.input(1))  # only the type of the second counts


@secant("Cast", "CastLike")
def cast_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """Between floats the identity; to integers or truth values a step."""
    to = node.attribute("to")
    if node.operator == "CastLike":
        return (g if is_float(node.input(1)) else jump(op, node, reference, g)[0]), None
    return (g,) if to in FLOATS else jump(op, node, reference, g)


@vjp("Transpose", linear=[{0}], kinds={"carries"})
def transpose(op: Emitter, node: NodeView, g: Value) -> Gradients:
    rank = rank_of(node.input(0))
    if rank < 2:
        return (g,)
    perm = node.attribute("perm") or list(range(rank))[::-1]
    return (op("Transpose", g, perm=[int(axis) for axis in np.argsort(perm)]),)


@vjp("Concat", linear=[ALL_INPUTS], kinds={"carries"})
def concat(op: Emitter, node: NodeView, g: Value) -> Gradients:
    if len(node.inputs) == 1:
        return (g,)
    axis = node.attribute("axis", 1) % rank_of(node.z)
    sizes = [op.dims(node.input(k), axis, axis + 1) for k in range(len(node.inputs))]
    constants = [known(size) for size in sizes]
    numbers = [int(c[0]) for c in constants if c is not None]
    split = op.ints(numbers) if len(numbers) == len(sizes) else op("Concat", *sizes, axis=0)
    return op.multi("Split", len(sizes), g, split, axis=axis)


@vjp("Split", linear=[{0}], kinds={"carries"})
def split(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    """Every output has a name: onnxruntime crashes on a Split with one left out."""
    parts = [
        op.zeros_like(z) if g is None else g
        for g, z in zip(gradients, node.outputs, strict=True)
        if z is not None
    ]
    axis = node.attribute("axis", 0) % rank_of(node.input(0))
    return (op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0],)


@vjp("Slice", linear=[{0}], kinds={"carries"})
def slice_(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    begins = _slice_begins(op, node)
    if begins is None:
        return (moved(op, node, g, *node.inputs[1:]),)
    return (place(op, g, x, node.z, begins),)


def _slice_begins(op: Emitter, node: NodeView) -> dict[int, int | Value] | None:
    """Where a slice with constant starts and steps of 1 begins, by axis; None for every other slice."""
    x = node.input(0)
    starts, steps = known(node.optional(1)), node.optional(4)
    step_numbers = np.ones(1) if steps is None else known(steps)
    axes = node.optional(3)
    axis_numbers = known(axes) if axes is not None else None if starts is None else np.arange(len(starts))
    if starts is None or axis_numbers is None or step_numbers is None or np.any(step_numbers != 1):
        return None
    begins: dict[int, int | Value] = {}
    for axis, start in zip(axis_numbers.tolist(), starts.tolist(), strict=True):
        axis %= rank_of(x)
        size = dimensions(x)[axis]
        if isinstance(size, int):
            begins[axis] = min(start, size) if start >= 0 else max(start + size, 0)
        elif start == 0:
            begins[axis] = 0
        elif start > 0:
            begins[axis] = op("Min", op.dims(x, axis, axis + 1), op.ints([start]))
        else:
            begins[axis] = op("Max", op("Add", op.dims(x, axis, axis + 1), op.ints([start])), op.ints([0]))
    return begins


@vjp("Pad", linear=[{0, 2}], kinds={"carries"})
def pad(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, pads, value, axes = node.input(0), node.input(1), node.optional(2), node.optional(3)
    if node.attribute("mode", "constant") != "constant":
        # as two floats, each exact: CUDA has no kernel that pads integers, and WebGPU no float64
        whole, part = positions(op, x), op.constant(np.int64(1 << 20))
        high = op("Div", whole, part)
        high, low = (
            op.cast(node.again(op, op.cast(one, np.float32), pads, None, axes), np.int64)
            for one in (high, op("Sub", whole, op("Mul", high, part)))
        )
        return (scatter_add(op, x, op("Add", op("Mul", high, part), low), g),)
    numbers = known(pads)
    back = op.ints((-numbers).tolist()) if numbers is not None else op("Neg", pads)
    dx = op("Pad", g, back, None, axes)
    dx.shape = x.shape
    if value is None:
        return (dx,)
    total = op("Sub", op("ReduceSum", g, keepdims=0), op("ReduceSum", dx, keepdims=0))
    total.shape = []
    return dx, None, op.reshape_like(total, value)


@vjp("Expand", linear=[{0}], kinds={"carries"})
def expand(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (unbroadcast(op, g, node.input(0), node.z),)


@vjp("Tile", linear=[{0}], kinds={"carries"})
def tile(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, repeats = node.input(0), node.input(1)
    rank = rank_of(x)
    if rank == 0:
        return (g,)
    pairs = op(
        "Concat", op("Unsqueeze", repeats, op.ints([1])), op("Unsqueeze", op.shape(x), op.ints([1])), axis=1
    )
    apart = op("Reshape", g, op("Reshape", pairs, op.ints([-1])))
    summed = op("ReduceSum", apart, op.ints(range(0, 2 * rank, 2)), keepdims=0)
    summed.shape = x.shape
    return (summed,)


@vjp("Dropout", linear=[{0}], kinds={"carries"})
def dropout(op: Emitter, node: NodeView, g: Value, *_: Value | None) -> Gradients:
    """Nothing happens at inference; in training what was dropped is in the second output."""
    ratio, training = node.optional(1), node.optional(2)
    is_training, share = known(training), known(ratio) if ratio is not None else np.float32(0.5)
    if training is None or (is_training is not None and not is_training.any()) or share == 0:
        return (g,)
    if len(node.outputs) < 2 or node.outputs[1] is None:
        raise NotDifferentiable(
            f"Dropout (node {node.name!r}) drops elements at random and has no mask output; set training_mode to false",
            reason=Reason.RANDOM, node=node.name, operator="Dropout", tensor=node.z.name,
        )  # fmt: skip
    kept = op("Where", node.outputs[1], g, op.like(g, 0))
    rate = op.constant(np.float32(0.5)) if ratio is None else ratio
    scaled = op("Div", kept, op("Sub", op.like(g, 1), convert(op, rate, g)))
    return (op("Where", training, scaled, g),)


@vjp("DepthToSpace", linear=[{0}], kinds={"carries"})
def depth_to_space(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, block = node.input(0), node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "DCR":
        return (op("SpaceToDepth", g, blocksize=block),)
    return (_blocks_to_depth(op, g, x, block, [0, 1, 3, 5, 2, 4]),)


@vjp("SpaceToDepth", linear=[{0}], kinds={"carries"})
def space_to_depth(op: Emitter, node: NodeView, g: Value) -> Gradients:
    mode = node.attribute("mode", "DCR")
    return (op("DepthToSpace", g, blocksize=node.attribute("blocksize"), mode=mode),)


def _blocks_to_depth(op: Emitter, g: Value, x: Value, block: int, perm: list[int]) -> Value:
    """`g` with each block x block square of its image moved into the channels, which vary slowest."""
    sides = [op("Concat", op.dims(x, axis, axis + 1), op.ints([block]), axis=0) for axis in (2, 3)]
    apart = op("Reshape", g, op("Concat", op.dims(g, 0, 2), *sides, axis=0))
    return op.reshape_like(op("Transpose", apart, perm=perm), x)


@vjp("CenterCropPad", linear=[{0}])
def center_crop_pad(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (moved_or_filled(op, node, g, node.input(1)),)


@vjp("Trilu", linear=[{0}])
def trilu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (node.again(op, g, *node.inputs[1:]),)


@vjp("ReverseSequence", linear=[{0}])
def reverse_sequence(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (node.again(op, g, node.input(1)),)


@vjp("CumSum", linear=[{0}])
def cumulative_sum(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (node.again(op, g, node.input(1), reverse=1 - node.attribute("reverse", 0)),)


@vjp("CumProd")
def cumulative_product(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Before the first zero of a row by dividing; at it, the products with the zero left out; behind it, nothing."""
    x, axis = node.input(0), node.input(1)
    exclusive, reverse = node.attribute("exclusive", 0), node.attribute("reverse", 0)
    one, nothing = op.like(x, 1), op.like(x, 0)
    is_zero = op("Equal", x, nothing)
    zeros = op("CumSum", convert(op, is_zero, x), axis, reverse=reverse)
    first = op("And", is_zero, op("Equal", zeros, one))
    divisor = op("Where", is_zero, one, x)
    without = node.again(op, op("Where", first, one, x), axis)
    before = op("CumSum", op("Mul", g, node.z), axis, exclusive=exclusive, reverse=1 - reverse)
    at_first = op("CumSum", op("Mul", g, without), axis, exclusive=exclusive, reverse=1 - reverse)
    clear = op("Equal", zeros, nothing)
    return (op("Where", clear, op("Div", before, divisor), op("Where", first, at_first, nothing)),)


@decomposed("CumProd")
def cum_prod_decomposed(op: Emitter, node: NodeView) -> Value:
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


@vjp("Compress", linear=[{0}])
def compress(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (moved(op, node, g, node.input(1)),)


@vjp("TensorScatter", linear=[{0, 1}])
def tensor_scatter(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, y = node.input(0), node.input(1)
    own = positions(op, x)
    new = op("Add", op.size(x), positions(op, y))
    new.shape = y.shape
    index = node.again(op, own, new, node.optional(2))
    index.shape = x.shape
    both = op("Concat", flat(op, op.zeros_like(x)), flat(op, op.zeros_like(y)), axis=0)
    both.shape = [None]
    sizes = [op("Reshape", op.size(value), op.ints([1])) for value in (x, y)]
    dx, dy = op.multi("Split", 2, scatter_add(op, both, index, g), op("Concat", *sizes, axis=0), axis=0)
    return op.reshape_like(dx, x), op.reshape_like(dy, y)


@vjp("Col2Im", linear=[{0}])
def col2im(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """Im2Col: a convolution of each channel with one kernel per place in the block."""
    x, image, block = node.input(0), node.input(1), node.input(2)
    places = op("ReduceProd", block, keepdims=1)
    square = op("Concat", places, places, axis=0)
    blank = op("Expand", op.like(g, 0), square)
    kernel = op("Reshape", op("EyeLike", blank), op("Concat", places, op.ints([1]), block, axis=0))
    single = op("Reshape", g, op("Concat", op.ints([-1, 1]), image, axis=0))
    attributes = {name: node.attribute(name) for name in ("dilations", "pads", "strides")}
    return (op.reshape_like(op("Conv", single, kernel, **attributes), x),)


@vjp("AffineGrid", linear=[{0}])
def affine_grid(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """The grid is (base, 1) times theta transposed; the base is the grid of the identity."""
    theta, size = node.input(0), node.input(1)
    rank = rank_of(node.z) - 2
    unit = convert(op, op.constant(np.eye(rank, rank + 1, dtype=np.float32)), theta)
    base = node.again(op, op("Expand", unit, op.shape(theta)), size)
    row = op("Concat", op.dims(theta, 0, 1), op.ints([-1, rank]), axis=0)
    points = op("Reshape", base, row)
    ones = op("Expand", op.like(theta, 1), op("Concat", op("Shape", points, end=-1), op.ints([1]), axis=0))
    transposed = op("Transpose", op("Reshape", g, row), perm=[0, 2, 1])
    return (op("MatMul", transposed, op("Concat", points, ones, axis=-1)),)
