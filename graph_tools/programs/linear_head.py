"""Linear heads in the graph of a file: a product with constants, and what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.graph_tools.ir.shapes import Dims
from onnx_attribution.graph_tools.programs.file_graph import FileGraph, of_onnx

PRODUCTS = ("Conv", "Gemm", "MatMul")
AFFINE = ("Add", "Div", "Mul", "Sub")
MEANS = ("AveragePool", "Dropout", "GlobalAveragePool", "Identity", "ReduceMean")


@dataclass(frozen=True)
class Head:
    """Logits that are linear in the tensor `features`: `weight` is `[classes, features]`, `bias` `[classes]`.

    `node` multiplies; `logits` are what it makes, with what is added to it and multiplied by it afterwards, and where
    there are several `positions`, their mean. The classes lie along `axis` of the logits, the features along
    `feature_axis` of their tensor, which has `rank` axes. `tail` has the outputs of the nodes that take the mean.
    `scored` are outputs of the file with a number for each class, as a softmax of the logits; `find_head` tells them.
    """

    node: str
    operator: str
    features: str
    logits: str
    weight: NDArray[np.float64] = field(repr=False)
    bias: NDArray[np.float64] = field(repr=False)
    dtype: np.dtype[Any]
    axis: int
    dims: Dims
    feature_axis: int
    rank: int
    positions: bool = False
    tail: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.weight)


def linear(file: FileGraph, tensor: str) -> Head:
    """The head of which a tensor is the product, or what is added to it and multiplied by it, or heads of the same
    features that are joined, as those of classes that were added.

    Raises:
        ModelError: it is none.
    """
    node = _origin(file, tensor)
    if node.op_type == "Concat" and of_onnx(node) and (found := _joined(file, node)) is not None:
        return with_tail(file, found)
    return with_tail(file, product(file, node))


def _origin(file: FileGraph, tensor: str, through: Sequence[str] = AFFINE) -> onnx.NodeProto:
    """The node before operators through which a head leads."""
    node = file.makers.get(tensor)
    while node is not None and node.op_type in through and of_onnx(node):
        moving = [x for x in node.input if file.constant(x) is None]
        if len(moving) != 1:
            break
        node = file.makers.get(moving[0])
    if node is None:
        raise refused(f"the head {tensor!r} is computed by no node of the file", tensor)
    return node


def _joined(file: FileGraph, node: onnx.NodeProto) -> Head | None:
    """Heads that a Concat joins along their classes as one; None where these are not of the same features."""
    parts = []
    for x in node.input:
        origin = _origin(file, x, (*AFFINE, *MEANS))
        if origin.op_type not in PRODUCTS or not of_onnx(origin):
            return None
        parts.append(with_tail(file, product(file, origin)))
    first = parts[0]
    (axis,) = (helper.get_attribute_value(one) for one in node.attribute if one.name == "axis")
    kinds = {(one.operator, one.features, one.axis, one.dtype, one.positions, len(one.dims)) for one in parts}
    ends = [one.logits for one in parts]
    if len(kinds) > 1 or ends != list(node.input) or axis % len(first.dims) != first.axis:
        return None
    count = sum(one.classes for one in parts)
    return replace(
        first,
        node=node.name or node.output[0],
        logits=node.output[0],
        weight=np.concatenate([one.weight for one in parts]),
        bias=np.concatenate([one.bias for one in parts]),
        dims=tuple(count if k == first.axis else d for k, d in enumerate(first.dims)),
    )


def product(file: FileGraph, node: onnx.NodeProto) -> Head:
    """The product of a node, without what follows it."""
    name = node.name or node.output[0]
    if node.op_type not in PRODUCTS or not of_onnx(node):
        before = _head_before(file, node)
        instead = f"; the head before it may be {before!r}" if before else ""
        _refuse(name, node, f"a head is a Gemm, a MatMul or a 1x1 Conv with constant weights{instead}")
    features, weight = node.input[0], file.constant(node.input[1])
    if weight is None or file.constant(features) is not None:
        _refuse(name, node, "its second factor is no constant, so that it is not linear in one tensor")
    said = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    told = file.shapes.get(features) or file.shapes.get(node.output[0]) or ()
    kind, rank = weight.dtype, len(told) if node.op_type == "MatMul" else weight.ndim
    if not rank:
        _refuse(name, node, f"nothing tells how many axes {features!r} has; export it with shapes")
    if not np.issubdtype(kind, np.floating) and kind.name != "bfloat16":
        _refuse(name, node, f"its weights are {kind.name}, no floats")
    matrix = weight.astype(np.float64)
    bias: NDArray[np.float64] | None = None
    if node.op_type == "Gemm":
        if said.get("transA"):
            _refuse(name, node, "its samples are columns (transA)")
        matrix = said.get("alpha", 1.0) * (matrix if said.get("transB") else matrix.T)
        bias = _bias(file, name, node, len(matrix), said.get("beta", 1.0))
        axis, feature_axis = 1, 1
    elif node.op_type == "MatMul":
        if matrix.ndim != 2:
            _refuse(name, node, f"its weights have {matrix.ndim} axes; those of a head have 2")
        matrix, axis, feature_axis = matrix.T, rank - 1, rank - 1
        bias = np.zeros(len(matrix))
    else:
        moves = [*said.get("strides", ()), *said.get("kernel_shape", ()), *matrix.shape[2:]]
        if set(moves) - {1} or any(said.get("pads", ())) or said.get("group", 1) != 1:
            shape = "x".join(map(str, matrix.shape[2:]))
            why = f"a convolution is a head if it is 1x1, without strides, pads and groups; this is {shape}"
            _refuse(name, node, why)
        matrix = matrix.reshape(matrix.shape[:2])
        bias = _bias(file, name, node, len(matrix), 1.0)
        axis, feature_axis = 1, 1
    dims = file.shapes.get(node.output[0]) or (
        tuple(len(matrix) if k == axis else d for k, d in enumerate(told or (None,) * rank))
    )
    return Head(
        name, node.op_type, features, node.output[0], matrix, bias, kind, axis, dims, feature_axis, rank
    )


def _bias(
    file: FileGraph, name: str, node: onnx.NodeProto, classes: int, scale: float
) -> NDArray[np.float64]:
    """What a Gemm or Conv adds."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(classes)
    value = file.constant(node.input[2])
    if value is None:
        _refuse(name, node, f"{node.input[2]!r}, which it adds, is no constant")
    value = value.astype(np.float64)
    if value.size not in (1, classes) or (value.size > 1 and value.shape[-1] != classes):
        _refuse(name, node, f"what it adds, of shape {list(value.shape)}, is not one number a class")
    return scale * np.broadcast_to(value.reshape(-1), classes)


