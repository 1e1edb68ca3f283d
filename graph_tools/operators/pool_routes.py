"""The ways from the maxima of a MaxPool back to where they came from, by comparisons.

onnxruntime's MaxPool with indices takes thirty times as long as that without. A maximum over an image is one over
columns of one over rows: so each axis is gone back by itself, the first one first. Along it each element of a window is
compared with the maximum of the window in turn: the first that reaches it takes what is left, the last one the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_static, shape_of
from onnx_attribution.graph_tools.operators.convolution import windows
from onnx_attribution.graph_tools.operators.registry import NodeView
from onnx_attribution.graph_tools.operators.turns import by_turns, cut, padded, resized

LONGEST = 16
"""Elements of a window along one axis that are compared one by one."""


@dataclass(frozen=True)
class Line:
    """One spatial axis: which it is, its windows, and the sizes of what they read and make."""

    axis: int
    kernel: int
    stride: int
    begin: int
    size: int
    made: int

    @property
    def end(self) -> int:
        """How many elements the last window lacks."""
        return max(self.stride * (self.made - 1) + self.kernel - self.size - self.begin, 0)


def route(op: Emitter, node: NodeView, x: Value, z: Value, g: Value) -> Value | None:
    """Zeros of the shape of `x`, whose maxima are `z`, with `g` added where the first maximum of each window is.

    None where indices serve better: sizes are not known, windows have gaps or are long, or `g` may be infinite, of
    which 0 times is no number.
    """
    lines = _lines(op, node, x, z)
    if lines is None or not node.steady:
        return None
    pooled = [x]
    for line in reversed(lines[1:]):
        pooled.append(_pooled(op, pooled[-1], line, len(lines)))
    for line, source, made in zip(lines, reversed(pooled), [z, *reversed(pooled[1:])], strict=True):
        g = _along(op, source, made, g, line)
    return g


def _lines(op: Emitter, node: NodeView, x: Value, z: Value) -> list[Line] | None:
    sizes, made, kernel = shape_of(x), shape_of(z), node.attribute("kernel_shape")
    if sizes is None or made is None or not is_static(sizes[2:]) or not is_static(made[2:]):
        return None
    place = windows(op, node, kernel, x, z)
    begin = place.static_begin
    if begin is None or set(place.dilations) != {1} or max(kernel) > LONGEST or op.graph.opset < 13:
        return None
    if any(begin_ >= k for begin_, k in zip(begin, kernel, strict=True)):
        return None
    spatial = zip(range(2, len(sizes)), kernel, place.strides, begin, sizes[2:], made[2:], strict=True)
    return [Line(a, k, s, b, int(n), int(c)) for a, k, s, b, n, c in spatial]


def _pooled(op: Emitter, x: Value, line: Line, rank: int) -> Value:
    """The maxima along one axis."""
    only = [k == line.axis - 2 for k in range(rank)]
    made = op(
        "MaxPool",
        x,
        kernel_shape=[line.kernel if o else 1 for o in only],
        strides=[line.stride if o else 1 for o in only],
        pads=[line.begin if o else 0 for o in only] + [line.end if o else 0 for o in only],
    )
    made.shape = resized(x, line.axis, line.made)
    return made


def _along(op: Emitter, x: Value, z: Value, g: Value, line: Line) -> Value:
    """Back along one axis: zeros of the shape of `x` with `g` added at the first maximum of each window."""
    reach = line.stride * (line.made - 1) + 1
    around = padded(op, x, line.axis, line.begin, line.end, -np.inf)
    parts, rest, residues = list[Value](), g, list[Value]()
    for k in range(line.kernel - 1):
        ends = [op.ints([v]) for v in (k, k + reach, line.axis, line.stride)]
        element = op("Slice", around, *ends)
        element.shape = z.shape
        part = op("Mul", rest, op.cast(op("Equal", element, z), g.dtype))
        parts.append(part)
        rest = op("Sub", rest, part)
    parts.append(rest)
    turns = -(-line.size // line.stride)
    for residue in range(line.stride):
        terms = list[Value]()
        for k, part in enumerate(parts):
            offset, other = divmod(k - line.begin - residue, line.stride)
            if not other:
                terms.append(padded(op, part, line.axis, offset, turns - line.made - offset))
        terms = terms or [op.zeros_like(padded(op, rest, line.axis, 0, turns - line.made))]
        residues.append(terms[0] if len(terms) == 1 else op("Sum", *terms))
        residues[-1].shape = resized(z, line.axis, turns)
    return cut(op, by_turns(op, residues, line.axis), line.axis, line.size)
