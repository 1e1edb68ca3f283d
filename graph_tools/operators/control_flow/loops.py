"""Loop and Scan: the backward pass recomputes the inner graph where the runtime needs its values again.

Values that inner graphs capture are inputs of the node, after its own. A Loop or Scan runs once more to stack the
states that each iteration began with; another one over those stacks, from the last iteration to the first, carries
the gradients of the states and sums those of the captured values.

The secant does the same with two stacks of states: one of the iterations at x, one of those at x'. A Loop that turns a
different number of times at x' has no secant; what arrives there turns to NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import dims, loop, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.ir.reach import dependents
from onnx_attribution.graph_tools.ir.subgraphs import Values, graft
from onnx_attribution.graph_tools.operators.control_flow.backwards import Stacked, State, reversed_
from onnx_attribution.graph_tools.operators.control_flow.inner import note, twin
from onnx_attribution.graph_tools.operators.registry import Gradients, NodeView, secant, vjp
from onnx_attribution.graph_tools.operators.transpose import declare, known

GHOST = "@reference"
"""What the x' twin of an input of a body is called."""


@dataclass(frozen=True)
class Turns:
    """A node with a body, at x and at x', and what is known of its tensors."""

    node: NodeView
    reference: NodeView
    body: gs.Graph
    references: dict[str, Value]
    moving: set[str]

    @property
    def captured(self) -> list[int]:
        """The captured inputs that depend on the source."""
        return [k for k in range(len(self.body.inputs), len(self.node.inputs)) if self.node.active[k]]

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

    def walking(self, feeds: Sequence[Stacked], moved: set[str], fixed: Mapping[str, Value]) -> NodeView:
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


