"""Random nodes with bodies (Loop, Scan, If) and calls of local functions; bodies use tensors from outside."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.fuzz.draft import Dims, Draft, Value, elements, without
from tests.fuzz.operators import binary, elementwise, reduced, tame, unary

DOMAIN = "local"


def chain(d: Draft, x: Value, longest: int = 2) -> Value:
    """A few elementwise steps."""
    for _ in range(int(d.rng.integers(1, longest + 1))):
        x = elementwise(d, x)
    return x


def _accumulate(d: Draft, x: Value, state: Value) -> Value:
    """The next state of a loop, from what came and what was."""
    kind = d.pick(["Add", "Add", "Mul", "Max", "tanh"])
    if kind == "Mul":
        x = d.add("Tanh", [x], x.dims)
    if kind != "tanh":
        return d.add(kind, [x, state] if d.chance(0.5) else [state, x], x.dims, 4 * (x.size + state.size))
    return d.add("Tanh", [d.add("Add", [state, x], x.dims, x.size + state.size)], x.dims)


def _declared(d: Draft, dims: Dims) -> Dims | None:
    """What a body says of an output: its shape, or nothing."""
    return dims if d.fixed or d.chance(0.5) else None


def _start(d: Draft, x: Value, axis: int) -> Value:
    """A first state for a loop along an axis: a part of the tensor, its sum, or another tensor of that shape."""
    dims = without(x.dims, axis)
    others = [y for y in d.values if y.dims == dims]
    if others and d.chance(0.5):
        return tame(d, d.pick(others[-6:]))
    if d.chance(0.5):
        return d.add("Gather", [x, d.constant(0, np.int64)], dims, x.size, axis=axis)
    return reduced(d, "ReduceMean", x, [axis], False)


def loop(d: Draft, x: Value) -> Value | None:
    """A Loop along an axis of a sample, or a few rounds of the same over the whole tensor."""
    x = tame(d, x)
    axes = [k for k in x.free if 1 < x.width(k) <= 4]
    if axes and d.chance(0.75):
        axis = d.pick(axes)
        state, rounds = _start(d, x, axis), x.width(axis)
    elif x.dims:
        axis, state, rounds = None, tame(d, elementwise(d, x)), 2
    else:
        return None
    inner = d.child()
    index, going, held = (d.names.new(p) for p in ("i", "go", "s"))
    here = x if axis is None else inner.add("Gather", [x, index], state.dims, x.size, axis=axis)
    before = Value(held, state.dims, state.size)
    inner.values.append(before)
    here = chain(inner, here)
    if d.chance(0.2):
        here = branch(inner, here)
    after = _accumulate(inner, here, before)
    inner.node("Identity", [going], [still := d.names.new("go")])
    scans = [here] if d.chance(0.4) and rounds * elements(here.dims) <= 24 else []
    front = [
        helper.make_tensor_value_info(index, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
        _info(d, held, _declared(d, state.dims)),
    ]
    outputs = [(after.name, _declared(d, after.dims))] + [(s.name, _declared(d, s.dims)) for s in scans]
    last = Value(d.names.new("t"), state.dims, 4 * after.size)
    stacked = [Value(d.names.new("t"), (rounds, *s.dims), s.size) for s in scans]
    d.node(
        "Loop",
        [d.integers(rounds), d.constant(True, np.bool_) if d.chance(0.5) else "", state.name],
        [v.name for v in (last, *stacked)],
        body=inner.body(front, outputs, condition=still),
    )
    for found in (last, *stacked):
        d.keep(found)
    return d.pick([last, *stacked])


def scan(d: Draft, x: Value) -> Value | None:
    """A Scan along an axis of a sample."""
    axes = [k for k in x.free if 1 < x.width(k) <= 4]
    if not axes:
        return None
    x = tame(d, x)
    axis = d.pick(axes)
    state = _start(d, x, axis)
    inner = d.child()
    held, part = Value(d.names.new("s"), state.dims, state.size), Value(d.names.new("p"), state.dims, x.size)
    inner.values += [held, part]
    here = chain(inner, part)
    after = _accumulate(inner, here, held)
    front = [_info(d, v.name, _declared(d, v.dims)) for v in (held, part)]
    last = Value(d.names.new("t"), state.dims, 4 * after.size)
    stacked = Value(d.names.new("t"), (x.dims[axis], *here.dims), here.size)
    d.node(
        "Scan", [state.name, x.name], [last.name, stacked.name], num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[int(d.chance(0.3))],
        body=inner.body(front, [(v.name, v.dims) for v in (after, here)]),  # onnxruntime asks for the shapes
    )  # fmt: skip
    for found in (last, stacked):
        d.keep(found)
    return d.pick([last, last, stacked])


def branch(d: Draft, x: Value) -> Value:
    """An If whose condition is constant, or depends on nothing that a sample has of its own."""
    x = tame(d, x)
    bodies, sizes = {}, []
    for word in ("then_branch", "else_branch"):
        inner = d.child()
        made = chain(inner, x)
        bodies[word] = inner.body([], [(made.name, _declared(d, made.dims))])
        sizes.append(made.size)
    condition = d.constant(d.chance(0.5), np.bool_)
    alone = [y for y in d.values if not y.dims]
    if alone and d.chance(0.5):
        d.node("Greater", [d.pick(alone).name, d.constant(0.1)], [condition := d.names.new("b")])
    return d.add("If", [condition], x.dims, max(sizes), **bodies)


def whole_branch(d: Draft, x: Value) -> Value:
    """An If whose condition looks at all samples: where they share a run, they share the branch."""
    x = tame(d, x)
    total = d.add("ReduceSum", [x], (), x.size, keepdims=0)
    for seen in (d.values, d.made):
        seen.remove(total)
    d.node("Greater", [total.name, d.constant(0.1)], [condition := d.names.new("b")])
    bodies = {}
    for word in ("then_branch", "else_branch"):
        inner = d.child()
        made = chain(inner, x)
        bodies[word] = inner.body([], [(made.name, _declared(d, made.dims))])
    return d.add("If", [condition], x.dims, x.size + 3, **bodies)


def call(d: Draft, x: Value) -> Value | None:
    """A call of a new function of one or two tensors; now and then it is called twice."""
    x = tame(d, x)
    others = [y for y in d.values if y.dims == x.dims and y.name != x.name]
    given = [x, tame(d, d.pick(others))] if others and d.chance(0.5) else [x]
    formal = [Value(f"a{k}", v.dims, v.size) for k, v in enumerate(given)]
    inner = d.child(values=formal, inline=True)
    made = binary(inner, formal[0], keep=True) if len(formal) > 1 else unary(inner, formal[0])
    if made is None:
        return None
    made = chain(inner, made)
    function = helper.make_function(
        DOMAIN, d.names.new("f"), [v.name for v in formal], [made.name], inner.nodes,
        [helper.make_opsetid("", d.opset)],
    )  # fmt: skip
    d.functions.append(function)
    found = d.add(function.name, given, x.dims, made.size, domain=DOMAIN)
    if d.chance(0.3):
        again = [tame(d, found), *given[1:]]
        found = d.add(function.name, again, x.dims, made.size, domain=DOMAIN)
    return found


def _info(d: Draft, name: str, dims: Dims | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, d.element, None if dims is None else d.declared(dims))
