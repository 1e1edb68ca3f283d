"""Three ways to transpose a linear operator without knowing its details.

- *Index tensor*: run an operator that only moves elements on the positions 0, 1, 2, ...; what comes out says where
  each element came from, and the gradient is added there (`positions`, `scatter_add`).
- *Operator matrix*: run a separable operator on an identity matrix (`contract` multiplies one axis by it).
- *Placing*: a gradient that belongs to one contiguous region is padded with zeros (`place`).

Sums go through ScatterElements on flat tensors: ScatterND with reduction=add is a data race in onnxruntime's CPU
provider. Half types are summed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Shape, Value, same_shape, shape_of
from onnx_attribution.graph_tools.operators.registry import NodeView


def rank_of(value: Value) -> int:
    """The number of axes of a value of known rank."""
    shape = shape_of(value)
    if shape is None:
        raise NotDifferentiable(
            f"the rank of {value.name!r} is unknown", reason=Reason.UNKNOWN_RANK, tensor=value.name
        )
    return len(shape)


def known(value: Value | None) -> NDArray[Any] | None:
    """The numbers of a constant, or None for what is only known when the model runs."""
    if isinstance(value, gs.Constant):
        return np.asarray(value.values)
    if isinstance(value, gs.Variable) and len(value.inputs) == 1 and value.inputs[0].op == "Constant":
        held = value.inputs[0].attrs.get("value")
        return np.asarray(held.values) if isinstance(held, gs.Constant) else None
    return None


def known_inside(value: Value) -> NDArray[Any] | None:
    """As `known`, also of a constant that a body reads from outside under a name of its own."""
    while value.inputs and value.inputs[0].op == "Identity":
        value = value.inputs[0].inputs[0]
    return known(value)


def number_of(value: Value) -> float | None:
    """The value of a constant of one element."""
    array = known_inside(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def type_number(value: Value) -> int:
    """ONNX's number of the element type of `value`."""
    if isinstance(value.dtype, int):  # a type that numpy lacks
        return int(value.dtype)
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)))


def convert(op: Emitter, value: Value, like: Value) -> Value:
    """`value` cast to the element type of `like`; itself where it has that type."""
    if value.dtype is not None and type_number(value) == type_number(like):
        return value
    number = type_number(like)
    made = op("Cast", value, to=number)
    made.dtype, made.shape = like.dtype, value.shape
    return made


def accumulable(op: Emitter, value: Value) -> Value:
    """`value` in a type in which sums are exact enough: half types become float32."""
    if type_number(value) in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
        made = op("Cast", value, to=onnx.TensorProto.FLOAT)
        made.dtype, made.shape = np.dtype(np.float32), value.shape
        return made
    return value


def positions(op: Emitter, x: Value, first: int = 0) -> Value:
    """The int64 numbers `first`, `first` + 1, ... in the shape of `x`: the index tensor."""
    size = op.size(x)
    stop = op("Add", size, op.constant(np.int64(first))) if first else size
    made = op("Range", op.constant(np.int64(first)), stop, op.constant(np.int64(1)))
    made.shape = [None]
    return op.reshape_like(made, x)


def flat(op: Emitter, value: Value) -> Value:
    """`value` as a vector."""
    return value if shape_of(value) and rank_of(value) == 1 else op("Reshape", value, op.ints([-1]))


def scatter_add(op: Emitter, x: Value, index: Value, g: Value) -> Value:
    """Zeros of the shape of `x` with the elements of `g` added at the flat positions `index`, repeated ones too.

    Raises:
        NotDifferentiable: the model is below opset 16, where nothing scatters and adds.
    """
    wide = accumulable(op, g)
    size = op("Reshape", op.size(x), op.ints([1]))
    zero = gs.Constant("zero", np.zeros(1, dtype=wide.dtype))
    total = add_at(op, op("ConstantOfShape", size, value=zero), flat(op, index), flat(op, wide), 0)
    total.shape = [None]
    return convert(op, op.reshape_like(total, x), x)