@vjp("Loop", sparse=True)
def loop_(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    return _loop(op, node, gradients, None)


@secant("Loop", to="inner")
def loop_secant(
    op: Emitter, node: NodeView, reference: NodeView, g: Sequence[Value | None], references: dict[str, Value],
    moving: set[str],
) -> Gradients:  # fmt: skip
    return _loop(op, node, g, Turns(node, reference, node.attributes["body"], references, moving))


def _loop(op: Emitter, node: NodeView, gradients: Sequence[Value | None], turns: Turns | None) -> Gradients:
    body: gs.Graph = node.attributes["body"]
    count = len(body.inputs) - 2
    iteration, going, *before = body.inputs
    _require_tensors(node, before)
    pairs = list(zip(before, body.outputs[1 : 1 + count], strict=True))
    shapes = [_numbers(x) for x in body.inputs]

    def stacks(view: NodeView, outer: Mapping[str, Value]) -> Values:
        def step(inner: Emitter, i: Value, on: Value, states: Values) -> tuple[Value, Values, Values]:
            given = dict(zip([x.name for x in body.inputs], [i, on, *states], strict=True))
            made = graft(inner, body, {**outer, **given})
            again, *after = [made[z.name] for z in body.outputs[: 1 + count]]
            return again, after, [i, *states]

        initial = [view.input(2 + k) for k in range(count)]
        return loop(op, step, view.inputs[0], view.inputs[1], initial, shapes)[1]

    here = stacks(node, {})
    feeds = [Stacked(x, stack) for x, stack in zip([iteration, *before], here, strict=True)]
    fixed: dict[str, Value] = {going.name: op.constant(np.ones([1] * len(dims(going)), dtype=np.bool_))}
    if turns is None:
        trips = node.inputs[0] if node.inputs[1] is None or _is_true(node.inputs[1]) else None
        runs = trips is not None and (number := known(trips)) is not None and bool((number > 0).all())
        view = node
    else:
        moved = turns.moved({x.name for k, x in enumerate(before) if node.active[2 + k]}, pairs)
        there = stacks(turns.reference, turns.there())
        gradients, there = _same_turns(op, here, there, gradients)
        feeds += [Stacked(_ghost(x), stack) for x, stack in zip(before, there[1:], strict=True)]
        view, runs = turns.walking(feeds, moved, fixed), None
    states = [State(2 + k, x, after, gradients[k]) for k, (x, after) in enumerate(pairs) if is_float(x)]
    ends = zip(body.outputs[1 + count :], gradients[count:], strict=False)
    arriving = [Stacked(z, g) for z, g in ends if g is not None]
    return reversed_(op, view, body, states, feeds, fixed, arriving, {}, runs)


def _same_turns(
    op: Emitter, here: Values, there: Values, gradients: Sequence[Value | None]
) -> tuple[Sequence[Value | None], Values]:
    """What arrives, or NaN where x and x' turn different numbers of times; the stacks of x' as long as those of x."""
    trips, others = (op.dims(stacks[0], 0, 1) for stacks in (here, there))
    same = op("Reshape", op("Equal", trips, others), op.ints([]))
    gradients = [g and declare(op("Where", same, g, op.like(g, float(np.nan))), dims(g)) for g in gradients]
    last = op("Sub", others, op.ints([1]))
    turn = op("Range", op.constant(np.int64(0)), op("Reshape", trips, op.ints([])), op.constant(np.int64(1)))
    at = op("Min", turn, last)  # each iteration at x must have a place to read
    return gradients, [declare(op("Gather", stack, at, axis=0), dims(stack)) for stack in there]


@vjp("Scan", sparse=True)
def scan_(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    return _scan(op, node, gradients, None)


@secant("Scan", to="inner")
def scan_secant(
    op: Emitter, node: NodeView, reference: NodeView, g: Sequence[Value | None], references: dict[str, Value],
    moving: set[str],
) -> Gradients:  # fmt: skip
    return _scan(op, node, g, Turns(node, reference, node.attributes["body"], references, moving))


def _scan(op: Emitter, node: NodeView, gradients: Sequence[Value | None], turns: Turns | None) -> Gradients:
    body: gs.Graph = node.attributes["body"]
    slices = int(node.attributes["num_scan_inputs"])
    count, stacked = len(body.inputs) - slices, len(body.outputs) - (len(body.inputs) - slices)
    backwards = node.attribute("scan_input_directions") or [0] * slices
    axes = node.attribute("scan_input_axes") or [0] * slices
    prepends = node.attribute("scan_output_directions") or [0] * stacked
    made_axes = node.attribute("scan_output_axes") or [0] * stacked
    before = body.inputs[:count]
    pairs = list(zip(before, body.outputs[:count], strict=True))

    def inputs_of(view: NodeView) -> Values:
        return [view.input(count + k) for k in range(slices)]

    def stacks(view: NodeView, outer: Mapping[str, Value]) -> Values:
        def step(inner: Emitter, states: Values, parts: Values) -> tuple[Values, Values]:
            given = dict(zip([x.name for x in body.inputs], [*states, *parts], strict=True))
            made = graft(inner, body, {**outer, **given})
            return [made[z.name] for z in body.outputs[:count]], states

        if not count:
            return []
        initial = [view.input(k) for k in range(count)]
        return scan(op, step, initial, inputs_of(view), reverse=backwards, axes=axes)[1]

    def read(view: NodeView) -> list[Stacked]:
        every = zip(body.inputs[count:], inputs_of(view), backwards, axes, strict=True)
        return [Stacked(x, whole, 1 - backward, axis) for x, whole, backward, axis in every]

    feeds = [Stacked(x, stack) for x, stack in zip(before, stacks(node, {}), strict=True)] + read(node)
    view, runs = node, None
    if turns is None:
        sizes = [dims(x)[axis] for x, axis in zip(inputs_of(node), axes, strict=True)]
        runs = any(isinstance(size, int) and size > 0 for size in sizes)
    else:
        moved = turns.moved({x.name for k, x in enumerate(body.inputs) if node.active[k]}, pairs)
        there = stacks(turns.reference, turns.there())
        feeds += [Stacked(_ghost(x), stack) for x, stack in zip(before, there, strict=True)]
        others = [x for k, x in enumerate(read(turns.reference)) if node.active[count + k]]
        feeds += [replace(x, inner=_ghost(x.inner)) for x in others]
        view = turns.walking(feeds, moved, {})
    states = [State(k, x, after, gradients[k]) for k, (x, after) in enumerate(pairs) if is_float(x)]
    arriving = [
        Stacked(z, g, 1 - prepend, axis)
        for z, g, prepend, axis in zip(
            body.outputs[count:], gradients[count:], prepends, made_axes, strict=False
        )
        if g is not None
    ]
    wanted = {count + k: x for k, x in enumerate(feeds[count : count + slices]) if view.active[count + k]}
    return reversed_(op, view, body, states, feeds, {}, arriving, wanted, runs)


def _is_true(value: Value) -> bool:
    decided = known(value)
    return decided is not None and bool(decided.all())


def _require_tensors(node: NodeView, values: Iterable[Value]) -> None:
    for x in values:
        if getattr(x, "type", "tensor_type") != "tensor_type":
            raise NotDifferentiable(
                f"{node.operator} (node {node.name!r}) hands on {x.name!r}, which is a sequence, no tensor",
                reason=Reason.SEQUENCE, node=node.name, operator=node.operator, tensor=x.name,
            )  # fmt: skip


def _numbers(x: Value) -> list[int | str | None]:
    """The shape of an input of a body without its symbols, which mean one iteration."""
    return [d if isinstance(d, int) else None for d in dims(x)]
