"""Secants of Scan and Loop: each iteration is computed at x and at x' and walked back under the secant.

What the gradient's rule does is done with two stacks of states: one of the iterations at x, one of those at x'. A Loop
that turns a different number of times at x' has no secant; what arrives there turns to NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import dims, loop, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.ir.reach import dependents
from onnx_attribution.graph_tools.ir.subgraphs import Values, graft
from onnx_attribution.graph_tools.operators.control_flow import (
    _numbers,
    _require_tensors,
    _reversed,
    _Stacked,
    _State,
)
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView
from onnx_attribution.graph_tools.operators.secant import CONTROL
from onnx_attribution.graph_tools.operators.secant_control import note, twin
from onnx_attribution.graph_tools.operators.tricks import declare

GHOST = "@reference"
"""What the x' twin of an input of a body is called."""


@dataclass(frozen=True)
class _Turns:
    """A node with a body, at x and at x', and what is known of its tensors."""

    node: NodeView
    reference: NodeView
    body: gs.Graph
    own: int
    references: dict[str, Value]
    moving: set[str]

    @property
    def captured(self) -> list[int]:
        """The captured inputs that depend on the source."""
        return [k for k in range(self.own, len(self.node.inputs)) if self.node.active[k]]

    def there(self) -> dict[str, Value]:
        """What captured names mean at x'."""
        return {self.node.input(k).name: self.reference.input(k) for k in self.captured}

    def moved(self, start: set[str], states: Sequence[tuple[Value, Value]]) -> set[str]:
        """The names in the body that depend on the source, after any number of iterations."""
        found = start | set(self.there())
        while True:
            grown = dependents(self.body.nodes, found)
            grown |= {before.name for before, after in states if after.name in grown}
            if grown == found:
                break
            found = grown
        for before, _ in states:
            if before.name in found and not is_float(before):
                raise NotDifferentiable(
                    f"DeepLIFT has no rule for {self.node.operator} (node {self.node.name!r}) with {before.name!r}, "
                    "which is no float, depending on the source",
                    reason=Reason.NO_SECANT, node=self.node.name, operator=self.node.operator, tensor=before.name,
                )  # fmt: skip
        return found

    def walking(self, feeds: Sequence[_Stacked], moved: set[str], fixed: Mapping[str, Value]) -> NodeView:
        """The node with a walk that first computes the iteration at x' too."""
        inner_walk = self.node.walk
        assert inner_walk is not None

        def walk(inner: Emitter, seeds: Mapping[str, Value], wrt: Sequence[str]) -> dict[str, Value]:
            values = {f.inner.name: _slice(inner, k, f.stack) for k, f in enumerate(feeds)}
            given: dict[str, Value] = {**fixed, **self.there()}
            for name, value in values.items():
                if name.endswith(GHOST):
                    continue
                given[name] = values.get(name + GHOST, value)
                if name in moved:
                    self.references[value.name] = given[name]
                    self.moving.add(value.name)
            for maker in inner.graph.nodes:
                for k in self.captured:
                    if maker.op == "Identity" and maker.inputs[0] is self.node.input(k):
                        self.references[maker.outputs[0].name] = self.reference.input(k)
                        self.moving.add(maker.outputs[0].name)
            made_here = inner.graph.tensors()
            names = {z.name: f"{inner.prefix}/{z.name}" for n in self.body.nodes for z in n.outputs}
            here = {name: made_here[own] for name, own in names.items() if own in made_here}
            made = twin(inner, self.body, given)
            note(self.body, here, made, moved, self.references, self.moving)
            return inner_walk(inner, seeds, wrt)

        active = tuple(
            a and x is not None and is_float(x)
            for a, x in zip(self.node.active, self.node.inputs, strict=True)
        )
        return replace(self.node, walk=walk, active=active)


def _slice(inner: Emitter, index: int, stack: Value) -> Value:
    """This iteration's part of a stack: an input of a Scan, or what a Loop gathers."""
    for x in inner.graph.inputs:
        if x.name == f"{inner.prefix}/slice_{index}":
            return x
    return next(n.outputs[0] for n in inner.graph.nodes if n.op == "Gather" and n.inputs[0] is stack)


def _ghost(x: Value) -> gs.Variable:
    return gs.Variable(x.name + GHOST, dtype=x.dtype, shape=x.shape)


