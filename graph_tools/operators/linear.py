"""Matrix products."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.broadcast import unbroadcast
from onnx_attribution.graph_tools.ir.emit import COPIED, Emitter, Value, same_shape, shape_of
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp


@vjp("MatMul", linear=[{0}, {1}], bilinear=True, kinds={"weighted", "dense"})
def matmul(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, y, z = node.input(0), node.input(1), node.z
    rank_x, rank_y = len(shape_of(x) or ()), len(shape_of(y) or ())
    left = op("Unsqueeze", x, op.ints([0])) if rank_x == 1 else x
    right = op("Unsqueeze", y, op.ints([1])) if rank_y == 1 else y
    added = ([-2] if rank_x == 1 else []) + ([-1] if rank_y == 1 else [])
    grown = g
    if added:
        rank_z = len(shape_of(z) or ()) + len(added)
        grown = op("Unsqueeze", g, op.ints([a % rank_z for a in added]))
    batch = list(shape_of(z) or ())[: max(rank_x, rank_y, 2) - 2]
    dy = op("MatMul", transposed(op, left, max(rank_x, 2)), grown)
    if rank_x > 1 and rank_y == 2 and isinstance(y, gs.Constant) and np.prod(y.shape) > COPIED:
        dx = op.reshape_like(_times_transposed(op, g, y, rank_x), x)
    else:
        dx = op("MatMul", grown, transposed(op, right, max(rank_y, 2)))
        dx = _without_batch(op, dx, x, batch)
    return dx, _without_batch(op, dy, y, batch)


def _times_transposed(op: Emitter, g: Value, weight: gs.Constant, rank: int) -> Value:
    """The rows of g times a large weight, of which onnxruntime would fold a transposed copy."""
    g, scale = _unscaled(g)
    flat = g if rank == 2 else op("Reshape", g, op.ints([-1, int(weight.shape[1])]))
    return op("Gemm", flat, weight, transB=1, alpha=None if scale == 1 else scale)


def _unscaled(g: Value) -> tuple[Value, float]:
    """The gradient before it was multiplied by a number, and the number, which a product takes along."""
    maker = g.inputs[0] if g.inputs else None
    if maker is not None and maker.op == "Mul" and maker.domain is None:
        for x, number in (maker.inputs, maker.inputs[::-1]):
            if (
                isinstance(number, gs.Constant)
                and number.shape == ()
                and same_shape(shape_of(x), shape_of(g))
            ):
                return x, float(number.values)
    return g, 1.0


def transposed(op: Emitter, value: Value, rank: int) -> Value:
    """A stack of matrices, each transposed."""
    return op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _without_batch(op: Emitter, gradient: Value, operand: Value, batch: list[int | str]) -> Value:
    """The gradient of one operand, summed over the batch axes along which the operand was repeated."""
    shape = list(shape_of(operand) or ())
    if len(shape) == 1:
        summed = op("ReduceSum", gradient, op.ints(range(len(batch))), keepdims=0) if batch else gradient
        return op.reshape_like(summed, operand)
    gradient.shape = [*batch, *shape[-2:]]
    return unbroadcast(op, gradient, operand, gradient)


@vjp("Gemm", linear=[{0, 2}, {1, 2}], bilinear=True, kinds={"weighted", "dense"})
def gemm(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, y, c = node.input(0), node.input(1), node.optional(2)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    flip_x, flip_y = node.attribute("transA", 0), node.attribute("transB", 0)
    if flip_x:
        dx = op("Gemm", y, g, alpha=alpha, transA=flip_y, transB=1)
    else:
        dx = op("Gemm", g, y, alpha=alpha, transA=0, transB=1 - flip_y)
    if flip_y:
        dy = op("Gemm", g, x, alpha=alpha, transA=1, transB=flip_x)
    else:
        dy = op("Gemm", x, g, alpha=alpha, transA=1 - flip_x, transB=0)
    if c is None:
        return dx, dy
    dc = g if beta == 1.0 else op("Mul", g, op.like(g, beta))
    return dx, dy, unbroadcast(op, dc, c, node.z)
