"""Loop and Scan backwards: a Scan over stacks of states, from the last iteration to the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.control_flow_emit import dims, loop, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.reach import reachable
from onnx_attribution.graph_tools.ir.subgraphs import Step, Values, graft, inputs_of, key_of
from onnx_attribution.graph_tools.operators.control_flow.inner import locally, walked
from onnx_attribution.graph_tools.operators.registry import ZERO_DERIVATIVE, Gradients, NodeView
from onnx_attribution.graph_tools.operators.transpose import declare


@dataclass(frozen=True)
class Stacked:
    """A tensor of the body, and the tensor that holds its values of all iterations along `axis`.

    `reverse` is 1 where the backward pass goes through them from the last to the first.
    """

    inner: Value
    stack: Value
    reverse: int = 1
    axis: int = 0


@dataclass(frozen=True)
class State:
    """What an iteration hands to the next: input `index` of the node, and what it is called in the body."""

    index: int
    before: Value
    after: Value
    gradient: Value | None


def reversed_(
    op: Emitter,
    node: NodeView,
    body: gs.Graph,
    states: Sequence[State],
    feeds: Sequence[Stacked],
    fixed: Mapping[str, Value],
    arriving: Sequence[Stacked],
    wanted: Mapping[int, Stacked],
    runs: bool | None = None,
) -> Gradients:
    """The gradients of the node's inputs by a Scan from the last iteration to the first.

    `feeds` are the stacked inputs of the body and `fixed` those that are the same in every iteration; gradients come
    through `states` and `arriving` and leave through `states`, `wanted` (by input) and what is captured, which
    follows the node's own inputs. Unless it certainly `runs`, a state may be handed on as it came;
    None: what has no derivative passes too, as secants do.
    """
    shared = [k for k in range(len(body.inputs), len(node.inputs)) if node.active[k]]
    start = {node.input(k).name for k in shared} | {x.inner.name for x in wanted.values()}
    start |= {s.before.name for s in states if node.active[s.index]}
    states = _moving(body, states, start)
    reached: set[int] = {s.index for s in states if s.gradient is not None and not runs}
    ways = None if runs is None else _ways(body, states, [a.inner for a in arriving])

    def step(inner: Emitter, carried: Values, slices: Values) -> tuple[Values, Values]:
        parts = dict(zip([x.inner.name for x in feeds], slices, strict=False))
        local = {k: locally(inner, node.input(k)) for k in shared}
        made = graft(inner, body, {**fixed, **parts, **{node.input(k).name: x for k, x in local.items()}})
        pairs = [(s.after, g) for s, g in zip(states, carried, strict=False)]
        pairs += [(a.inner, g) for a, g in zip(arriving, slices[len(feeds) :], strict=True)]
        sought = {s.index: parts[s.before.name] for s in states}
        sought |= {k: parts[x.inner.name] for k, x in wanted.items()}
        found = walked(inner, node, pairs, made, [*sought.values(), *local.values()])
        named = {s.index: s.before.name for s in states} | {k: x.inner.name for k, x in wanted.items()}
        named |= {k: node.input(k).name for k in shared}
        reached.update(
            k
            for k, x in {**sought, **local}.items()
            if x.name in found and (ways is None or named[k] in ways)
        )
        after = [found.get(sought[s.index].name, None) for s in states]
        finals = [
            g if g is not None else inner.zeros_like(carry) for g, carry in zip(after, carried, strict=False)
        ]
        for k, total in zip(shared, carried[len(states) :], strict=True):
            part = found.get(local[k].name)
            finals.append(total if part is None else declare(inner("Add", total, part), dims(total)))
        out = [found.get(sought[k].name) for k in wanted]
        slots = [
            g if g is not None else inner.zeros_like(sought[k]) for k, g in zip(wanted, out, strict=True)
        ]
        return finals, slots

    begin = [op.zeros_like(node.input(s.index)) if s.gradient is None else s.gradient for s in states]
    begin += [op.zeros_like(node.input(k)) for k in shared]
    read = [*feeds, *arriving]
    if node.operator == "Loop":
        finals, made = _turned(op, step, begin, [x.stack for x in read]), Values()
    else:
        finals, made = scan(
            op,
            step,
            begin,
            [x.stack for x in read],
            reverse=[x.reverse for x in read],
            axes=[x.axis for x in read],
            reverse_made=[x.reverse for x in wanted.values()],
            axes_made=[x.axis for x in wanted.values()],
        )
    results = dict(zip([*(s.index for s in states), *shared, *wanted], [*finals, *made], strict=True))
    return [results[k] if k in results and k in reached else None for k in range(len(node.inputs))]


def _ways(body: gs.Graph, states: Sequence[State], arriving: Iterable[Value]) -> set[str]:
    """The tensors of a body from which a derivative leads, in any number of iterations, to where a gradient arrives."""
    found = {x.name for x in arriving} | {s.after.name for s in states if s.gradient is not None}
    while True:
        for inner in reversed(body.nodes):
            if key_of(inner) not in ZERO_DERIVATIVE and any(z.name in found for z in inner.outputs):
                found.update(x.name for x in inputs_of(inner))
        more = {s.after.name for s in states if s.before.name in found} - found
        if not more:
            return found
        found |= more


def _turned(op: Emitter, step: Step, states: Values, stacks: Values) -> Values:
    """The final states of a Loop over stacks, from the last to the first; onnxruntime's Scan takes no empty ones."""
    trips = declare(op("Reshape", op.dims(stacks[0], 0, 1), op.ints([])), [])
    last = op("Sub", trips, op.constant(np.int64(1)))

    def one(inner: Emitter, i: Value, on: Value, carried: Values) -> tuple[Value, Values, Values]:
        index = inner("Sub", last, i)
        slices = [declare(inner("Gather", x, index, axis=0), dims(x)[1:]) for x in stacks]
        return on, step(inner, carried, slices)[0], []

    return loop(op, one, trips, None, states, [[], [], *map(dims, states)])[0]


def _moving(body: gs.Graph, states: Sequence[State], start: set[str]) -> list[State]:
    """The states that depend, after any number of iterations, on the tensors named `start`."""
    while True:
        active = reachable(body.nodes, start)
        more = {s.before.name for s in states if s.after.name in active} - start
        if not more:
            return [s for s in states if s.before.name in start]
        start |= more
