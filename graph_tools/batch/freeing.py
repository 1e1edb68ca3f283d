"""A model of which the rows are followed through the graph, and the rules by which they pass operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.graph_tools.ir.edit import copied, set_nodes
from onnx_attribution.graph_tools.ir.nodes import reads
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


class Freeing:
    """A copy of a model, whose rows are followed from the inputs on while its nodes are rewritten.

    `tracked` says of tensors that hold rows where, `shapes` what is known of all for the fixed batch.
    """

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
        """The model for any number of rows. Raises: CannotFree."""
        graph = self.model.graph
        self.rewrite(graph)
        for value in [*graph.value_info, *graph.input, *graph.output]:
            shape = value.type.tensor_type.shape.dim
            if value.name in self.guessed:  # runtimes reuse memory by declared sizes
                for dim in shape:
                    dim.Clear()
            elif (axis := self.tracked.get(value.name)) is not None and axis.position < len(shape):
                shape[axis.position].dim_param = ROWS if axis.factor == 1 else f"{ROWS}*{axis.factor}"
        return self.model

    def rewrite(self, graph: onnx.GraphProto) -> None:
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
        rule = RULES.get(node.op_type, Freeing.aligned)
        out = rule(self, node, axis)
        for name in node.output:
            if name and out is not None:
                if out.position >= len(self.shapes.get(name, range(out.position + 1))):
                    raise self.fail(node)  # a guess that a tensor of this rank disproves
                self.tracked[name] = out

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

    def aligned(self, node: onnx.NodeProto, axis: Axis) -> Axis | None:
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


Rule = Callable[[Freeing, onnx.NodeProto, Axis], Axis | None]
RULES: dict[str, Rule] = {}
"""By operator; of all others the rows keep their place."""


def follows(*operators: str) -> Callable[[Rule], Rule]:
    """Registers the rule of these operators."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return register