def scan_(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    gradients: Sequence[Value | None],
    references: dict[str, Value],
    moving: set[str],
) -> Gradients:
    body: gs.Graph = node.attributes["body"]
    slices = int(node.attributes["num_scan_inputs"])
    count, stacked = len(body.inputs) - slices, len(body.outputs) - (len(body.inputs) - slices)
    turns = _Turns(node, reference, body, len(body.inputs), references, moving)
    backwards = node.attribute("scan_input_directions") or [0] * slices
    axes = node.attribute("scan_input_axes") or [0] * slices
    prepends = node.attribute("scan_output_directions") or [0] * stacked
    made_axes = node.attribute("scan_output_axes") or [0] * stacked
    before = body.inputs[:count]
    pairs = list(zip(before, body.outputs[:count], strict=True))
    moved = turns.moved({x.name for k, x in enumerate(body.inputs) if node.active[k]}, pairs)

    def stacks(view: NodeView, outer: Mapping[str, Value]) -> Values:
        def step(inner: Emitter, states: Values, parts: Values) -> tuple[Values, Values]:
            given = dict(zip([x.name for x in body.inputs], [*states, *parts], strict=True))
            made = graft(inner, body, {**outer, **given})
            return [made[z.name] for z in body.outputs[:count]], states

        if not count:
            return []
        inputs = [view.input(count + k) for k in range(slices)]
        return scan(op, step, [view.input(k) for k in range(count)], inputs, reverse=backwards, axes=axes)[1]

    here, there = stacks(node, {}), stacks(reference, turns.there())
    feeds = [_Stacked(x, stack) for x, stack in zip(before, here, strict=True)]
    read = [
        _Stacked(x, node.input(count + k), 1 - backwards[k], axes[k])
        for k, x in enumerate(body.inputs[count:])
    ]
    ghosts = [_Stacked(_ghost(x), stack) for x, stack in zip(before, there, strict=True)]
    ghosts += [
        _Stacked(_ghost(x), reference.input(count + k), 1 - backwards[k], axes[k])
        for k, x in enumerate(body.inputs[count:])
        if node.active[count + k]
    ]
    states = [
        _State(k, before[k], body.outputs[k], gradients[k]) for k in range(count) if is_float(before[k])
    ]
    arriving = [
        _Stacked(z, g, 1 - prepend, axis)
        for z, g, prepend, axis in zip(
            body.outputs[count:], gradients[count:], prepends, made_axes, strict=False
        )
        if g is not None
    ]
    every = [*feeds, *read, *ghosts]
    view = turns.walking(every, moved, {})
    wanted = {count + k: x for k, x in enumerate(read) if view.active[count + k]}
    return _reversed(op, view, body, len(body.inputs), states, every, {}, arriving, wanted)


def loop_(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    gradients: Sequence[Value | None],
    references: dict[str, Value],
    moving: set[str],
) -> Gradients:
    body: gs.Graph = node.attributes["body"]
    count = len(body.inputs) - 2
    turns = _Turns(node, reference, body, len(body.inputs), references, moving)
    iteration, going, *before = body.inputs
    _require_tensors(node, before)
    pairs = list(zip(before, body.outputs[1 : 1 + count], strict=True))
    moved = turns.moved({x.name for k, x in enumerate(before) if node.active[2 + k]}, pairs)
    shapes = [_numbers(x) for x in body.inputs]

    def stacks(view: NodeView, outer: Mapping[str, Value]) -> Values:
        def step(inner: Emitter, i: Value, on: Value, states: Values) -> tuple[Value, Values, Values]:
            given = dict(zip([x.name for x in body.inputs], [i, on, *states], strict=True))
            made = graft(inner, body, {**outer, **given})
            again, *after = [made[z.name] for z in body.outputs[: 1 + count]]
            return again, after, [i, *states]

        initial = [view.input(2 + k) for k in range(count)]
        return loop(op, step, view.inputs[0], view.inputs[1], initial, shapes)[1]

    here, there = stacks(node, {}), stacks(reference, turns.there())
    trips, others = (op.dims(s[0], 0, 1) for s in (here, there))
    same = op("Reshape", op("Equal", trips, others), op.ints([]))
    gradients = [g and declare(op("Where", same, g, op.like(g, float(np.nan))), dims(g)) for g in gradients]
    last = op("Sub", others, op.ints([1]))
    turn = op("Range", op.constant(np.int64(0)), op("Reshape", trips, op.ints([])), op.constant(np.int64(1)))
    at = op(
        "Min", turn, last
    )  # a Loop of more turns at x is guarded above; its stack must have a place to read
    there = [declare(op("Gather", s, at, axis=0), dims(s)) for s in there]
    feeds = [_Stacked(x, stack) for x, stack in zip([iteration, *before], here, strict=True)]
    ghosts = [_Stacked(_ghost(x), stack) for x, stack in zip(before, there[1:], strict=True)]
    states = [
        _State(2 + k, before[k], body.outputs[1 + k], gradients[k])
        for k in range(count)
        if is_float(before[k])
    ]
    ends = zip(body.outputs[1 + count :], gradients[count:], strict=False)
    arriving = [_Stacked(z, g) for z, g in ends if g is not None]
    fixed: dict[str, Value] = {going.name: op.constant(np.ones([1] * len(dims(going)), dtype=np.bool_))}
    every = [*feeds, *ghosts]
    view = turns.walking(every, moved, fixed)
    return _reversed(op, view, body, len(body.inputs), states, every, fixed, arriving, {})


CONTROL.update({"Scan": scan_, "Loop": loop_})
