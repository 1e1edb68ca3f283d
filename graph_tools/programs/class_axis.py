"""What operators make of scores of classes, and where the axis of the classes lies then.

A rule takes the nodes behind the head as they are, a node of them, and the scores that it reads; it says what its
outputs are, None for what has no axis of classes, after it has mended what fixes the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from onnx_attribution.graph_tools.ir.shapes import Dim, Dims

if TYPE_CHECKING:
    from onnx_attribution.graph_tools.programs.behind_head import Behind

ALIKE = frozenset({"Cast", "CastLike", "DequantizeLinear", "Dropout", "Identity", "Neg", "QuantizeLinear"})
SCALED = frozenset({"Add", "Div", "Mul", "Sub", "Sum"})
FINAL = frozenset({"Exp", "Hardmax", "LogSoftmax", "Sigmoid", "Softmax"})
"""With which logits end: what follows may be any function of each class."""
COMPARED = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
AFTERWARDS = frozenset(
    {
        "Abs",
        "Ceil",
        "Clip",
        "Floor",
        "Log",
        "Max",
        "Min",
        "Not",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Sqrt",
        "Where",
    }
    | {"And", "Or", "Softplus", "Tanh"}
)
POOLS = frozenset({"AveragePool", "GlobalAveragePool"})
PEAKS = frozenset({"GlobalMaxPool", "MaxPool"})
REDUCING = frozenset(
    f"Reduce{kind}"
    for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
TAKEN_APART = frozenset(
    {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"}
)


@dataclass(frozen=True)
class Scores:
    """A tensor with something for each class along an axis; `dims` are those of the file as it was. `linear`: these
    are logits."""

    axis: int
    dims: Dims
    linear: bool = True


class Numbers:
    """A tensor that holds numbers of classes."""


Kind = Scores | Numbers


Rule = Callable[["Behind", onnx.NodeProto, Mapping[str, Scores]], Sequence[Kind | None]]


def _only(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores], place: int = 0) -> Scores:
    """The scores that a node reads as its input of this place, and nowhere else."""
    if len(given) != 1 or node.input[place] not in given:
        at.refuse(node, "reads the scores in an unusual place")
    return given[node.input[place]]


def _alike(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    """One number made of each."""
    own = _only(at, node, given)
    for x in node.input[1:]:
        value = at.constant(x) if x else None
        if node.op_type.endswith("Linear") and value is not None and value.size > 1:
            at.refuse(node, f"has {value.size} scales {x!r}, and none for the new classes")
    return [own] + [own] * (node.op_type == "Dropout")


def _together(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    """Elementwise, of the scores and what broadcasts to them."""
    ranks = {x: len(kind.dims) for x, kind in given.items()}
    ends = {kind.axis - len(kind.dims) for kind in given.values()}
    if len(ends) != 1:
        at.refuse(node, "reads scores whose classes lie along different axes")
    (end,) = ends
    rank = max(ranks.values())
    for x in node.input:
        if not x or x in given:
            continue
        dims = at.dims(x)
        if dims is None:
            continue  # it broadcasts to any number of classes, or the new file does not run
        rank = max(rank, len(dims))
        if len(dims) >= -end and dims[end] != 1:
            what = "constant" if at.constant(x) is not None else "tensor"
            at.refuse(
                node, f"reads the {what} {x!r}, which has a number for each class and none for the new ones"
            )
    longest = max(given.values(), key=lambda kind: len(kind.dims))
    dims = (None,) * (rank - len(longest.dims)) + longest.dims
    linear = all(kind.linear for kind in given.values()) and node.op_type in SCALED
    return [Scores(rank + end, dims, linear)]


def _afterwards(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    """Any function of each class, once they are no logits any more."""
    if any(kind.linear for kind in given.values()):
        at.refuse(
            node,
            "is not linear, and no softmax or sigmoid either: the logits are no linear map of the features",
        )
    return _together(at, node, given)


def _final(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    return [replace(_only(at, node, given), linear=False)]


def _pooled(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own, made = _only(at, node, given), at.dims(node.output[0])
    if own.axis != 1:
        at.refuse(node, "pools the classes")
    several = any(size != 1 for size in own.dims[2:])
    if node.op_type in PEAKS and own.linear and several:
        at.refuse(node, "is not linear: the logits are no linear map of the features")
    if node.op_type == "GlobalAveragePool":
        made = (*own.dims[:2], *[1] * (len(own.dims) - 2))
    return [replace(own, dims=own.dims[:2] + (made or own.dims)[2:])]


def _reduced(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = _only(at, node, given)
    rank, axes = len(own.dims), at.ints(node, "axes", 1)
    if not axes:
        return [own] if axes == [] and at.attribute(node, "noop_with_empty_axes") else [None]
    gone = {axis % rank for axis in axes}
    if own.axis in gone:
        return [None]  # one number for all classes
    several = any(own.dims[axis] != 1 for axis in gone)
    if own.linear and several and node.op_type != "ReduceMean":
        at.refuse(
            node,
            "reduces positions otherwise than by their mean: the logits are no linear map of the features",
        )
    left = [axis for axis in range(rank) if axis not in gone]
    if at.attribute(node, "keepdims", 1):
        return [replace(own, dims=tuple(1 if k in gone else d for k, d in enumerate(own.dims)))]
    return [_of_axes(own, left)]


def _of_axes(own: Scores, left: Sequence[int | None]) -> Scores:
    """The scores with these of their axes, in this order; None: a new one of size 1."""
    return replace(
        own, axis=list(left).index(own.axis), dims=tuple(1 if k is None else own.dims[k] for k in left)
    )


def _best(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = _only(at, node, given)
    axis = at.attribute(node, "axis", -1 if node.op_type == "TopK" else 0)
    if axis % len(own.dims) != own.axis:
        at.refuse(node, "takes the best of another axis than the classes'")
    return [None, Numbers()] if node.op_type == "TopK" else [Numbers()]


def _transposed(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = _only(at, node, given)
    return [_of_axes(own, at.attribute(node, "perm") or list(range(len(own.dims)))[::-1])]


def _squeezed(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = _only(at, node, given)
    axes = at.ints(node, "axes", 1)
    gone = {axis % len(own.dims) for axis in axes} if axes else {k for k, d in enumerate(own.dims) if d == 1}
    if own.axis in gone:
        at.refuse(node, "takes away the axis of the classes")
    return [_of_axes(own, [k for k in range(len(own.dims)) if k not in gone])]


def _unsqueezed(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = _only(at, node, given)
    axes = at.ints(node, "axes", 1) or []
    left: list[int | None] = list(range(len(own.dims)))
    rank = len(left) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        left.insert(axis, None)
    return [_of_axes(own, left)]


def _flattened(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = _only(at, node, given)
    cut = at.attribute(node, "axis", 1) % (len(own.dims) + 1)
    front, back = own.dims[:cut], own.dims[cut:]
    side, new = (back, 1) if own.axis >= cut else (front, 0)
    if any(d != 1 for k, d in enumerate(side) if k != own.axis - (cut if new else 0)):
        at.refuse(node, "mixes the axis of the classes with another one")
    dims = [_product(front), _product(back)]
    return [Scores(new, tuple(dims), own.linear)]


def _product(dims: Sequence[Dim]) -> Dim:
    """The product of sizes; None where it is not known."""
    own = [d for d in dims if d != 1]
    if len(own) == 1:
        return own[0]
    return math.prod(d for d in own if isinstance(d, int)) if all(isinstance(d, int) for d in own) else None


def _reshaped(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    """A reshape keeps the axis of the classes where all before it, and all behind it, is of the same size as before."""
    own = _only(at, node, given)
    sizes = _sizes(at, node)
    if sizes is None:
        at.refuse(node, "has a shape that is computed in an unusual way")
    copied = not at.attribute(node, "allowzero", 0)
    made: list[Dim] = [
        own.dims[k] if size == 0 and copied and k < len(own.dims) else size for k, size in enumerate(sizes)
    ]
    before, behind = own.dims[: own.axis], own.dims[own.axis + 1 :]
    fitting = []
    for k, size in enumerate(made):
        same = [_equal(made[:k], before), _equal(made[k + 1 :], behind)]
        alike = any(same) if size == at.classes else same[1] and (same[0] or None in made[:k])
        if size in (at.classes, -1, None) and alike:
            fitting.append(k)
    if not fitting:
        shape = "x".join("?" if s is None else str(s) for s in sizes)
        at.refuse(node, f"makes {shape} of the scores, in which the axis of the classes is no axis any more")
    axis = fitting[0]
    if sizes[axis] == at.classes:
        _mend(at, node, axis, at.classes + len(at.names))
    made[axis] = at.classes
    return [Scores(axis, tuple(None if d == -1 else d for d in made), own.linear)]


def _equal(one: Sequence[Dim], other: Sequence[Dim]) -> bool:
    """Whether the products of sizes are certain to be equal."""
    sizes = [[d for d in dims if d != 1] for dims in (one, other)]
    if any(d in (-1, None) for d in (*sizes[0], *sizes[1])):
        return False
    numbers = [math.prod(d for d in dims if isinstance(d, int)) for dims in sizes]
    words = [sorted(d for d in dims if isinstance(d, str)) for dims in sizes]
    return numbers[0] == numbers[1] and words[0] == words[1]


def _sizes(at: Behind, node: onnx.NodeProto) -> list[int | None] | None:
    """The shape that a Reshape makes; None for a size that is computed."""
    if (given := at.ints(node, "shape", len(node.input))) is not None:
        return list(given)
    value = at.constant(node.input[1])
    if value is not None:
        return [int(one) for one in value]
    maker = at.makers.get(node.input[1])
    dims = at.shapes.get(node.input[1])
    if maker is None or maker.op_type != "Concat":
        return [None] * dims[0] if dims and isinstance(dims[0], int) else None
    found: list[int | None] = []
    for x in maker.input:
        own, size = at.constant(x), at.shapes.get(x)
        if own is not None:
            found += [int(one) for one in own]
        elif size and isinstance(size[0], int):
            found += [None] * size[0]
        else:
            return None
    return found


def _mend(at: Behind, node: onnx.NodeProto, axis: int, size: int) -> None:
    """Gives a Reshape another size along an axis."""
    if at.attribute(node, "shape") is not None:
        old = list(at.attribute(node, "shape"))
        at.put(node, "shape", [size if k == axis else d for k, d in enumerate(old)])
        return
    value = at.constant(node.input[1])
    if value is not None:
        at.replaced(node, 1, np.asarray([size if k == axis else d for k, d in enumerate(value)], np.int64))
        return
    maker, k = at.makers[node.input[1]], 0
    for place, x in enumerate(maker.input):
        own = at.constant(x)
        count = own.size if own is not None else int(at.shapes[x][0] or 0)
        if own is not None and k <= axis < k + count:
            wider = own.copy()
            wider[axis - k] = size
            at.replaced(maker, place, wider)
            return
        k += count


def _joined(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    own = next(iter(given.values()))
    if any(x not in given for x in node.input) or at.attribute(node, "axis") % len(own.dims) == own.axis:
        at.refuse(node, "joins the scores with others along an axis of classes")
    return [replace(own, dims=tuple(None if k != own.axis else d for k, d in enumerate(own.dims)))]


def _cut(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    """Slice, Split and Gather along other axes than the classes'."""
    own = _only(at, node, given)
    rank = len(own.dims)
    if node.op_type == "Slice":
        axes = at.ints(node, "axes", 3)
        if axes is None:
            starts = at.ints(node, "starts", 1) or []
            axes = list(range(len(starts)))
    else:
        axes = [at.attribute(node, "axis", 0)]
    if own.axis in {axis % rank for axis in axes}:
        at.refuse(node, "takes some of the classes by their places")
    open_dims = tuple(d if k == own.axis else None for k, d in enumerate(own.dims))
    if node.op_type != "Gather":
        return [replace(own, dims=open_dims)] * len(node.output)
    index = at.dims(node.input[1])
    if index is None:
        at.refuse(node, f"takes elements by {node.input[1]!r}, of unknown shape")
    (axis,) = (axis % rank for axis in axes)
    dims = open_dims[:axis] + (None,) * len(index) + open_dims[axis + 1 :]
    return [Scores(own.axis + (len(index) - 1 if axis < own.axis else 0), dims, own.linear)]


def _mapped(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    """A map of labels."""
    _only(at, node, given)
    for name in ("classlabels_strings", "classlabels_int64s"):
        if (known := at.attribute(node, name)) is not None:
            at.put(node, name, at.labels(node, known))
    return [None]


def _shape(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    return [None]  # computed at each run


def _last(at: Behind, node: onnx.NodeProto, given: Mapping[str, Scores]) -> Sequence[Kind | None]:
    at.refuse(
        node, "has a weight for each of the scores: they are features of a later layer, and this is no head"
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(ALIKE, _alike),
    **dict.fromkeys(SCALED, _together),
    **dict.fromkeys(FINAL, _final),
    **dict.fromkeys(COMPARED, _together),
    **dict.fromkeys(AFTERWARDS, _afterwards),
    **dict.fromkeys(POOLS | PEAKS, _pooled),
    **dict.fromkeys(REDUCING, _reduced),
    **dict.fromkeys(TAKEN_APART, _last),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), _best),
    **dict.fromkeys(("Gather", "Slice", "Split"), _cut),
    **dict.fromkeys(("Shape", "Size"), _shape),
    "Concat": _joined,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
    "ZipMap": _mapped,
}  # fmt: skip
