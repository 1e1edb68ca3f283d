"""Frees a fixed batch axis: rewrites the shapes that an exporter baked in, so that a file with batch 1 takes any batch.

The axis is followed through the graph. Where an operator mixes it with others the model cannot be freed; whether what
comes out is right is not decided here but by the proof in `batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied, set_nodes
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, reads
from onnx_attribution.graph_tools.ir.weights import value_of

ROWS = "rows"
Dims = tuple[int | None, ...]


class CannotFree(Exception):
    """The batch axis is mixed with others; the message names the node."""


@dataclass(frozen=True)
class Axis:
    """Rows lie along `position`, `factor` elements each."""

    position: int
    factor: int


def free(model: onnx.ModelProto, axes: Mapping[str, int | None]) -> onnx.ModelProto:
    """The model with `axes` of its inputs symbolic; needs shapes as inferred for the fixed batch.

    Raises:
        CannotFree: the axis does not stay an axis of its own.
    """
    return _Freeing(model, axes).result()


class _Freeing:
    def __init__(self, model: onnx.ModelProto, axes: Mapping[str, int | None]) -> None:
        self.model = copied(model)
        graph = self.model.graph
        self.constants = {i.name: i for i in graph.initializer}
        self.shapes: dict[str, Dims] = {i.name: tuple(i.dims) for i in graph.initializer}
        for value in [*graph.input, *graph.value_info, *graph.output]:
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                self.shapes[value.name] = tuple(
                    d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
                )
        self.tracked = {name: Axis(axis, 1) for name, axis in axes.items() if axis is not None}
        fixed = [self.shapes[name][axis] for name, axis in axes.items() if axis is not None]
        sizes = {size for size in fixed if size is not None}
        if len(sizes) > 1:
            raise CannotFree(f"the batch axes have different sizes: {sorted(map(str, sizes))}")
        self.size = sizes.pop() if sizes else 1  # how many rows the file is made for
        self.guessed: set[str] = set()  # behind a shape that is computed at run time
        self.nodes: list[onnx.NodeProto] = []
        self.count = 0

    def result(self) -> onnx.ModelProto:
        graph = self.model.graph
        self._rewrite(graph)
        for value in [*graph.value_info, *graph.input, *graph.output]:
            shape = value.type.tensor_type.shape.dim
            if value.name in self.guessed:  # runtimes reuse memory by declared sizes
                for dim in shape:
                    dim.Clear()
            elif (axis := self.tracked.get(value.name)) is not None and axis.position < len(shape):
                shape[axis.position].dim_param = ROWS if axis.factor == 1 else f"{ROWS}*{axis.factor}"
        return self.model

    def _rewrite(self, graph: onnx.GraphProto) -> None:
        """Follows the rows through the nodes of a graph, and replaces them by what is made of them."""
        outer, self.nodes = self.nodes, []
        for node in graph.node:
            found = [self.tracked[x] for x in reads(node) if x in self.tracked]
            if found:
                self._visit(node, found[0])
            if node.op_type not in ("Shape", "Size") and any(x in self.guessed for x in node.input if x):
                self.guessed.update(node.output)
            self.nodes.append(node)
        set_nodes(graph, self.nodes)
        self.nodes = outer

    def _visit(self, node: onnx.NodeProto, axis: Axis) -> None:
        if node.domain == "ai.onnx.ml":  # rows first, in and out
            self.tracked.update({name: Axis(0, 1) for name in node.output if axis.position == 0})
            return
        handler = _HANDLERS.get(node.op_type, _Freeing._aligned)
        out = handler(self, node, axis)
        for name in node.output:
            if name and out is not None:
                if out.position >= len(self.shapes.get(name, range(out.position + 1))):
                    raise self.fail(node)  # a guess that a tensor of this rank disproves
                self.tracked[name] = out

    # --- helpers

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        if index < len(node.input) and node.input[index] in self.constants:
            return value_of(self.constants[node.input[index]])
        return None

    def rank(self, name: str) -> int:
        if name not in self.shapes:
            raise CannotFree(f"the rank of {name!r} is unknown")
        return len(self.shapes[name])

    def set_attribute(self, node: onnx.NodeProto, name: str, value: int) -> None:
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def new_constant(self, values: list[int] | np.ndarray) -> str:
        self.count += 1
        name = f"{ROWS}/constant_{self.count}"
        tensor = numpy_helper.from_array(np.asarray(values, dtype=np.int64), name)
        self.model.graph.initializer.append(tensor)
        return name

    def emit(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        self.count += 1
        name = f"{ROWS}/{operator}_{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def fail(self, node: onnx.NodeProto) -> CannotFree:
        return CannotFree(f"{node.op_type} (node {node.name!r}) mixes the batch axis with others")

    def sizes_with_rows(self, source: str, axis: Axis, target: list[int], position: int) -> str:
        """A shape vector: `target` with the rows of `source` at `position`."""
        rows = self.emit("Shape", [source], start=axis.position, end=axis.position + 1)
        before, after = target[:position], target[position + 1 :]
        parts = [self.new_constant(before)] if before else []
        parts += [rows] + ([self.new_constant(after)] if after else [])
        return self.emit("Concat", parts, axis=0)

    # --- graphs inside nodes

    def _body(self, body: onnx.GraphProto, entering: Sequence[Axis | None]) -> list[Axis | None]:
        """Rewrites a body whose inputs hold rows where `entering` says; returns where its outputs do.

        What was inferred of it for one row is dropped.
        """
        inner = [*body.input, *body.value_info, *body.output]
        self.shapes |= {
            v.name: tuple(
                d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim
            )
            for v in inner
            if v.type.tensor_type.HasField("shape")
        }
        self.constants |= {
            node.output[0]: a.t
            for node in body.node
            for a in node.attribute
            if node.op_type == "Constant" and a.name == "value"
        }
        made = {z for node in body.node for z in node.output}
        for name in [*made, *(x.name for x in body.input)]:
            self.tracked.pop(name, None)
        entered = zip(body.input, entering, strict=False)
        self.tracked.update({x.name: axis for x, axis in entered if axis is not None})
        self._rewrite(body)
        del body.value_info[:]
        for value in [*body.input, *body.output]:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
        return [self.tracked.get(z.name) for z in body.output]

    def _if(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        ends = [self._body(branch, []) for branch in inner_graphs(node)]
        for name, places in zip(node.output, zip(*ends, strict=True), strict=True):
            found = set(places)
            if len(found) != 1:
                raise self.fail(node)  # one branch makes rows of it, the other does not
            if (place := found.pop()) is not None:
                self.tracked[name] = place
        return None

    def _loop(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        body = self.attribute(node, "body")
        states = len(node.input) - 2
        ends = self._carried(node, body, 2, states, [], axis)
        self._leaves(node, ends[1 : states + 1], ends[states + 1 :], [0] * (len(ends) - states - 1))
        return None

    def _scan(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        body, count = self.attribute(node, "body"), self.attribute(node, "num_scan_inputs")
        states = len(node.input) - count
        along = self.attribute(node, "scan_input_axes", [0] * count)
        parts: list[Axis | None] = []
        for name, position in zip(node.input[states:], along, strict=True):
            own = self.tracked.get(name)
            position %= self.rank(name)
            if own is not None and own.position == position:
                raise self.fail(node)
            parts.append(own and Axis(own.position - (own.position > position), own.factor))
        ends = self._carried(node, body, 0, states, parts, axis)
        out = self.attribute(node, "scan_output_axes", [0] * (len(ends) - states))
        self._leaves(node, ends[:states], ends[states:], out)
        return None

    def _carried(
        self,
        node: onnx.NodeProto,
        body: onnx.GraphProto,
        first: int,
        states: int,
        parts: list[Axis | None],
        axis: Axis,
    ) -> list[Axis | None]:
        """Rewrites a body that carries states; a state that comes to hold rows does so from the start."""
        lead = next(x for x in reads(node) if x in self.tracked)
        for _ in range(states + 1):
            entering = [self.tracked.get(x) for x in node.input[first : first + states]]
            trial = onnx.GraphProto()
            trial.CopyFrom(body)
            count, known, nodes = self.count, len(self.model.graph.initializer), list(self.nodes)
            ends = self._body(trial, [*[None] * first, *entering, *parts])
            carried = ends[1 if first else 0 :][:states]
            late = [k for k in range(states) if carried[k] is not None and entering[k] is None]
            if not late:
                break
            self.count, self.nodes = count, nodes
            del self.model.graph.initializer[known:]
            for k in late:
                place = carried[k]
                assert place is not None
                name = node.input[first + k]
                sizes = self.sizes_with_rows(lead, self.tracked[lead], [1] * self.rank(name), place.position)
                node.input[first + k] = self.emit("Expand", [name, sizes])
                self.tracked[node.input[first + k]] = place
                self.shapes[node.input[first + k]] = self.shapes[name]
        if any(a != b for a, b in zip(entering, carried, strict=True)):
            raise self.fail(node)
        body.CopyFrom(trial)
        return ends

    def _leaves(
        self,
        node: onnx.NodeProto,
        carried: Sequence[Axis | None],
        scanned: Sequence[Axis | None],
        along: Sequence[int],
    ) -> None:
        """Where rows lie in the outputs of a loop; what is stacked gains an axis."""
        for name, place in zip(node.output, carried, strict=False):
            if place is not None:
                self.tracked[name] = place
        for name, place, position in zip(node.output[len(carried) :], scanned, along, strict=False):
            if place is not None:
                if position < 0:
                    raise self.fail(node)
                self.tracked[name] = Axis(place.position + (place.position >= position), place.factor)

    # --- operators; each returns where the rows are in its outputs, None where they are in none

    def _reshape(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        before, after = self.shapes.get(node.input[0]), self.shapes.get(node.output[0])
        if before is None or after is None or None in before or None in after:
            if self.constant(node, 1) is None:  # the shape is computed at run time; the proof will tell
                self.guessed.update(node.output)
                return Axis(axis.position, axis.factor)
            raise self.fail(node)
        left = int(np.prod([d or 0 for d in before[: axis.position]]))
        places = [j for j in range(len(after)) if int(np.prod([d or 0 for d in after[:j]])) == left]
        if not places:
            raise self.fail(node)
        place = next((j for j in places if after[j] == self.size), places[0])  # their own, where there is one
        target = [int(d or 0) for d in after]
        rows = target[place]
        target[place] = -1
        if 0 in target or rows % self.size:
            raise self.fail(node)
        node.input[1] = self.new_constant(target)
        kept = [a for a in node.attribute if a.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
        return Axis(place, rows // self.size)

    def _transpose(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        rank = self.rank(node.input[0])
        perm = self.attribute(node, "perm", list(range(rank))[::-1])
        return Axis(list(perm).index(axis.position), axis.factor)

    def _flatten(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        split = self.attribute(node, "axis", 1)
        before = self.shapes[node.input[0]]
        split %= len(before) + 1
        if axis.position == 0 and split >= 1:
            return Axis(0, int(np.prod([d or 1 for d in before[:split]])) // self.size)
        if axis.position == split:
            return Axis(1, int(np.prod([d or 1 for d in before[split:]])) // self.size)
        raise self.fail(node)

    def _squeeze(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        before = self.shapes[node.input[0]]
        axes = self.constant(node, 1)
        if axes is None:
            chosen = [k for k, d in enumerate(before) if d == 1 and k != axis.position]
            del node.input[1:]
            node.input.append(self.new_constant(chosen))
        else:
            chosen = [int(k) % len(before) for k in axes.reshape(-1)]
        if axis.position in chosen:
            raise self.fail(node)
        return Axis(axis.position - sum(k < axis.position for k in chosen), axis.factor)

    def _unsqueeze(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        axes = self.constant(node, 1)
        if axes is None:
            raise self.fail(node)
        rank = self.rank(node.input[0]) + axes.size
        added = {int(k) % rank for k in axes.reshape(-1)}
        kept = [k for k in range(rank) if k not in added]
        return Axis(kept[axis.position], axis.factor)

    def _concat(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        rank = self.rank(node.input[0])
        if self.attribute(node, "axis") % rank == axis.position:
            raise self.fail(node)
        lead = next(x for x in node.input if x in self.tracked)
        for index, name in enumerate(node.input):
            if name in self.tracked:
                continue
            target = [1] * rank
            node.input[index] = self.emit(
                "Expand", [name, self.sizes_with_rows(lead, axis, target, axis.position)]
            )
        return axis

    def _expand(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        target = self.constant(node, 1)
        if node.input[0] not in self.tracked:
            return None
        if target is None:
            return self._aligned(node, axis)
        position = axis.position + max(target.size - self.rank(node.input[0]), 0)
        offset = position - (max(target.size, self.rank(node.input[0])) - target.size)
        if offset >= 0:
            changed = [int(d) for d in target]
            changed[offset] = 1
            node.input[1] = self.new_constant(changed)
        return Axis(position, axis.factor)

    def _resize(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        sizes = self.constant(node, 3)
        if sizes is not None and not self.attribute(node, "axes"):
            target = [int(d) for d in sizes]
            node.input[3] = self.sizes_with_rows(node.input[0], axis, target, axis.position)
        return axis

    def _matmul(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        rank = self.rank(node.output[0])
        for index, name in enumerate(node.input):
            if name in self.tracked:
                own = self.tracked[name]
                from_right = self.rank(name) - own.position
                if (from_right == 1 and index == 0) or (from_right == 2 and index == 1):
                    raise self.fail(node)
                return Axis(rank - from_right, own.factor)
        return None

    def _gemm(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        if node.input[0] not in self.tracked or self.attribute(node, "transA", 0) != axis.position:
            raise self.fail(node)
        return Axis(0, axis.factor)

    def _reduce(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        rank = self.rank(node.input[0])
        axes = self.constant(node, 1)
        given = axes.reshape(-1).tolist() if axes is not None else self.attribute(node, "axes", [])
        if not given and not self.attribute(node, "noop_with_empty_axes", 0):
            given = list(range(rank))
        chosen = {int(k) % rank for k in given}
        if axis.position in chosen:
            raise self.fail(node)
        if self.attribute(node, "keepdims", 1):
            return axis
        return Axis(axis.position - sum(k < axis.position for k in chosen), axis.factor)

    def _arg(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        rank = self.rank(node.input[0])
        chosen = self.attribute(node, "axis", 0) % rank
        if chosen == axis.position:
            raise self.fail(node)
        drop = 0 if self.attribute(node, "keepdims", 1) else int(chosen < axis.position)
        return Axis(axis.position - drop, axis.factor)

    def _gather(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        rank, along = self.rank(node.input[0]), self.attribute(node, "axis", 0)
        along %= rank
        indices = self.rank(node.input[1])
        if node.input[0] not in self.tracked:
            return Axis(along + self.tracked[node.input[1]].position, axis.factor)
        if along == axis.position:
            return self._gather_within(node, axis)
        return Axis(axis.position + (indices - 1 if along < axis.position else 0), axis.factor)

    def _gather_within(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        """Constant indices into the elements of the one row: the same elements of every row."""
        before, chosen = self.shapes[node.input[0]], self.constant(node, 1)
        if chosen is None or not chosen.ndim or chosen.shape[0] != 1 or None in before or self.size != 1:
            raise self.fail(node)
        target = [*before[: axis.position], -1, axis.factor, *before[axis.position + 1 :]]
        shape = self.new_constant([int(d or 0) for d in target])
        node.input[0] = self.emit("Reshape", [node.input[0], shape])
        node.input[1] = self.new_constant(chosen[0])
        self.set_attribute(node, "axis", axis.position + 1)
        return Axis(axis.position, 1)

    def _gather_nd(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        """Constant indices whose first coordinate names the one row: the others, in every row."""
        chosen = self.constant(node, 1)
        if chosen is None or axis != Axis(0, 1) or self.attribute(node, "batch_dims", 0):
            return self._aligned(node, axis)  # the proof will tell
        if self.size != 1 or chosen.shape[0] != 1 or chosen.shape[-1] < 2 or chosen[..., 0].any():
            raise self.fail(node)
        others = self.new_constant(chosen[..., 1:])
        sizes = self.sizes_with_rows(node.input[0], axis, [1] * chosen.ndim, 0)
        node.input[1] = self.emit("Expand", [others, sizes])
        self.set_attribute(node, "batch_dims", 1)
        return axis

    def _recurrent(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        batch_first = bool(self.attribute(node, "layout", 0))
        rows, source = 0 if batch_first else 1, node.input[0]
        if self.tracked.get(source, Axis(-1, 1)).position != rows:
            raise self.fail(node)
        for index, place in ((4, 0), (5, rows), (6, rows)):  # lengths and initial states
            name = node.input[index] if index < len(node.input) else ""
            if name in self.constants:
                sizes = self.sizes_with_rows(source, axis, [1] * self.rank(name), place)
                node.input[index] = self.emit("Expand", [name, sizes])
        places = (0 if batch_first else 2, rows, rows)
        self.tracked.update({n: Axis(k, axis.factor) for n, k in zip(node.output, places, strict=False) if n})
        return None

    def _shape(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        return None

    def _aligned(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
        """The rows keep their place as counted from the right, where operands of different rank broadcast."""
        out = node.output[0]
        if out not in self.shapes:
            return axis
        rank = self.rank(out)
        places = {
            Axis(rank - self.rank(x) + self.tracked[x].position, self.tracked[x].factor)
            for x in node.input
            if x in self.tracked
        }
        if len({p.position for p in places}) != 1:
            raise self.fail(node)
        found = places.pop()
        if not 0 <= found.position < rank:
            raise self.fail(node)
        return found


_HANDLERS: dict[str, Callable[[_Freeing, onnx.NodeProto, Axis], Axis | None]] = {
    "If": _Freeing._if,
    "Loop": _Freeing._loop,
    "Scan": _Freeing._scan,
    "Reshape": _Freeing._reshape,
    "Transpose": _Freeing._transpose,
    "Flatten": _Freeing._flatten,
    "Squeeze": _Freeing._squeeze,
    "Unsqueeze": _Freeing._unsqueeze,
    "Concat": _Freeing._concat,
    "Expand": _Freeing._expand,
    "Resize": _Freeing._resize,
    "MatMul": _Freeing._matmul,
    "Gemm": _Freeing._gemm,
    "Gather": _Freeing._gather,
    "GatherND": _Freeing._gather_nd,
    **dict.fromkeys(["DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"], _Freeing._recurrent),
    "Shape": _Freeing._shape,
    "Size": _Freeing._shape,
    "ArgMax": _Freeing._arg,
    "ArgMin": _Freeing._arg,
    **dict.fromkeys(
        [
            f"Reduce{kind}"
            for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
        ],
        _Freeing._reduce,
    ),
}
