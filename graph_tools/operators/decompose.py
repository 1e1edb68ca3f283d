"""Operators whose rule is that of the standard operators they stand for.

The forward pass keeps the operator and its kernel. The backward pass recomputes it from standard operators, in a graph
of its own, and walks back through those: no gradient formula is written twice, and secants follow the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import infer_types
from onnx_attribution.graph_tools.operators.registry import Forward, Gradients, NodeView, vjp


def composite(
    *operators: str,
    domain: str = "com.microsoft",
    straight_through: bool = False,
    approximate: bool = False,
) -> Callable[[Forward], Forward]:
    """Registers operators by a function `(op, node) -> output or outputs` that emits standard operators."""

    def register(forward: Forward) -> Forward:
        def rule(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
            return staged(op, node, forward).back(op, node, gradients)

        vjp(
            *operators,
            sparse=True,
            straight_through=straight_through,
            forward=forward,
            composite=True,
            approximate=approximate,
            domain=domain,
        )(rule)
        return forward

    return register


@dataclass(frozen=True)
class Staged:
    """An operator recomputed in a graph of its own: its emitter, and what stands for each input and output."""

    inner: Emitter
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]

    def back(self, op: Emitter, node: NodeView, gradients: Sequence[Value | None]) -> Gradients:
        """Walks back through the graph and appends all of it to the graph of `op`."""
        arrived: dict[str, list[Value]] = {}
        for z, g, output in zip_longest(self.outputs, gradients, node.outputs):
            if z is not None and g is not None:
                arrived.setdefault(z.name, []).append(g)
            elif g is not None and output is not None:
                raise NotDifferentiable(
                    f"no gradient rule for the output {output.name!r} of {node.operator} (node {node.name!r})",
                    reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=output.name,
                )  # fmt: skip
        seeds = {name: g[0] if len(g) == 1 else self.inner("Sum", *g) for name, g in arrived.items()}
        active = [x for x, is_active in zip(self.inputs, node.active, strict=True) if is_active and x]
        assert node.walk is not None
        found = node.walk(self.inner, seeds, [x.name for x in active])
        self.append_to(op)
        return [found.get(x.name) if x is not None else None for x in self.inputs]

    def append_to(self, op: Emitter) -> None:
        """Appends the nodes to the graph of `op`."""
        op.graph.nodes.extend(self.inner.graph.nodes)


def staged(op: Emitter, node: NodeView, forward: Forward) -> Staged:
    """The operator recomputed by `forward`; each active input has a name of its own there."""
    name = op.name_for(node.operator)
    graph = gs.Graph(name=name, opset=op.graph.opset, import_domains=op.graph.import_domains)
    inner = Emitter(graph, name)
    inputs: list[Value | None] = []
    for k, (x, is_active) in enumerate(zip(node.inputs, node.active, strict=True)):
        if x is not None and is_active:
            local = gs.Variable(f"{name}/input_{k}", dtype=x.dtype, shape=x.shape)
            graph.nodes.append(gs.Node("Identity", local.name, inputs=[x], outputs=[local]))
            x = local
        inputs.append(x)
    made = forward(inner, replace(node, inputs=tuple(inputs)))
    outputs = (made,) if isinstance(made, gs.Tensor) else tuple(made)
    infer_types(graph)
    for z, like in zip(outputs, node.outputs, strict=False):
        if z is not None and like is not None and like.shape is not None:
            z.shape = like.shape
    return Staged(inner, tuple(inputs), outputs)
