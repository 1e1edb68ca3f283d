"""Unrolls sequences: where their lengths and positions are known, operators on lists become operators on tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.weights import value_of

ATTRIBUTE_SPLITS = 13  # before this opset Split takes its sizes as an attribute


def unrolled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the sequences that can be unrolled; tensors keep their names. Itself where there are none."""
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
    if opset < ATTRIBUTE_SPLITS or not any(node.op_type in UNROLLED for node in model.graph.node):
        return model
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    unroller = _Unroller(inferred.graph)
    for node in inferred.graph.node:
        unroller.take(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in unroller.kept()]
    del inferred.graph.node[:]
    inferred.graph.node.extend(kept)
    return inferred


_MAKERS = {"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence"}
_READERS = {"SequenceAt", "SequenceLength", "ConcatFromSequence"}
UNROLLED = _MAKERS | _READERS


class _Unroller:
    """The nodes so far, and what each known sequence holds: names of tensors."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.outputs = {out.name for out in graph.output}
        self.shapes = {
            value.name: [
                d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
            ]
            for value in (*graph.input, *graph.value_info)
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
        }
        self.constants = {x.name: x for x in graph.initializer}
        self.held: dict[str, list[str]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.spare: set[str] = set()  # first outputs of nodes that go if nothing reads them

    def take(self, node: onnx.NodeProto) -> None:
        """Adds a node, or what it unrolls to."""
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self.constants[node.output[0]] = node.attribute[0].t
        if node.op_type in _READERS and node.input[0] in self.held:
            if self._read(node, self.held[node.input[0]]):
                return
        elif node.op_type in _MAKERS or (node.op_type == "Identity" and node.input[0] in self.held):
            made = self._made(node)
            if made is not None:
                self.held[node.output[0]] = made
                self.spare.add(node.output[0])
        self.nodes.append(node)

    def kept(self) -> list[onnx.NodeProto]:
        """The nodes without those that unrolling left over."""
        found: list[onnx.NodeProto] = []
        used = set(self.outputs)
        for node in reversed(self.nodes):
            if node.output[0] in self.spare and not any(out in used for out in node.output):
                continue
            used.update(_reads(node))
            found.append(node)
        return found[::-1]

    def _read(self, node: onnx.NodeProto, items: list[str]) -> bool:
        """Unrolls an operator that makes a tensor of a sequence; False if it cannot be."""
        out = node.output[0]
        if node.op_type == "SequenceLength":
            length = numpy_helper.from_array(np.asarray(len(items), dtype=np.int64))
            self._emit("Constant", [], [out], value=length)
            return True
        if node.op_type == "SequenceAt":
            position = self._position(node.input[1], len(items) - 1)
            if position is None:
                return False
            self._emit("Identity", [items[position]], [out])
            return True
        axis, new = (_attribute(node, name, 0) for name in ("axis", "new_axis"))
        if new:
            items = [self._spare("Unsqueeze", [x, self._ints(out, [axis])], f"{out}/item_{k}")
                     for k, x in enumerate(items)]  # fmt: skip
        self._emit("Concat", items, [out], axis=axis)
        return bool(items)

    def _made(self, node: onnx.NodeProto) -> list[str] | None:
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
        erased = node.op_type == "SequenceErase"
        given = node.input[1 if erased else 2 :]
        last = len(items) - erased
        position = self._position(given[0], last) if given and given[0] else last
        if position is None:
            return None
        return items[:position] + ([] if erased else [node.input[1]]) + items[position + erased :]

    def _parts(self, node: onnx.NodeProto) -> list[str] | None:
        """The parts into which a tensor is split."""
        x, out, shape = node.input[0], node.output[0], self.shapes.get(node.input[0])
        if shape is None:
            return None
        axis = _attribute(node, "axis", 0) % len(shape)
        size, given = shape[axis], node.input[1] if len(node.input) > 1 else ""
        split = self._number(given) if given else np.asarray(1)
        if split is None or (split.ndim == 0 and size is None):
            return None
        whole, part = size or 0, int(split) if split.ndim == 0 else 0
        sizes = [min(part, whole - k) for k in range(0, whole, part)] if part else [int(n) for n in split]
        if not sizes:
            return None
        names = [f"{out}/part_{k}" for k in range(len(sizes))]
        self._emit("Split", [x, self._ints(out, sizes)], names, axis=axis)
        self.spare.add(names[0])
        if given or _attribute(node, "keepdims", 1):
            return names
        axes = self._ints(f"{out}/axis", [axis])
        return [self._spare("Squeeze", [name, axes], f"{name}/squeezed") for name in names]

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

    def _spare(self, operator: str, inputs: list[str], output: str) -> str:
        self._emit(operator, inputs, [output])
        self.spare.add(output)
        return output

    def _emit(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, f"unrolled/{outputs[0]}", **attributes))


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those of its graphs included."""
    found = {x for x in node.input if x}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.update(*(_reads(inner) for inner in attribute.g.node), (z.name for z in attribute.g.output))
    return found
