"""Where the channels of a tensor lie, by the operators that make it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

from onnx_attribution.channels import usual_axis
from onnx_attribution.graph_tools.ir.emit import shape_of
from onnx_attribution.graph_tools.ir.subgraphs import key_of
from onnx_attribution.graph_tools.operators import OPERATORS
from onnx_attribution.graph_tools.select.layers import CONVOLUTIONS, POOLS

SECOND = (
    CONVOLUTIONS
    | POOLS
    | frozenset(
        ("", operator)
        for operator in (
            "BatchNormalization", "DepthToSpace", "GroupNormalization", "InstanceNormalization", "LRN",
            "SpaceToDepth",
        )
    )
    | {("com.microsoft", "FusedConv")}
)  # fmt: skip
"""Operators whose output has its channels on axis 1."""
RECURRENT = ("GRU", "LSTM", "RNN")
LAST = frozenset(
    [
        *(
            ("", operator)
            for operator in ("Gemm", "LayerNormalization", "LSTM", "GRU", "RNN", "RMSNormalization")
        ),
        *(("com.microsoft", operator) for operator in ("FusedGemm", "SkipLayerNormalization")),
    ]
)
"""Operators whose output has its channels on the last axis, as products with a matrix of weights have."""
PRODUCTS = frozenset({"FusedMatMul", "MatMul", "QLinearMatMul"})
ALIKE = frozenset(
    {
        "Cast", "Clip", "Concat", "DequantizeLinear", "Dropout", "Identity", "LogSoftmax", "Pad", "QuantizeLinear",
        "Resize", "Slice", "Softmax", "Upsample",
    }
)  # fmt: skip
"""Operators beside the elementwise ones whose output has the axes of their first input."""


def channel_axis(value: gs.Tensor) -> int | None:
    """The axis of the channels of a tensor, in the file's own layout; None where its rank is not known.

    That of the last convolution, pool, normalisation or product with weights, or else of the first that reads it,
    through Transposes and operators that leave axes as they are, or the one axis that a reduction over positions
    leaves; where there is none of these, the first whose size is fixed beside some that are open, or the usual one of
    its rank.
    """
    shape = shape_of(value)
    if shape is None:
        return None
    rank = len(shape)
    for found in (_nearest(value, rank, _made_by), _nearest(value, rank, _read_by)):
        if found is not None:
            return found
    fixed = [axis for axis in range(1, rank) if isinstance(shape[axis], int)]
    return fixed[0] if 0 < len(fixed) < rank - 1 else usual_axis(rank)  # an open axis has positions


Step = tuple[gs.Tensor, list[int] | None]
"""A tensor with the same axes, or in another order: which of these each of its own is."""
Look = Callable[[gs.Tensor, int], "Iterator[int | Step]"]


def _nearest(value: gs.Tensor, rank: int, look: Look) -> int | None:
    """The first axis that is found, as one of the tensor."""
    left, seen = deque([(value, list(range(rank)))]), {value.name}
    while left:
        tensor, own = left.popleft()
        for found in look(tensor, rank):
            if isinstance(found, int):
                return own[found]
            other, order = found
            if other.name not in seen:
                seen.add(other.name)
                left.append((other, own if order is None else [own[k] for k in order]))
    return None


def _made_by(value: gs.Tensor, rank: int) -> Iterator[int | Step]:
    """The axis of the operator that makes a tensor, or what it is made of."""
    for node in value.inputs:
        if node.op == "Transpose":
            order = _order(node, rank)
            yield node.inputs[0], [order.index(k) for k in range(rank)]
        elif key_of(node) in SECOND:
            yield min(1, rank - 1)
        elif key_of(node) in LAST or (
            node.op in PRODUCTS and any(isinstance(x, gs.Constant) for x in node.inputs)
        ):
            yield rank - 1
        elif (before := _same_axes(node, rank)) is not None:
            yield before, None


def _read_by(value: gs.Tensor, rank: int) -> Iterator[int | Step]:
    """The axis of an operator that reads a tensor, or what it makes of it."""
    for node in value.outputs:
        if node.op == "Transpose":
            yield node.outputs[0], _order(node, rank)
        elif key_of(node) in SECOND and node.inputs[0] is value:
            yield min(1, rank - 1)
        elif node.op in ("MatMul", "Gemm", *RECURRENT) and node.inputs[0] is value:
            yield rank - 1
        elif (left := _left(node, value, rank)) is not None:
            yield left
        elif _same_axes(node, rank) is value:
            yield node.outputs[0], None


def _left(node: gs.Node, value: gs.Tensor, rank: int) -> int | None:
    """The only axis beside that of the samples that a reduction over positions leaves: one of several axes, or of one
    that does not stay, as those of a normalisation do."""
    if not node.op.startswith("Reduce") or node.inputs[0] is not value:
        return None
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = given.values.reshape(-1).tolist() if isinstance(given, gs.Constant) else node.attrs.get("axes", [])
    gone = {axis % rank for axis in axes}
    left = set(range(1, rank)) - gone
    return left.pop() if len(left) == 1 and (len(gone) > 1 or not node.attrs.get("keepdims", 1)) else None


def _order(node: gs.Node, rank: int) -> list[int]:
    return list(node.attrs.get("perm", reversed(range(rank))))


def _same_axes(node: gs.Node, rank: int) -> gs.Variable | None:
    """The input whose axes are those of the output, if an operator leaves them as they are."""
    rule = OPERATORS.get(key_of(node))
    if node.op not in ALIKE and not (rule is not None and rule.elementwise):
        return None
    for x in node.inputs:
        if isinstance(x, gs.Variable) and not x.is_empty() and len(shape_of(x) or ()) == rank:
            return x
    return None
