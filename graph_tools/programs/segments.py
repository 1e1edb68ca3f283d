"""Programs of paths whose layers are large: sums over the segments between rows, and how much varies over each."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators import VJP, RuleTable
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.path import NotSeparable
from onnx_attribution.graph_tools.programs.scalar import rows_first
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.graph_tools.walk.differentiate import Rules


def segments_program(
    network: Network, choice: Choice, *, rules: RuleTable = VJP, conductance: bool = True
) -> Program:
    """The trapezoid over segments of paths, whose rows are given: segments are data.

    Inputs: the network's own at the rows, hidden sources by name, and `target/weight`; `segment/ends`
    `[segments, rows]` is -1 at the row where a segment begins, 1 where it ends, else 0; `segment/sign` `[segments]` is
    1, or -1 for a segment that is taken off; and without `conductance` `segment/width` `[segments]` is what alpha grows
    by, in place of the activations.
    Outputs, in float32 at least: `sum/<layer>` `[1, *unit shape]`, of the mean gradients times the differences of
    activations; `square/<layer>` alike, of the squares of what varies, the differences of both multiplied;
    `varies/<layer>` and `size/<layer>` `[segments]`, the L1 norms of what varies and of what is summed; and
    `target/value` `[rows]`.

    NaN in one row of an element is in all segments of that element.
    """
    draft = Draft(network, choice.sources)
    op = draft.op
    weight = draft.weight(choice.target)
    gradients = draft.gradients(choice, weight, Rules(rules))
    draft.put_target(choice.target, weight, "target/value")
    ends = _given(draft, "ends", ["segment/segments", "segment/rows"])
    sign = op("Unsqueeze", _given(draft, "sign", ["segment/segments"]), op.ints([0]))
    width = (
        None if conductance else op("Unsqueeze", _given(draft, "width", ["segment/segments"]), op.ints([1]))
    )
    halves = op("Mul", op("Abs", ends), op.like(ends, 0.5))
    rows = op("Shape", ends, start=1)
    for layer in choice.layers:
        own, place = draft.tensor(layer), network.rows.get(layer)
        if place is None:
            raise NotSeparable(f"the rows of {layer!r} are not separable")
        wide = np.float64 if np.dtype(own.dtype) == np.float64 else np.float32
        flat = op("Concat", rows, op.ints([-1]), axis=0)
        gradients[layer].shape = own.shape
        front = rows_first(op, gradients[layer], place, None)
        g = op("Reshape", op.cast(front, wide), flat)
        step: Value
        if width is None:
            h = op("Reshape", op.cast(rows_first(op, own, place, None), wide), flat)
            step = op("MatMul", op.cast(ends, wide), h)
        else:
            step = op.cast(width, wide)
        piece = op("Mul", op("MatMul", op.cast(halves, wide), g), step)
        varies = op("Mul", op("MatMul", op.cast(ends, wide), g), step)
        unit = op("Concat", op.ints([1]), op("Shape", front, start=1), axis=0)
        for name, value in (("sum", piece), ("square", op("Mul", varies, varies))):
            total = op("MatMul", op.cast(sign, wide), value)
            draft.put(op("Reshape", total, unit, allowzero=1), f"{name}/{layer}")
        for name, value in (("varies", varies), ("size", piece)):
            draft.put(op("ReduceL1", value, op.ints([1]), keepdims=0), f"{name}/{layer}")
    return draft.finish()


def _given(draft: Draft, name: str, shape: list[int | str | None]) -> gs.Variable:
    return draft.add(gs.Variable(f"segment/{name}", dtype=np.dtype(np.float32), shape=shape))
