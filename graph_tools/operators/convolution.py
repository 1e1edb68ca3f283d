"""Convolutions: the gradient of one is the other, cropped or padded to the size of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_static, shape_of
from onnx_attribution.graph_tools.operators.conv_data import Axis, as_convolutions, flipped
from onnx_attribution.graph_tools.operators.gates import BLOCK
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, vjp


@dataclass(frozen=True)
class Windows:
    """Where the windows of a convolution or pooling lie: per spatial axis the kernel, steps and, as a vector in the
    graph, the padding before the first element."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: Value
    static_begin: tuple[int, ...] | None

    @property
    def extent(self) -> tuple[int, ...]:
        """How far one window reaches."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def windows(op: Emitter, node: NodeView, kernel: Sequence[int], source: Value, result: Value) -> Windows:
    """The windows that lead from `source` to `result`, both `[N, C, *spatial]`, exact for symbolic sizes."""
    rank = len(kernel)
    strides = tuple(node.attribute("strides") or [1] * rank)
    dilations = tuple(node.attribute("dilations") or [1] * rank)
    auto = node.attribute("auto_pad", "NOTSET")
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    known: tuple[int, ...] | None = None
    if auto in ("NOTSET", ""):
        known = tuple((node.attribute("pads") or [0] * (2 * rank))[:rank])
    elif auto == "VALID":
        known = (0,) * rank
    else:
        sizes, counts = shape_of(source), shape_of(result)
        if is_static(sizes) and is_static(counts):
            totals = [
                max((int(c) - 1) * s + e - int(n), 0)
                for n, c, s, e in zip(sizes[2:], counts[2:], strides, extent, strict=True)  # type: ignore[index]
            ]
            known = tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals)
    if known is not None:
        return Windows(tuple(kernel), strides, dilations, op.ints(known), known)
    reach = op(
        "Add",
        op("Mul", op("Sub", op.dims(result, 2), op.ints([1] * rank)), op.ints(strides)),
        op.ints(extent),
    )
    total = op("Max", op("Sub", reach, op.dims(source, 2)), op.ints([0] * rank))
    half = op("Div", total, op.ints([2] * rank))
    begin = half if auto == "SAME_UPPER" else op("Sub", total, half)
    return Windows(tuple(kernel), strides, dilations, begin, None)


def fit(op: Emitter, full: Value, begin: Value, like: Value) -> Value:
    """`full` cropped (or zero-padded) in its spatial axes to the size of `like`, starting at `begin`."""
    rank = len(shape_of(like) or ()) - 2
    end = op("Sub", op("Add", op.dims(like, 2), begin), op("Shape", full, start=2))
    none = op.ints([0, 0])
    pads = op("Concat", none, op("Neg", begin), none, end, axis=0)
    fitted = op("Pad", full, pads)
    fitted.shape = like.shape
    assert rank >= 0
    return fitted


def kernel_of(node: NodeView, weight: Value) -> tuple[int, ...]:
    """The spatial size of the kernel."""
    declared = node.attribute("kernel_shape") or (shape_of(weight) or ())[2:]
    if not is_static(tuple(declared)):
        raise NotDifferentiable(
            f"the size of the kernel {weight.name!r} of {node.operator} (node {node.name!r}) is unknown",
            reason=Reason.UNKNOWN_RANK, node=node.name, operator=node.operator, tensor=weight.name,
        )  # fmt: skip
    return tuple(int(d) for d in declared)


FEW = BLOCK // 2
"""Channels of an image up to which a transposed convolution is the faster one: a convolution computes whole blocks."""


@vjp("Conv", linear=[{0, 2}, {1, 2}], bilinear=True, kinds={"weighted"})
def conv(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, w = node.input(0), node.input(1)
    spatial = (shape_of(x) or ())[2:]
    place = windows(op, node, kernel_of(node, w), x, node.z)
    group = node.attribute("group", 1)
    db = op("ReduceSum", g, op.ints([0, *range(2, 2 + len(spatial))]), keepdims=0)
    return _conv_data(op, node, g, place, group), _conv_weight(op, x, w, g, place, group), db


def _conv_data(op: Emitter, node: NodeView, g: Value, place: Windows, group: int) -> Value:
    """The gradient of the data: a transposed convolution, or with a constant kernel what is faster."""
    x, w = node.input(0), node.input(1)
    counts, sizes, begin = shape_of(node.z), shape_of(x), place.static_begin
    known = is_static((counts or ("?",) * 3)[2:]) and is_static((sizes or ("?",) * 3)[2:])
    few = known and len(place.kernel) == 2 and group == 1 and isinstance(w, gs.Constant) and w.shape[1] <= FEW
    if isinstance(w, gs.Constant) and begin is not None and set(place.strides) == {1} and not few:
        pads = stride_one_pads(node, begin, place.extent)
        if pads is not None and min(pads) >= 0:
            made = op(
                "Conv", g, flipped(op, w, group), pads=pads, dilations=list(place.dilations), group=group
            )
            made.shape = x.shape
            return made
    attributes = {"strides": list(place.strides), "dilations": list(place.dilations), "group": group}
    if begin is not None and known:
        assert counts
        assert sizes
        spatial = zip(place.kernel, place.strides, place.dilations, begin, sizes[2:], counts[2:], strict=True)
        axes = [Axis(k, s, d, b, int(n), int(c)) for k, s, d, b, n, c in spatial]
        if isinstance(w, gs.Constant):
            made = as_convolutions(op, g, w, axes, group, steady=node.steady)
            if made is not None:
                return made
        end = [(a.made - 1) * a.stride + a.extent - a.begin - a.size for a in axes]
        # symmetric pads where they do it: CUDA's kernel takes no others
        pads = [a.begin if 0 <= a.begin - e < a.stride else max(e, 0) for a, e in zip(axes, end, strict=True)]
        extra = [p - e for p, e in zip(pads, end, strict=True)]
        if all(e < a.stride for e, a in zip(extra, axes, strict=True)):
            made = op("ConvTranspose", g, w, pads=[*begin, *pads], output_padding=extra, **attributes)
            made.shape = x.shape
            return made
    return fit(op, op("ConvTranspose", g, w, **attributes), place.begin, x)


def stride_one_pads(node: NodeView, begin: Sequence[int], extent: Sequence[int]) -> list[int] | None:
    """The pads of the convolution that undoes one of stride 1; None where the end padding is not known."""
    auto = node.attribute("auto_pad", "NOTSET")
    rank = len(begin)
    if auto in ("NOTSET", ""):
        end = (node.attribute("pads") or [0] * (2 * rank))[rank:]
    elif auto == "VALID":
        end = [0] * rank
    else:
        end = [e - 1 - b for e, b in zip(extent, begin, strict=True)]
    before = [e - 1 - b for e, b in zip(extent, begin, strict=True)]
    after = [e - 1 - b for e, b in zip(extent, end, strict=True)]
    return [*before, *after]


def _conv_weight(op: Emitter, x: Value, w: Value, g: Value, place: Windows, group: int) -> Value:
    """The gradient of the kernel: a convolution of x with g in which samples and channels change places."""
    rank = len(place.kernel)
    spatial = list(range(2, 2 + rank))
    reach = op(
        "Add",
        op("Mul", op("Sub", op.dims(g, 2), op.ints([1] * rank)), op.ints(place.strides)),
        op.ints(place.extent),
    )
    end = op("Sub", op("Sub", reach, op.dims(x, 2)), place.begin)
    none = op.ints([0, 0])
    padded = op("Pad", x, op("Concat", none, place.begin, none, end, axis=0))
    if group == 1:
        data = op("Transpose", padded, perm=[1, 0, *spatial])
    else:
        split = op(
            "Reshape",
            padded,
            op("Concat", op.dims(x, 0, 1), op.ints([group, -1]), op("Shape", padded, start=2), axis=0),
        )
        turned = op("Transpose", split, perm=[2, 1, 0, *[k + 1 for k in spatial]])
        sizes = [op.dims(w, 1, 2), op.ints([-1]), op("Shape", padded, start=2)]
        data = op("Reshape", turned, op("Concat", *sizes, axis=0))
    kernel = op("Transpose", g, perm=[1, 0, *spatial])
    made = op("Conv", data, kernel, strides=list(place.dilations), dilations=list(place.strides), group=group)
    turned = op("Transpose", made, perm=[1, 0, *spatial])
    turned.shape = w.shape
    return turned


@vjp("ConvTranspose", linear=[{0, 2}, {1, 2}], bilinear=True, kinds={"weighted"})
def conv_transpose(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, w = node.input(0), node.input(1)
    kernel = kernel_of(node, w)
    rank = len(kernel)
    strides = list(node.attribute("strides") or [1] * rank)
    dilations = list(node.attribute("dilations") or [1] * rank)
    group = node.attribute("group", 1)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begin = _transpose_begin(op, node, strides, extent)
    reach = op(
        "Add", op("Mul", op("Sub", op.dims(x, 2), op.ints([1] * rank)), op.ints(strides)), op.ints(extent)
    )
    end = op("Sub", op("Sub", reach, op.dims(node.z, 2)), begin)
    none = op.ints([0, 0])
    full = op("Pad", g, op("Concat", none, begin, none, end, axis=0))
    full.shape = [*(g.shape or [])[:2], *[None] * rank]
    dx = op("Conv", full, w, strides=strides, dilations=dilations, group=group)
    dx.shape = x.shape
    place = Windows(kernel, tuple(strides), tuple(dilations), op.ints([0] * rank), (0,) * rank)
    dw = _conv_weight(op, full, w, x, place, group)
    db = op("ReduceSum", g, op.ints([0, *range(2, 2 + rank)]), keepdims=0)
    return dx, dw, db


def _transpose_begin(op: Emitter, node: NodeView, strides: list[int], extent: list[int]) -> Value:
    """How many elements are cut before the first one, with the standard's split for `output_shape` and SAME_*."""
    rank = len(strides)
    auto = node.attribute("auto_pad", "NOTSET")
    if auto == "VALID":
        return op.ints([0] * rank)
    if auto in ("NOTSET", "") and not node.attribute("output_shape"):
        return op.ints((node.attribute("pads") or [0] * (2 * rank))[:rank])
    added = op.ints(node.attribute("output_padding") or [0] * rank)
    x = node.input(0)
    steps = op("Mul", op("Sub", op.dims(x, 2), op.ints([1] * rank)), op.ints(strides))
    total = op("Sub", op("Add", op("Add", steps, added), op.ints(extent)), op.dims(node.z, 2))
    total = op("Max", total, op.ints([0] * rank))
    half = op("Div", total, op.ints([2] * rank))
    return half if auto == "SAME_UPPER" else op("Sub", total, half)
