"""Unrolls sequences: operators on lists become operators on tensors, where it is known what a list holds.

That is a list of tensors whose number and positions are known, or one tensor that is cut along an axis: what
SplitToSequence makes of a size that is not known, and what a Loop appends turn by turn. A list that an If makes is read
inside of its branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied, set_nodes
from onnx_attribution.graph_tools.ir.nodes import inner_graphs, opset_of, reads
from onnx_attribution.graph_tools.ir.weights import value_of
from onnx_attribution.graph_tools.normalise.sequence_nodes import (
    READERS,
    appended,
    constant_of,
    is_whole,
    pushed,
)

ATTRIBUTE_SPLITS = 13  # before this opset Split takes its sizes as an attribute
PASSES = 4
"""Each opens one more graph within a graph."""
MAKERS = {"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence"}
UNROLLED = MAKERS | READERS


def unrolled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the sequences that can be unrolled; tensors keep their names. Itself where there are none."""
    opset = opset_of(model)
    if opset < ATTRIBUTE_SPLITS:
        return model
    for _ in range(PASSES):
        before = _count(model.graph)
        if not before:
            break
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        _unroll(inferred.graph, None)
        if not is_whole(inferred.graph):
            break
        model = inferred
        if _count(inferred.graph) == before:
            break
    return model


def _count(graph: onnx.GraphProto) -> int:
    """How many operators on sequences a graph has, those of graphs within included."""
    inner = (one for node in graph.node for one in inner_graphs(node))
    return sum(node.op_type in UNROLLED for node in graph.node) + sum(map(_count, inner))


def _unroll(graph: onnx.GraphProto, outer: _Unroller | None) -> None:
    pushed(graph)
    unroller = _Unroller(graph, outer)
    for node in graph.node:
        unroller.take(node)
    if outer is None:
        unroller.show_outputs()
    set_nodes(graph, unroller.kept())


