"""If, Loop and Scan: the backward pass recomputes the inner graph where the runtime needs its values again.

Values that inner graphs capture are inputs of the node, after its own. A Loop or Scan runs once more to stack the
states that each iteration began with; another one over those stacks, from the last iteration to the first, carries
the gradients of the states and sums those of the captured values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import branches, dims, loop, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.ir.reach import reachable
from onnx_attribution.graph_tools.ir.subgraphs import Step, Values, graft, inputs_of, key_of
from onnx_attribution.graph_tools.operators.registry import ZERO_DERIVATIVE, Gradients, NodeView, vjp
from onnx_attribution.graph_tools.operators.tricks import declare, known


@vjp("If", sparse=True)
def if_(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    active = [k for k, is_active in enumerate(node.active) if is_active]
    reached: set[int] = set()

    def reverse(inner: Emitter, graph: gs.Graph) -> Values:
        local = {k: _local(inner, node.input(k)) for k in active}
        made = graft(inner, graph, {node.input(k).name: x for k, x in local.items()})
        found = _walked(inner, node, zip(graph.outputs, gradients, strict=False), made, local.values())
        reached.update(k for k, x in local.items() if x.name in found)
        return [found[x.name] if x.name in found else inner.zeros_like(x) for x in local.values()]

    then, otherwise = node.attributes["then_branch"], node.attributes["else_branch"]
    decided = known(node.input(0))
    if decided is None:
        results = branches(
            op,
            node.input(0),
            lambda inner: reverse(inner, then),
            lambda inner: reverse(inner, otherwise),
            [dims(node.input(k)) for k in active],
        )
    else:
        taken = op.graph.tensors()
        name = op.name_for("If")
        while any(other.startswith(f"{name}/") for other in taken):
            name = op.name_for("If")
        results = reverse(Emitter(op.graph, name), then if decided.all() else otherwise)
    by_input = dict(zip(active, results, strict=True))
    return [by_input[k] if k in reached else None for k in range(len(node.inputs))]


@dataclass(frozen=True)
class _Stacked:
    """A tensor of the body, and the tensor that holds its values of all iterations along `axis`.

    `reverse` is 1 where the backward pass goes through them from the last to the first.
    """

    inner: Value
    stack: Value
    reverse: int = 1
    axis: int = 0


@dataclass(frozen=True)
class _State:
    """What an iteration hands to the next: input `index` of the node, and what it is called in the body."""

    index: int
    before: Value
    after: Value
    gradient: Value | None


@vjp("Loop", sparse=True)
def loop_(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    body: gs.Graph = node.attributes["body"]
    count = len(body.inputs) - 2
    iteration, going, *before = body.inputs
    initial = [node.input(2 + k) for k in range(count)]
    _require_tensors(node, before)

    def step(inner: Emitter, i: Value, on: Value, states: Values) -> tuple[Value, Values, Values]:
        given = dict(zip([x.name for x in body.inputs], [i, on, *states], strict=True))
        made = graft(inner, body, given)
        again, *after = [made[z.name] for z in body.outputs[: 1 + count]]
        return again, after, [i, *states]

    shapes = [_numbers(x) for x in body.inputs]
    _, stacks = loop(op, step, node.inputs[0], node.inputs[1], initial, shapes)
    feeds = [_Stacked(x, stack) for x, stack in zip([iteration, *before], stacks, strict=True)]
    states = [
        _State(2 + k, before[k], body.outputs[1 + k], gradients[k])
        for k in range(count)
        if is_float(before[k])
    ]
    ends = zip(body.outputs[1 + count :], gradients[count:], strict=False)
    arriving = [_Stacked(z, g) for z, g in ends if g is not None]
    fixed: dict[str, Value] = {going.name: op.constant(np.ones([1] * len(dims(going)), dtype=np.bool_))}
    trips = node.inputs[0] if node.inputs[1] is None or _is_true(node.inputs[1]) else None
    runs = trips is not None and (number := known(trips)) is not None and bool((number > 0).all())
    return _reversed(op, node, body, len(body.inputs), states, feeds, fixed, arriving, {}, runs)


@vjp("Scan", sparse=True)
def scan_(op: Emitter, node: NodeView, *gradients: Value | None) -> Gradients:
    body: gs.Graph = node.attributes["body"]
    slices = int(node.attributes["num_scan_inputs"])
    count, stacked = len(body.inputs) - slices, len(body.outputs) - (len(body.inputs) - slices)
    initial = [node.input(k) for k in range(count)]
    inputs = [node.input(count + k) for k in range(slices)]
    backwards = node.attribute("scan_input_directions") or [0] * slices
    axes = node.attribute("scan_input_axes") or [0] * slices
    prepends = node.attribute("scan_output_directions") or [0] * stacked
    made_axes = node.attribute("scan_output_axes") or [0] * stacked
    before = body.inputs[:count]

    def step(inner: Emitter, states: Values, parts: Values) -> tuple[Values, Values]:
        given = dict(zip([x.name for x in body.inputs], [*states, *parts], strict=True))
        made = graft(inner, body, given)
        return [made[z.name] for z in body.outputs[:count]], states

    stacks: Values = []
    if count:
        _, stacks = scan(op, step, initial, inputs, reverse=backwards, axes=axes)
    feeds = [_Stacked(x, stack) for x, stack in zip(before, stacks, strict=True)]
    read = [
        _Stacked(x, whole, 1 - backward, axis)
        for x, whole, backward, axis in zip(body.inputs[count:], inputs, backwards, axes, strict=True)
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
    wanted = {count + k: x for k, x in enumerate(read) if node.active[count + k]}
    sizes = [dims(x)[axis] for x, axis in zip(inputs, axes, strict=True)]
    runs = any(isinstance(size, int) and size > 0 for size in sizes)
    return _reversed(op, node, body, len(body.inputs), states, [*feeds, *read], {}, arriving, wanted, runs)


def _reversed(
    op: Emitter,
    node: NodeView,
    body: gs.Graph,
    own: int,
    states: Sequence[_State],
    feeds: Sequence[_Stacked],
    fixed: Mapping[str, Value],
    arriving: Sequence[_Stacked],
    wanted: Mapping[int, _Stacked],
    runs: bool | None = None,
) -> Gradients:
    """The gradients of the node's inputs by a Scan from the last iteration to the first.

    `feeds` are the stacked inputs of the body and `fixed` those that are the same in every iteration; gradients come
    through `states` and `arriving` and leave through `states`, `wanted` (by input) and what is captured, which
    follows the node's `own` inputs. Unless it certainly `runs`, a state may be handed on as it came;
    None: what has no derivative passes too, as secants do.
    """
    shared = [k for k in range(own, len(node.inputs)) if node.active[k]]
    start = {node.input(k).name for k in shared} | {x.inner.name for x in wanted.values()}
    start |= {s.before.name for s in states if node.active[s.index]}
    states = _moving(body, states, start)
    reached: set[int] = {s.index for s in states if s.gradient is not None and not runs}
    ways = None if runs is None else _ways(body, states, [a.inner for a in arriving])

    def step(inner: Emitter, carried: Values, slices: Values) -> tuple[Values, Values]:
        parts = dict(zip([x.inner.name for x in feeds], slices, strict=False))
        local = {k: _local(inner, node.input(k)) for k in shared}
        made = graft(inner, body, {**fixed, **parts, **{node.input(k).name: x for k, x in local.items()}})
        pairs = [(s.after, g) for s, g in zip(states, carried, strict=False)]
        pairs += [(a.inner, g) for a, g in zip(arriving, slices[len(feeds) :], strict=True)]
        sought = {s.index: parts[s.before.name] for s in states}
        sought |= {k: parts[x.inner.name] for k, x in wanted.items()}
        found = _walked(inner, node, pairs, made, [*sought.values(), *local.values()])
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


def _ways(body: gs.Graph, states: Sequence[_State], arriving: Iterable[Value]) -> set[str]:
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


def _is_true(value: Value) -> bool:
    decided = known(value)
    return decided is not None and bool(decided.all())


def _turned(op: Emitter, step: Step, states: Values, stacks: Values) -> Values:
    """The final states of a Loop over stacks, from the last to the first; onnxruntime's Scan takes no empty ones."""
    trips = declare(op("Reshape", op.dims(stacks[0], 0, 1), op.ints([])), [])
    last = op("Sub", trips, op.constant(np.int64(1)))

    def one(inner: Emitter, i: Value, on: Value, carried: Values) -> tuple[Value, Values, Values]:
        index = inner("Sub", last, i)
        slices = [declare(inner("Gather", x, index, axis=0), dims(x)[1:]) for x in stacks]
        return on, step(inner, carried, slices)[0], []

    return loop(op, one, trips, None, states, [[], [], *map(dims, states)])[0]


