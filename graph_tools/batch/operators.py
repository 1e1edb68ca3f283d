"""How rows pass operators that move, mix or size axes.

A rule rewrites its node in place, and returns where the rows lie in the outputs; None: in none, or as it has noted.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_attribution.graph_tools.batch.freeing import Axis, Freeing, follows


@follows("Reshape")
def _reshape(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    before, after = freeing.shapes.get(node.input[0]), freeing.shapes.get(node.output[0])
    if before is None or after is None or None in before or None in after:
        if freeing.constant(node, 1) is None:  # the shape is computed at run time; the proof will tell
            freeing.guessed.update(node.output)
            return Axis(axis.position, axis.factor)
        raise freeing.fail(node)
    left = int(np.prod([d or 0 for d in before[: axis.position]]))
    places = [j for j in range(len(after)) if int(np.prod([d or 0 for d in after[:j]])) == left]
    if not places:
        raise freeing.fail(node)
    place = next((j for j in places if after[j] == freeing.size), places[0])  # their own, where there is one
    target = [int(d or 0) for d in after]
    rows = target[place]
    target[place] = -1
    if 0 in target or rows % freeing.size:
        raise freeing.fail(node)
    node.input[1] = freeing.new_constant(target)
    kept = [a for a in node.attribute if a.name != "allowzero"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return Axis(place, rows // freeing.size)


@follows("Transpose")
def _transpose(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    rank = freeing.rank(node.input[0])
    perm = freeing.attribute(node, "perm", list(range(rank))[::-1])
    return Axis(list(perm).index(axis.position), axis.factor)


@follows("Flatten")
def _flatten(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    split = freeing.attribute(node, "axis", 1)
    before = freeing.shapes[node.input[0]]
    split %= len(before) + 1
    if axis.position == 0 and split >= 1:
        return Axis(0, int(np.prod([d or 1 for d in before[:split]])) // freeing.size)
    if axis.position == split:
        return Axis(1, int(np.prod([d or 1 for d in before[split:]])) // freeing.size)
    raise freeing.fail(node)


@follows("Squeeze")
def _squeeze(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    before = freeing.shapes[node.input[0]]
    axes = freeing.constant(node, 1)
    if axes is None:
        chosen = [k for k, d in enumerate(before) if d == 1 and k != axis.position]
        del node.input[1:]
        node.input.append(freeing.new_constant(chosen))
    else:
        chosen = [int(k) % len(before) for k in axes.reshape(-1)]
    if axis.position in chosen:
        raise freeing.fail(node)
    return Axis(axis.position - sum(k < axis.position for k in chosen), axis.factor)


@follows("Unsqueeze")
def _unsqueeze(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    axes = freeing.constant(node, 1)
    if axes is None:
        raise freeing.fail(node)
    rank = freeing.rank(node.input[0]) + axes.size
    added = {int(k) % rank for k in axes.reshape(-1)}
    kept = [k for k in range(rank) if k not in added]
    return Axis(kept[axis.position], axis.factor)


@follows("Concat")
def _concat(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    rank = freeing.rank(node.input[0])
    if freeing.attribute(node, "axis") % rank == axis.position:
        raise freeing.fail(node)
    lead = next(x for x in node.input if x in freeing.tracked)
    for index, name in enumerate(node.input):
        if name in freeing.tracked:
            continue
        target = [1] * rank
        node.input[index] = freeing.emit(
            "Expand", [name, freeing.sizes_with_rows(lead, axis, target, axis.position)]
        )
    return axis


@follows("Expand")
def _expand(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    target = freeing.constant(node, 1)
    if node.input[0] not in freeing.tracked:
        return None
    if target is None:
        return freeing.aligned(node, axis)
    position = axis.position + max(target.size - freeing.rank(node.input[0]), 0)
    offset = position - (max(target.size, freeing.rank(node.input[0])) - target.size)
    if offset >= 0:
        changed = [int(d) for d in target]
        changed[offset] = 1
        node.input[1] = freeing.new_constant(changed)
    return Axis(position, axis.factor)


@follows("Resize")
def _resize(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    sizes = freeing.constant(node, 3)
    if sizes is not None and not freeing.attribute(node, "axes"):
        target = [int(d) for d in sizes]
        node.input[3] = freeing.sizes_with_rows(node.input[0], axis, target, axis.position)
    return axis


@follows("MatMul")
def _matmul(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    rank = freeing.rank(node.output[0])
    for index, name in enumerate(node.input):
        if name in freeing.tracked:
            own = freeing.tracked[name]
            from_right = freeing.rank(name) - own.position
            if (from_right == 1 and index == 0) or (from_right == 2 and index == 1):
                raise freeing.fail(node)
            return Axis(rank - from_right, own.factor)
    return None


@follows("Gemm")
def _gemm(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    if node.input[0] not in freeing.tracked or freeing.attribute(node, "transA", 0) != axis.position:
        raise freeing.fail(node)
    return Axis(0, axis.factor)


@follows(
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)
def _reduce(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    rank = freeing.rank(node.input[0])
    axes = freeing.constant(node, 1)
    given = axes.reshape(-1).tolist() if axes is not None else freeing.attribute(node, "axes", [])
    if not given and not freeing.attribute(node, "noop_with_empty_axes", 0):
        given = list(range(rank))
    chosen = {int(k) % rank for k in given}
    if axis.position in chosen:
        raise freeing.fail(node)
    if freeing.attribute(node, "keepdims", 1):
        return axis
    return Axis(axis.position - sum(k < axis.position for k in chosen), axis.factor)


@follows("ArgMax", "ArgMin")
def _arg(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    rank = freeing.rank(node.input[0])
    chosen = freeing.attribute(node, "axis", 0) % rank
    if chosen == axis.position:
        raise freeing.fail(node)
    drop = 0 if freeing.attribute(node, "keepdims", 1) else int(chosen < axis.position)
    return Axis(axis.position - drop, axis.factor)


@follows("Gather")
def _gather(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    rank, along = freeing.rank(node.input[0]), freeing.attribute(node, "axis", 0)
    along %= rank
    indices = freeing.rank(node.input[1])
    if node.input[0] not in freeing.tracked:
        return Axis(along + freeing.tracked[node.input[1]].position, axis.factor)
    if along == axis.position:
        return _gather_within(freeing, node, axis)
    return Axis(axis.position + (indices - 1 if along < axis.position else 0), axis.factor)


def _gather_within(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    """Constant indices into the elements of the one row: the same elements of every row."""
    before, chosen = freeing.shapes[node.input[0]], freeing.constant(node, 1)
    if chosen is None or not chosen.ndim or chosen.shape[0] != 1 or None in before or freeing.size != 1:
        raise freeing.fail(node)
    target = [*before[: axis.position], -1, axis.factor, *before[axis.position + 1 :]]
    shape = freeing.new_constant([int(d or 0) for d in target])
    node.input[0] = freeing.emit("Reshape", [node.input[0], shape])
    node.input[1] = freeing.new_constant(chosen[0])
    freeing.set_attribute(node, "axis", axis.position + 1)
    return Axis(axis.position, 1)


@follows("GatherND")
def _gather_nd(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    """Constant indices whose first coordinate names the one row: the others, in every row."""
    chosen = freeing.constant(node, 1)
    if chosen is None or axis != Axis(0, 1) or freeing.attribute(node, "batch_dims", 0):
        return freeing.aligned(node, axis)  # the proof will tell
    if freeing.size != 1 or chosen.shape[0] != 1 or chosen.shape[-1] < 2 or chosen[..., 0].any():
        raise freeing.fail(node)
    others = freeing.new_constant(chosen[..., 1:])
    sizes = freeing.sizes_with_rows(node.input[0], axis, [1] * chosen.ndim, 0)
    node.input[1] = freeing.emit("Expand", [others, sizes])
    freeing.set_attribute(node, "batch_dims", 1)
    return axis


@follows("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN")
def _recurrent(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    batch_first = bool(freeing.attribute(node, "layout", 0))
    rows, source = 0 if batch_first else 1, node.input[0]
    if freeing.tracked.get(source, Axis(-1, 1)).position != rows:
        raise freeing.fail(node)
    for index, place in ((4, 0), (5, rows), (6, rows)):  # lengths and initial states
        name = node.input[index] if index < len(node.input) else ""
        if name in freeing.constants:
            sizes = freeing.sizes_with_rows(source, axis, [1] * freeing.rank(name), place)
            node.input[index] = freeing.emit("Expand", [name, sizes])
    places = (0 if batch_first else 2, rows, rows)
    freeing.tracked.update({n: Axis(k, axis.factor) for n, k in zip(node.output, places, strict=False) if n})
    return None


@follows("Shape", "Size")
def _shape(freeing: Freeing, node: onnx.NodeProto, axis: Axis) -> Axis | None:
    return None