def with_elements(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without outputs that are sequences or optionals of tensors that are known; where no other output is a
    tensor, these are the outputs."""
    graph = model.graph
    made = {node.output[0]: node for node in graph.node if node.op_type in ("SequenceConstruct", "Optional")}
    held = {z.name: [x for x in made[z.name].input if x] for z in graph.output if z.name in made}
    if not any(held.values()):
        return model
    result = copied(model)
    left = [z for z in graph.output if not held.get(z.name)]
    if not any(z.type.HasField("tensor_type") for z in left):
        outer = {x.name for x in graph.input} | {t.name for t in graph.initializer}
        names = dict.fromkeys(x for items in held.values() for x in items if x not in outer)
        kinds = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
        left += [kinds.get(x, onnx.ValueInfoProto(name=x)) for x in names]
    if not left:
        return model
    kept = [onnx.ValueInfoProto.FromString(z.SerializeToString()) for z in left]
    del result.graph.output[:]
    result.graph.output.extend(kept)
    return result


@dataclass(frozen=True)
class _Cut:
    """A list that is one tensor cut along an axis, which its items keep at length 1 or do not have.

    `first` are items before it, `backwards` says that it is read from the end, and `uneven` that the lengths of the
    items are not known.
    """

    tensor: str
    axis: int = 0
    keep: bool = False
    backwards: bool = False
    uneven: bool = False
    first: tuple[str, ...] = ()


_Held = list[str] | _Cut


class _Unroller:
    """The nodes so far, and what each known sequence holds."""

    def __init__(self, graph: onnx.GraphProto, outer: _Unroller | None = None) -> None:
        self.outputs = {out.name for out in graph.output}
        self.shapes: dict[str, list[int | None]] = dict(outer.shapes) if outer else {}
        self.shapes |= {
            value.name: [
                d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
            ]
            for value in (*graph.input, *graph.value_info)
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
        }
        self.constants: dict[str, onnx.TensorProto] = dict(outer.constants) if outer else {}
        self.constants |= {x.name: x for x in graph.initializer}
        self.held: dict[str, _Held] = dict(outer.held) if outer else {}
        self.nodes: list[onnx.NodeProto] = []
        self.spare: set[str] = set()  # first outputs of nodes that go if nothing reads them

    def take(self, node: onnx.NodeProto) -> None:
        """Adds a node, or what it unrolls to."""
        if node.op_type == "Constant" and (held := constant_of(node)) is not None:
            self.constants[node.output[0]] = held
        if node.op_type in READERS and node.input[0] in self.held:
            if self._read(node, self.held[node.input[0]]):
                return
        elif node.op_type in MAKERS or (node.op_type == "Identity" and node.input[0] in self.held):
            made = self._made(node)
            if made is not None:
                self.held[node.output[0]] = made
                self.spare.add(node.output[0])
        elif node.op_type == "Loop":
            self._appended(node)
        for inner in inner_graphs(node):
            _unroll(inner, self)
        self.nodes.append(node)

    def show_outputs(self) -> None:
        """Makes the sequences that the model gives out of tensors that have names."""
        for name in sorted(self.outputs & self.held.keys()):
            held = self.held[name]
            maker = next(k for k, node in enumerate(self.nodes) if name in node.output)
            if self.nodes[maker].op_type != "SequenceConstruct" and held and isinstance(held, list):
                self.nodes.pop(maker)
                self._emit("SequenceConstruct", held, [name])

    def kept(self) -> list[onnx.NodeProto]:
        """The nodes without those that unrolling left over."""
        found: list[onnx.NodeProto] = []
        used = set(self.outputs)
        for node in reversed(self.nodes):
            if node.output[0] in self.spare and not any(out in used for out in node.output):
                continue
            used.update(reads(node))
            found.append(node)
        return found[::-1]

    def _appended(self, node: onnx.NodeProto) -> None:
        """Makes outputs of a Loop that are stacked of the lists to which each turn adds an item."""
        for name, stack, first, backwards, shape in appended(node, self._listed, self._number):
            self.held[name] = _Cut(stack, backwards=backwards, first=tuple(first))
            if shape is not None:
                self.shapes[stack] = [None, *shape]
            if len(node.input) == 2 and not node.input[1]:  # an empty name at the end is lost on the way
                node.input[1] = f"{stack}/on"
                self._emit("Constant", [], [node.input[1]], value=numpy_helper.from_array(np.asarray(True)))

    def _listed(self, name: str) -> list[str] | None:
        held = self.held.get(name)
        return held if isinstance(held, list) else None

    def _read(self, node: onnx.NodeProto, items: _Held) -> bool:
        """Unrolls an operator that makes a tensor of a sequence; False if it cannot be."""
        out = node.output[0]
        if isinstance(items, _Cut):
            return self._read_cut(node, items)
        if node.op_type == "SequenceLength":
            length = numpy_helper.from_array(np.asarray(len(items), dtype=np.int64))
            self._emit("Constant", [], [out], value=length)
            return True
        if node.op_type == "SequenceAt":
            position = self._position(node.input[1], len(items) - 1)
            if position is None:
                return self._chosen(node, items)
            self._emit("Identity", [items[position]], [out])
            return True
        axis, new = (_attribute(node, name, 0) for name in ("axis", "new_axis"))
        if new:
            items = [self._spare("Unsqueeze", [x, self._ints(out, [axis])], f"{out}/item_{k}")
                     for k, x in enumerate(items)]  # fmt: skip
        self._emit("Concat", items, [out], axis=axis)
        return bool(items)

    def _chosen(self, node: onnx.NodeProto, items: list[str]) -> bool:
        """An item at a position that is known only in a run: of the stack, where all have the same sizes."""
        shapes = [self.shapes.get(x) for x in items]
        if not items or None in shapes or any(s != shapes[0] or None in (s or []) for s in shapes):
            return False
        out = node.output[0]
        grown = [
            self._spare("Unsqueeze", [x, self._ints(out, [0])], f"{out}/item_{k}")
            for k, x in enumerate(items)
        ]
        self._emit("Concat", grown, [f"{out}/stack"], axis=0)
        self._emit("Gather", [f"{out}/stack", node.input[1]], [out], axis=0)
        return True

    def _read_cut(self, node: onnx.NodeProto, cut: _Cut) -> bool:
        out, shape = node.output[0], self.shapes.get(cut.tensor)
        if node.op_type == "ConcatFromSequence":
            return self._joined(node, cut)
        if cut.first or cut.backwards or cut.uneven:
            return False
        if node.op_type == "SequenceLength":
            at = self._ints(f"{out}/axis", [cut.axis])
            whole = self._spare("Shape", [cut.tensor], f"{out}/sizes")
            size = self._spare("Gather", [whole, at], f"{out}/size")
            self._emit("Squeeze", [size, self._ints(f"{out}/first", [0])], [out])
            return True
        if cut.keep and shape is None:
            return False
        made = [f"{out}/item"] if cut.keep else [out]
        self._emit("Gather", [cut.tensor, node.input[1]], made, axis=cut.axis)
        if cut.keep:
            self._emit("Unsqueeze", [made[0], self._ints(out, [cut.axis])], [out])
        return True

    def _joined(self, node: onnx.NodeProto, cut: _Cut) -> bool:
        """All items side by side again, or along a new axis."""
        out, (axis, new) = node.output[0], (_attribute(node, name, 0) for name in ("axis", "new_axis"))
        shape = self.shapes.get(cut.tensor)
        rank = None if shape is None else len(shape) + (cut.keep and not cut.uneven) - 1  # of an item
        if cut.uneven:
            if new or rank is None or axis % (rank + 1) != cut.axis:
                return False
            self._emit("Identity", [cut.tensor], [out])
            return True
        if axis < 0:
            if rank is None:
                return False
            axis %= rank + bool(new)
        whole = cut.tensor
        if cut.keep and not new and axis == cut.axis:
            self._emit("Identity", [whole], [out])
            return True
        if cut.axis or cut.keep:  # the items in front, as they are
            if rank is None or shape is None:
                return False
            order = [cut.axis, *(k for k in range(len(shape)) if k != cut.axis)]
            whole = self._spare("Transpose", [whole], f"{out}/front", perm=order)
            if cut.keep:
                whole = self._spare(
                    "Unsqueeze", [whole, self._ints(f"{out}/kept", [cut.axis + 1])], f"{out}/whole"
                )
        if cut.backwards:
            ends = [
                self._ints(f"{out}/{n}", [v])
                for n, v in (("last", -1), ("before", -(2**62)), ("along", 0), ("step", -1))
            ]
            whole = self._spare("Slice", [whole, *ends], f"{out}/backwards")
        if axis:
            if rank is None:
                return False
            order = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
            whole = self._spare("Transpose", [whole], f"{out}/placed", perm=order)
        firsts = list(cut.first)
        if new:
            firsts = [self._spare("Unsqueeze", [x, self._ints(f"{out}/new", [axis])], f"{out}/first_{k}")
                      for k, x in enumerate(firsts)]  # fmt: skip
        else:
            sizes = self._spare("Shape", [whole], f"{out}/sizes")
            bounds = [
                self._ints(f"{out}/{n}", [v])
                for n, v in (("start", 0), ("at", axis), ("behind", axis + 2), ("end", 2**62))
            ]
            head = self._spare("Slice", [sizes, bounds[0], bounds[1]], f"{out}/head")
            tail = self._spare("Slice", [sizes, bounds[2], bounds[3]], f"{out}/tail")
            target = self._spare(
                "Concat", [head, self._ints(f"{out}/all", [-1]), tail], f"{out}/shape", axis=0
            )
            whole = self._spare("Reshape", [whole, target], f"{out}/merged")
        parts = [whole, *firsts] if cut.backwards else [*firsts, whole]
        self._emit("Concat", parts, [out], axis=axis)
        return True

    def _made(self, node: onnx.NodeProto) -> _Held | None:
        """What the sequence that a node makes holds; None if that is not known."""
        if node.op_type == "SequenceConstruct":
            return list(node.input)
        if node.op_type == "SequenceEmpty":
            return []
        if node.op_type == "SplitToSequence":
            return self._parts(node)
        items = self.held.get(node.input[0])
        if items is None or node.op_type == "Identity":
            return items
        if isinstance(items, _Cut):
            return None
        erased = node.op_type == "SequenceErase"
        given = node.input[1 if erased else 2 :]
        last = len(items) - erased
        position = self._position(given[0], last) if given and given[0] else last
        if position is None:
            return None
        return items[:position] + ([] if erased else [node.input[1]]) + items[position + erased :]

    def _parts(self, node: onnx.NodeProto) -> _Held | None:
        """The parts into which a tensor is split."""
        x, out, shape = node.input[0], node.output[0], self.shapes.get(node.input[0])
        if shape is None:
            return None
        axis = _attribute(node, "axis", 0) % len(shape)
        size, given = shape[axis], node.input[1] if len(node.input) > 1 else ""
        split, keep = self._number(given) if given else np.asarray(1), bool(_attribute(node, "keepdims", 1))
        if split is None:
            return _Cut(x, axis, uneven=True)
        if split.ndim == 0 and size is None:
            return _Cut(x, axis, keep=bool(given) or keep, uneven=int(split) != 1)
        whole, part = size or 0, int(split) if split.ndim == 0 else 0
        sizes = [min(part, whole - k) for k in range(0, whole, part)] if part else [int(n) for n in split]
        if not sizes:
            return None
        names = [f"{out}/part_{k}" for k in range(len(sizes))]
        self._emit("Split", [x, self._ints(out, sizes)], names, axis=axis)
        self.spare.add(names[0])
        for name, length in zip(names, sizes, strict=True):
            self.shapes[name] = [length if k == axis else d for k, d in enumerate(shape)]
        if given or keep:
            return names
        axes = self._ints(f"{out}/axis", [axis])
        squeezed = [self._spare("Squeeze", [name, axes], f"{name}/squeezed") for name in names]
        self.shapes |= {name: [d for k, d in enumerate(shape) if k != axis] for name in squeezed}
        return squeezed

    def _position(self, name: str, last: int) -> int | None:
        """A position in a sequence, counted from the front; None if it is not known or there is none such."""
        number = self._number(name)
        if number is None:
            return None
        position = int(number) if number >= 0 else int(number) + last + 1
        return position if 0 <= position <= last else None

    def _number(self, name: str) -> NDArray[np.int64] | None:
        held = self.constants.get(name)
        return None if held is None else value_of(held).astype(np.int64)

    def _ints(self, name: str, values: Sequence[int]) -> str:
        """The name of a new constant."""
        made = f"{name}/numbers"
        tensor = numpy_helper.from_array(np.asarray(values, dtype=np.int64))
        if made not in self.spare:
            self._emit("Constant", [], [made], value=tensor)
            self.spare.add(made)
        return made

    def _spare(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._emit(operator, inputs, [output], **attributes)
        self.spare.add(output)
        return output

    def _emit(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, f"unrolled/{outputs[0]}", **attributes))


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