def _moving(body: gs.Graph, states: Sequence[_State], start: set[str]) -> list[_State]:
    """The states that depend, after any number of iterations, on the tensors named `start`."""
    while True:
        active = reachable(body.nodes, start)
        more = {s.before.name for s in states if s.after.name in active} - start
        if not more:
            return [s for s in states if s.before.name in start]
        start |= more


def _walked(
    inner: Emitter,
    node: NodeView,
    pairs: Iterable[tuple[Value, Value | None]],
    made: Mapping[str, Value],
    wrt: Iterable[Value],
) -> dict[str, Value]:
    """The gradients of `wrt` inside a copied graph; `pairs` are outputs of the original with what arrives there."""
    arrived: dict[str, Values] = {}
    for z, g in pairs:
        if g is not None:
            if len(dims(g)) != len(
                dims(made[z.name])
            ):  # a branch of another rank: never taken where g arrives
                g = inner.reshape_like(g, made[z.name])
            arrived.setdefault(made[z.name].name, []).append(g)
    seeds = {name: g[0] if len(g) == 1 else inner("Sum", *g) for name, g in arrived.items()}
    assert node.walk is not None
    by_name = {x.name: x for x in wrt}
    found = node.walk(inner, seeds, list(by_name))
    for name, g in found.items():
        if g.shape is None:
            declare(g, dims(by_name[name]))
    return found


def _local(inner: Emitter, outer: Value) -> Value:
    """A captured value under a name of the inner graph, where the walk can find it."""
    return declare(inner("Identity", outer), dims(outer))


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
