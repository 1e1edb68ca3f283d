"""What the builders of programs share: a network's graph with inputs and outputs named by role.

A program is an ONNX model that computes attributions, with a typed signature. Its builder takes a proven network and
names of sources, layers and a target; inputs and outputs are called `sample/<input>`, `baseline/<source>`,
`target/weight`, `sum/<layer>` and so on. The target is a linear functional of one tensor: `target/weight` has that
tensor's shape and holds 1 at the explained element, -1 at one that is subtracted, 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.convert import (
    detach,
    graph_of,
    input_like,
    model_of,
    name_is_taken,
    require_own_names,
)
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half, shape_of
from onnx_attribution.graph_tools.ir.reach import dependents, reachable
from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.operators.gates import unsteady
from onnx_attribution.graph_tools.programs.signature import Choice, Neuron, Program
from onnx_attribution.graph_tools.walk.differentiate import Rules, differentiate, gradients_of, require_all


class Draft:
    """A program while it is built: a copy of a network's graph, in which hidden sources are inputs."""

    def __init__(self, network: Network, sources: Sequence[str] = ()) -> None:
        self.network, self.graph = network, graph_of(network.model)
        self._taken = frozenset(self.graph.tensors())
        self.op = Emitter(self.graph)
        self.outputs: list[gs.Variable] = []
        given = {x.name for x in self.graph.inputs}
        for name in sources:
            if name not in given:
                value = detach(self.graph, name)  # first: it replaces the list of inputs
                self.graph.inputs.append(value)
        self.graph.toposort()

    def tensor(self, name: str) -> gs.Tensor:
        """The tensor of this name."""
        return self.graph.tensors()[name]

    def input(self, like: str, name: str, shape: list[int | str | None] | None = None) -> gs.Variable:
        """A new input of the type of a tensor, of unknown dimensions unless `shape` says them."""
        return self.add(input_like(self.tensor(like), name, shape))

    def add(self, value: gs.Variable) -> gs.Variable:
        """Makes a new variable an input."""
        self._require_free(value.name)
        self.graph.inputs.append(value)
        return value

    def weight(self, target: str) -> gs.Variable:
        """The input `target/weight`."""
        return self.input(target, "target/weight", self.tensor(target).shape)

    def gradients(self, choice: Choice, weight: Value, rules: Rules) -> dict[str, Value]:
        """The cotangents of the layers, where `weight` is that of the target, or their relevance.

        Of ways through a neuron: the gradient of the neuron with the derivative of the target by it as its weight.
        """
        self.require_moving(choice)
        if rules.relevance:
            weight = self._weighted(choice.target, weight)
        if rules.relevance or rules.partial:
            sources = choice.sources  # a rule asks what depends on them, not on the layers that are asked for
            rules = replace(rules, reach=lambda nodes, wrt: reachable(nodes, [*sources, *wrt]))
        seeds: dict[str, Value] = {choice.target: weight}
        if (neuron := choice.through) is not None:
            found = differentiate(self.op, seeds, [neuron.tensor], rules)
            seeds = {neuron.tensor: self._only(neuron, found[neuron.tensor])}
        if not (rules.relevance or rules.partial):
            return differentiate(self.op, seeds, choice.layers, rules)
        nodes = list(self.graph.nodes)
        behind = [name for name in choice.layers if choice.target in reachable(nodes, [name])]
        carried = gradients_of(self.op, seeds, choice.layers, rules, unsteady(nodes, seeds))
        for name in behind:  # of a gate, say, that leaves all relevance to what it multiplies
            if name not in carried:
                carried[name] = self.op.zeros_like(self.tensor(name))
        require_all(nodes, carried, choice.layers, seeds)
        return carried

    def _weighted(self, target: str, weight: Value) -> Value:
        """The target's value where it counts, times its weight: elements of weight 0 may hold anything."""
        op, value = self.op, self.tensor(target)
        value = op.cast(value, np.float32) if is_half(value) else value
        weight = op.cast(weight, value.dtype)
        zero = op.like(value, 0)
        counted = op("Where", op("Equal", weight, zero), zero, value)
        counted.shape = value.shape
        return op("Mul", counted, weight)

    def _only(self, neuron: Neuron, gradient: Value) -> Value:
        """The gradient of a neuron, 0 for all others."""
        op, value, rows = self.op, self.tensor(neuron.tensor), self.network.rows.get(neuron.tensor)
        shape = shape_of(value) or ()
        axes = [(k, 1) for k in range(len(shape))]
        if self.network.batch != "single" and rows is not None:
            axes = [(rows.axis, rows.factor)] * (rows.factor != 1) + [a for a in axes if a[0] != rows.axis]
        elif len(shape) > 1 and shape[0] == 1:
            axes = axes[1:]
        for (axis, factor), number in zip(axes, neuron.index, strict=False):
            size = op("Gather", op("Shape", value), op.constant(np.int64(axis)), axis=0)
            places = op("Range", op.constant(np.int64(0)), size, op.constant(np.int64(1)))
            if factor != 1:
                places = op("Mod", places, op.ints([factor]))
            chosen = op("Equal", places, op.ints([number]))
            chosen = op("Reshape", chosen, op.ints([-1] + [1] * (len(shape) - axis - 1)))
            gradient = op("Where", chosen, gradient, op.like(gradient, 0))
        gradient.shape = value.shape
        return gradient

    def require_moving(self, choice: Choice) -> None:
        """Refuses a layer that does not depend on a source."""
        moving = dependents(list(self.graph.nodes), choice.sources)
        for layer in choice.layers:
            if layer not in moving:
                raise NotDifferentiable(
                    f"layer {layer!r} does not depend on the source {', '.join(map(repr, choice.sources))}",
                    reason=Reason.NO_PATH, layer=layer,
                )  # fmt: skip

    def put(self, value: Value, name: str) -> None:
        """Makes a value an output of this name."""
        self._require_free(name)
        out = gs.Variable(name, dtype=value.dtype)
        self.graph.nodes.append(gs.Node("Identity", f"output/{name}", inputs=[value], outputs=[out]))
        self.outputs.append(out)

    def _require_free(self, name: str) -> None:
        if name in self._taken:  # before graphsurgeon sees two of one name, and prints both
            raise name_is_taken(name)

    def put_target(self, target: str, weight: Value, name: str, value: Value | None = None) -> None:
        """Makes the weighted sum of the target tensor per row an output, that of `value` where it is given."""
        self.put(self._target(target, weight, self.tensor(target) if value is None else value), name)

    def _target(self, target: str, weight: Value, tensor: Value) -> Value:
        """Elements of weight 0 may hold anything, infinities too."""
        op = self.op
        zero = op.like(tensor, 0)
        chosen = op("Where", op("Equal", weight, zero), zero, op("Mul", tensor, weight))
        return self.per_row(chosen, target)

    def per_row(self, value: Value, tensor: str) -> Value:
        """The sum of a value of a tensor's shape over all but its rows: `[rows]`, or `[1]` where these are not
        separable."""
        op, rank = self.op, len(shape_of(self.tensor(tensor)) or ())
        rows = self.network.rows.get(tensor)
        if self.network.batch == "single" or rows is None:
            total = op("ReduceSum", value, op.ints(range(rank)), keepdims=0) if rank else value
            return op("Reshape", total, op.ints([1]))
        others = [k for k in range(rank) if k != rows.axis]
        summed = op("ReduceSum", value, op.ints(others), keepdims=0) if others else value
        if rows.factor != 1:
            folded = op("Reshape", summed, op.ints([-1, rows.factor]))
            summed = op("ReduceSum", folded, op.ints([1]), keepdims=0)
        return summed

    def per_channel(self, value: Value, tensor: str, axis: int) -> Value:
        """The sum of a value of a tensor's shape over the positions of its channels, which lie on an axis that is not
        that of its rows: `[rows, channels]`, or `[1, channels]` where rows are not separable."""
        op, rank = self.op, len(shape_of(self.tensor(tensor)) or ())
        rows = self.network.rows.get(tensor)
        alone = self.network.batch == "single" or rows is None
        kept = [axis] if alone or rows is None else sorted((axis, rows.axis))
        others = [k for k in range(rank) if k not in kept]
        summed = op("ReduceSum", value, op.ints(others), keepdims=0) if others else value
        if alone or rows is None:
            return op("Reshape", summed, op.ints([1, -1]))
        if axis < rows.axis:
            summed = op("Transpose", summed, perm=[1, 0])
        if rows.factor != 1:
            sizes = op("Concat", op.ints([-1, rows.factor]), op.dims(summed, 1), axis=0)
            summed = op("ReduceSum", op("Reshape", summed, sizes), op.ints([1]), keepdims=0)
        return summed

    def finish(self, *, unused: bool = False) -> Program:
        """The program with the outputs that were made; without `unused` only with the inputs that these need."""
        self.graph.outputs = self.outputs
        require_own_names(self.graph)
        self.graph.cleanup(
            remove_unused_graph_inputs=not unused, recurse_subgraphs=False
        )  # inner: positional
        model = model_of(self.graph)
        names = (tuple(value.name for value in values) for values in (model.graph.input, model.graph.output))
        return Program(model, *names)
