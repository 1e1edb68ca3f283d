"""Undoes broadcasting: the sum of a stretched gradient over the axes that were stretched."""

from __future__ import annotations

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, same_shape, shape_of


def unbroadcast(op: Emitter, gradient: Value, operand: Value, result: Value) -> Value:
    """`gradient`, which has the shape of `result`, summed to the shape of `operand`; both of known rank.

    Exact for symbolic dimensions: one that is unknown now and turns out 1 at run time is summed over.
    """
    small, large = shape_of(operand), shape_of(result)
    if small is None or large is None:
        unknown = operand if small is None else result
        raise NotDifferentiable(
            f"the rank of {unknown.name!r} is unknown", reason=Reason.UNKNOWN_RANK, tensor=unknown.name
        )
    if same_shape(small, large):
        return gradient
    offset = len(large) - len(small)
    if all(
        isinstance(a, int) or b == 1 or (a == b and a != "?")
        for a, b in zip(small, large[offset:], strict=True)
    ):
        axes = [k for k in range(len(large)) if k < offset or (small[k - offset] == 1 and large[k] != 1)]
        if not axes:
            return gradient
        summed = op("ReduceSum", gradient, op.ints(axes), keepdims=1)
    else:
        padded = (
            op("Concat", op.ints([1] * offset), op.shape(operand), axis=0) if offset else op.shape(operand)
        )
        stretched = op("Not", op("Equal", padded, op.shape(result)))
        axes_now = op("Reshape", op("NonZero", stretched), op.ints([-1]))
        summed = op("ReduceSum", gradient, axes_now, keepdims=1, noop_with_empty_axes=1)
    if offset == 0:
        summed.shape = operand.shape
        return summed
    return op.reshape_like(summed, operand)
