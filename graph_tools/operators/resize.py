"""Resize: nearest by the index tensor, linear and cubic by one matrix per axis, built by the operator itself."""

from __future__ import annotations

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.transpose import (
    contract,
    dimensions,
    known,
    positions,
    rank_of,
    scatter_add,
)


@vjp("Resize", linear=[{0}])
def resize(op: Emitter, node: NodeView, g: Value) -> Gradients:
    if node.attribute("mode", "nearest") == "nearest":
        factors = _repeats(node)
        return (_repeated(op, node, g, factors) if factors else _nearest(op, node, g),)
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotDifferentiable(
            f"no gradient rule for Resize in mode {node.attribute('mode')} with keep_aspect_ratio_policy "
            f"{node.attribute('keep_aspect_ratio_policy')} (node {node.name!r}); rules exist for stretch",
            reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator="Resize", tensor=node.z.name,
        )  # fmt: skip
    for axis in _resized(node):
        g = contract(op, g, _matrix(op, node, axis), axis)
    return (g,)


def _axes(node: NodeView) -> list[int]:
    rank = rank_of(node.input(0))
    return [int(axis) % rank for axis in node.attribute("axes") or range(rank)]


def _given(node: NodeView, index: int) -> Value | None:
    """An optional input that is there and not an empty vector, which old opsets use for absence."""
    value = node.optional(index)
    return None if value is None or dimensions(value) == (0,) else value


def _repeats(node: NodeView) -> list[int] | None:
    """Per axis how often each element is repeated, where Resize does just that; else None."""
    x, z = dimensions(node.input(0)), dimensions(node.z)
    coordinate = node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    plain = (coordinate, rounding) in {
        ("asymmetric", "floor"),
        *((c, f"round_prefer_{r}") for c in ("half_pixel", "pytorch_half_pixel") for r in ("floor", "ceil")),
    }
    if not plain or node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    scales = known(_given(node, 2))
    if scales is not None:
        factors = np.ones(len(x))
        factors[_axes(node)] = scales
    elif all((isinstance(n, int) and isinstance(m, int)) or n == m != "?" for n, m in zip(x, z, strict=True)):
        factors = np.array(
            [int(m) / int(n) if isinstance(n, int) and n else 1 for n, m in zip(x, z, strict=True)]
        )
    else:
        return None
    if np.any(factors != np.round(factors)) or np.any(factors < 1):
        return None
    if coordinate == "pytorch_half_pixel" and 1 in [n for n, f in zip(x, factors, strict=True) if f > 1]:
        return None
    return [int(factor) for factor in factors]


def _repeated(op: Emitter, node: NodeView, g: Value, factors: list[int]) -> Value:
    """The sum over the copies of each element."""
    x = node.input(0)
    parts: list[Value] = []
    copies: list[int] = []
    for axis, factor in enumerate(factors):
        parts.append(op.dims(x, axis, axis + 1))
        if factor > 1:
            copies.append(len(parts))
            parts.append(op.ints([factor]))
    if not copies:
        return g
    numbers = [known(part) for part in parts]
    shape = (
        op.ints([int(n[0]) for n in numbers if n is not None])
        if all(n is not None for n in numbers)
        else None
    )
    apart = op("Reshape", g, shape or op("Concat", *parts, axis=0))
    summed = op("ReduceSum", apart, op.ints(copies), keepdims=0)
    summed.shape = x.shape
    return summed


def _nearest(op: Emitter, node: NodeView, g: Value) -> Value:
    """The index tensor in int32, which Resize takes; 0 stands for what was extrapolated."""
    x = node.input(0)
    numbers = op("Cast", positions(op, x, first=1), to=6)
    numbers.shape = x.shape
    index = op("Cast", node.again(op, numbers, *node.inputs[1:], extrapolation_value=0.0), to=7)
    zero = op.constant(np.int64(0))
    kept = op("Where", op("Greater", index, zero), g, op.like(g, 0))
    return scatter_add(op, x, op("Max", op("Sub", index, op.constant(np.int64(1))), zero), kept)


def _resized(node: NodeView) -> list[int]:
    """The axes that change. The first of four or more never does: onnxruntime interpolates the inner ones only."""
    x, z = dimensions(node.input(0)), dimensions(node.z)
    scales, cropped = (
        known(_given(node, 2)),
        node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize",
    )
    found: list[int] = []
    for position, axis in enumerate(_axes(node)):
        if len(x) >= 4 and axis == 0:
            continue
        unchanged = scales[position] == 1 if scales is not None else x[axis] == z[axis] != "?"
        if _given(node, 2) is not None and scales is None:
            unchanged = False
        if not unchanged or (cropped and axis > 1):
            found.append(axis)
    return found


def _matrix(op: Emitter, node: NodeView, axis: int) -> Value:
    """The matrix [n, out] that Resize applies along `axis`: what it makes of the rows of an identity.

    The rows are n images of n x 1 that become out x 2, as onnxruntime leaves alone what keeps its size, even where
    a scale of 1.2 moves 4 elements to 4 others.
    """
    x, z = node.input(0), node.z
    count, position = len(_axes(node)), _axes(node).index(axis)
    size, one, two = op.dims(x, axis, axis + 1), op.ints([1]), op.ints([2])
    square = op("EyeLike", op("Expand", op.like(x, 0), op("Concat", size, size, axis=0)))
    rows = op("Reshape", square, op("Concat", size, one, size, one, axis=0))
    roi, scales = _given(node, 1), _given(node, 2)
    box = window = sizes = None
    if roi is not None:
        first, last = _element(op, roi, position), _element(op, roi, position + count)
        start, stop = (op("Reshape", op.like(roi, number), one) for number in (0, 1))
        box = op("Concat", start, start, first, start, stop, stop, last, stop, axis=0)
    if scales is not None:
        same, double = (op("Reshape", op.like(scales, number), one) for number in (1, 2))
        window = op("Concat", same, same, _element(op, scales, position), double, axis=0)
    else:
        sizes = op("Concat", size, one, op.dims(z, axis, axis + 1), two, axis=0)
    made = node.again(op, rows, box, window, sizes, axes=None, extrapolation_value=0.0)
    column = op("Slice", made, op.ints([0]), one, op.ints([3]))
    return op("Squeeze", column, op.ints([1, 3]))


def _element(op: Emitter, vector: Value, position: int) -> Value:
    """One element of a vector, as a vector."""
    return op("Slice", vector, op.ints([position]), op.ints([position + 1]), op.ints([0]))