def add_at(op: Emitter, data: Value, index: Value, updates: Value, axis: int) -> Value:
    """`data` with `updates` added at `index` along `axis`, as ScatterElements does."""
    if op.graph.opset < 16:
        raise NotDifferentiable(
            f"the gradient needs ScatterElements with reduction=add, which opset {op.graph.opset} lacks; convert the "
            "model to opset 16 or later",
            reason=Reason.OLD_OPSET,
            tensor=data.name,
        )
    return op("ScatterElements", data, index, updates, axis=axis, reduction="add")


def moved(op: Emitter, node: NodeView, g: Value, *others: Value | None, index: int = 0) -> Value:
    """The gradient of input `index` of an operator that only moves its elements; `others` follow the first input."""
    x = node.input(index)
    return scatter_add(op, x, node.again(op, positions(op, x), *others), g)


def moved_or_filled(op: Emitter, node: NodeView, g: Value, *others: Value | None, **changed: Any) -> Value:
    """As `moved`, for an operator that also fills places with a constant: position 0 stands for filling."""
    x = node.input(0)
    index = node.again(op, positions(op, x, first=1), *others, **changed)
    index.shape = node.z.shape
    zero = op.constant(np.int64(0))
    kept = op("Where", op("Greater", index, zero), g, op.like(g, 0))
    return scatter_add(op, x, op("Max", op("Sub", index, op.constant(np.int64(1))), zero), kept)


def place(op: Emitter, g: Value, x: Value, region: Value, begins: Mapping[int, int | Value]) -> Value:
    """Zeros of the shape of `x` with `g`, which has the shape of `region`, at the offsets `begins` by axis."""
    outer, inner = shape_of(x), shape_of(region)
    if outer is None or inner is None:
        raise NotDifferentiable(
            f"the rank of {x.name!r} or {region.name!r} is unknown", reason=Reason.UNKNOWN_RANK, tensor=x.name
        )
    before = [begins.get(axis, 0) for axis in range(len(outer))]
    after = [_margin(o, i, b) for o, i, b in zip(outer, inner, before, strict=True)]
    if all(isinstance(number, int) for number in (*before, *after)):
        if not any(before) and not any(after):
            return g
        pads: Value = op.ints([int(number) for number in (*before, *after) if isinstance(number, int)])
    else:
        parts = [
            op("Reshape", b, op.ints([1])) if isinstance(b, gs.Tensor) else op.ints([int(b)]) for b in before
        ]
        start = (
            op("Concat", *parts, axis=0) if any(isinstance(b, gs.Tensor) for b in before) else op.ints(before)
        )
        end = op("Sub", op("Sub", op.shape(x), op("Shape", g)), start)
        pads = op("Concat", start, end, axis=0)
    made = op("Pad", g, pads)
    made.shape = x.shape
    return made


def _margin(outer: int | str, inner: int | str, begin: int | Value) -> int | None:
    """What is left of `outer` after `begin` and `inner`; None where that is only known at run time."""
    if isinstance(outer, int) and isinstance(inner, int) and isinstance(begin, int):
        return outer - inner - begin
    return 0 if isinstance(begin, int) and begin == 0 and same_shape((outer,), (inner,)) else None


def contract(op: Emitter, g: Value, matrix: Value, axis: int) -> Value:
    """`g` with `axis` multiplied by `matrix` [n, out]: entry i is the sum over k of matrix[i, k] * g[..., k, ...]."""
    rank = rank_of(g)
    if axis == rank - 2:
        made = op("MatMul", matrix, g)
    elif axis == rank - 1:
        made = op("MatMul", g, op("Transpose", matrix, perm=[1, 0]))
    else:
        perm = [*(a for a in range(rank) if a not in (axis, rank - 1)), axis, rank - 1]
        back = [perm.index(a) for a in range(rank)]
        made = op("Transpose", op("MatMul", matrix, op("Transpose", g, perm=perm)), perm=back)
    made.shape = [None if a == axis else d for a, d in enumerate(g.shape or [])]
    return made


def dimensions(value: Value) -> Shape:
    """The shape of a value of known rank, with "?" for what is unknown."""
    rank_of(value)
    return shape_of(value) or ()


def declare(value: Value, shape: Iterable[int | str | None]) -> Value:
    """`value` with its shape noted; "?" is left open, as onnxruntime takes equal names for equal sizes."""
    value.shape = [None if size == "?" else size for size in shape]
    return value
