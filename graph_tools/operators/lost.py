"""What goes through operators that have no secant: summed up beside the contributions, so that it can be refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView


@dataclass
class Lost:
    """By the name of a tensor, how much of the target's change goes through it.

    Inside of bodies, whose values nothing outside can read, what goes on from there turns to NaN instead.
    """

    found: dict[str, Value] = field(default_factory=dict)
    depth: int = 0

    @contextmanager
    def body(self) -> Iterator[None]:
        """While a graph inside of a node is walked, whose values nothing outside can read."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def note(self, op: Emitter, node: NodeView, missed: Mapping[str, Value], results: Gradients) -> Gradients:
        """The gradients of a node, and that `missed`, by tensor, is lost there."""
        if not missed:
            return results
        if not self.depth:
            for name, value in missed.items():
                other = self.found.get(name)
                self.found[name] = (
                    value if other is None else op("Add", *(op.cast(v, np.float32) for v in (value, other)))
                )
            return results
        total = op("Sum", *(op.cast(v, np.float32) for v in missed.values()))
        poison = op(
            "Where", op("Greater", total, op.like(total, 0)), op.like(total, np.nan), op.like(total, 0)
        )
        kept = [*results, *[None] * (len(node.inputs) - len(results))]
        return [
            _poisoned(op, g, x, poison) if a else g
            for g, x, a in zip(kept, node.inputs, node.active, strict=True)
        ]


def _poisoned(op: Emitter, g: Value | None, x: Value | None, poison: Value) -> Value | None:
    if x is None:
        return g
    if g is not None:
        return op("Add", g, op.cast(poison, g.dtype))
    made = op("Expand", op.cast(poison, x.dtype) if is_float(x) else poison, op.shape(x))
    made.shape = x.shape
    return made


def outputs_missed(
    op: Emitter,
    unfollowed: Sequence[int],
    raw: NodeView,
    node: NodeView,
    reference: NodeView,
    gradients: Sequence[Value | None],
) -> dict[str, Value]:
    """How much of the change goes through outputs that have no secant, by the first name that the network has."""
    parts = []
    for k in unfollowed:
        ends = [
            values[k] if k < len(values) else None for values in (gradients, node.outputs, reference.outputs)
        ]
        g, z, w = ends
        if g is not None and z is not None and w is not None:
            change = op("Sub", op.cast(z, g.dtype), op.cast(w, g.dtype))
            nothing = op.like(g, 0)
            part = op("Where", op("Equal", g, nothing), nothing, op("Mul", g, change))
            parts.append(op("ReduceSum", op("Abs", part), keepdims=0))
    if not parts:
        return {}
    name = next(z.name for z in raw.outputs if z is not None)
    return {name: parts[0] if len(parts) == 1 else op("Sum", *parts)}


def inputs_missed(
    op: Emitter, node: NodeView, reference: NodeView, inputs: Sequence[int], gradients: Sequence[Value | None]
) -> dict[str, Value]:
    """By how much inputs that say how elements move differ between x and x', where something arrives at all."""
    size = op(
        "Sum",
        *(op.cast(op("ReduceSum", op("Abs", g), keepdims=0), np.float32) for g in gradients if g is not None),
    )
    found = {}
    for k in inputs:
        ends = [op.cast(view.input(k), np.float32) for view in (node, reference)]
        apart = op("ReduceSum", op("Abs", op("Sub", *ends)), keepdims=0)
        found[node.input(k).name] = op("Mul", size, apart)
    return found