def with_tail(file: FileGraph, head: Head) -> Head:
    """The head with the constants that are added to it and multiplied by it, and the mean over its positions, as long
    as nothing else reads it."""
    while head.logits not in file.outputs and len(file.readers.get(head.logits, ())) == 1:
        (node,) = file.readers[head.logits]
        if not of_onnx(node) or list(node.input).count(head.logits) != 1:
            break
        further = _affine(file, head, node) if node.op_type in AFFINE else _mean(file, head, node)
        if further is None:
            break
        head = further
    return head


def _affine(file: FileGraph, head: Head, node: onnx.NodeProto) -> Head | None:
    """The head with a constant that is added or multiplied; None where it is none for each class."""
    first = node.input[0] == head.logits
    value = file.constant(node.input[1 if first else 0])
    own = None if value is None else _per_class(head, value.astype(np.float64))
    if own is None or (node.op_type == "Div" and not first):
        return None
    weight, bias = head.weight, head.bias
    if node.op_type in ("Mul", "Div"):
        factor = own if node.op_type == "Mul" else 1 / own
        weight, bias = weight * factor[:, None], bias * factor
    elif node.op_type == "Add":
        bias = bias + own
    else:
        weight, bias = (weight, bias - own) if first else (-weight, own - bias)
    return replace(head, weight=weight, bias=bias, logits=node.output[0])


def _mean(file: FileGraph, head: Head, node: onnx.NodeProto) -> Head | None:
    """The head with the mean over positions that a node takes, or what hands it on before one; None for others."""
    several = [k for k, size in enumerate(head.dims) if size != 1 and k not in (0, head.axis)]
    if not several or node.input[0] != head.logits:
        return None
    dims, axis = head.dims, head.axis
    said = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "GlobalAveragePool" and axis == 1:
        dims = (*dims[:2], *[1] * (len(dims) - 2))
    elif node.op_type == "AveragePool" and axis == 1:
        made = file.shapes.get(node.output[0])
        if made is None or any(size != 1 for size in made[2:]) or any(said.get("pads", ())):
            return None
        dims = (*dims[:2], *made[2:])
    elif node.op_type == "ReduceMean":
        given = file.constant(node.input[1]) if len(node.input) > 1 else said.get("axes")
        gone = {int(k) % len(dims) for k in np.atleast_1d(given)} if given is not None else set()
        if not gone or gone & {0, axis}:
            return None
        dims = tuple(1 if k in gone else d for k, d in enumerate(dims))
        if not said.get("keepdims", 1):
            axis -= sum(k < axis for k in gone)
            dims = tuple(d for k, d in enumerate(dims) if k not in gone)
    elif node.op_type != "Identity" and not (node.op_type == "Dropout" and len(node.input) < 3):
        return None
    return replace(
        head,
        logits=node.output[0],
        axis=axis,
        dims=dims,
        positions=head.positions or dims != head.dims,
        tail=(*head.tail, node.output[0]),
    )


def _per_class(head: Head, value: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """A constant as one number a class; None where it is another for each position or sample."""
    rank = len(head.dims)
    if value.size == 1:
        return np.full(head.classes, float(value.reshape(-1)[0])) if value.ndim <= rank else None
    if value.size != head.classes or value.ndim > rank:
        return None
    own = [1] * (rank - value.ndim) + list(value.shape)
    return value.reshape(-1) if own[head.axis] == head.classes else None


def _head_before(file: FileGraph, node: onnx.NodeProto) -> str:
    """The nearest product before a node, along first inputs."""
    for _ in range(16):
        if node.op_type in PRODUCTS:
            return node.name or node.output[0]
        if not node.input or node.input[0] not in file.makers:
            return ""
        node = file.makers[node.input[0]]
    return ""


def _refuse(name: str, node: onnx.NodeProto | None, why: str) -> NoReturn:
    """Raises: ModelError."""
    operator = f" is a {node.op_type}" if node is not None else ""
    raise refused(f"the head {name!r}{operator}: {why}", name)


def refused(why: str, node: str | None = None) -> ModelError:
    if node is None:
        return ModelError(why, reason=Reason.HEAD_INVALID)
    return ModelError(why, reason=Reason.HEAD_INVALID, node=node)
