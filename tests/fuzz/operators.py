"""Random operators: each step takes a tensor of a draft and makes another, or None where it does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.fuzz.draft import LARGEST, Dims, Draft, N, Value, broadcast, elements, replaced, spread, without

Step = Callable[[Draft, Value], Value | None]
BOUND = 100.0  # numbers above it are scaled before they are multiplied


def tame(d: Draft, x: Value) -> Value:
    """The tensor, scaled where its numbers are large."""
    if x.size <= BOUND:
        return x
    return d.add("Mul", [x, d.constant(round(30 / x.size, 6))], x.dims, 30.0)


def unary(d: Draft, x: Value) -> Value:
    """An elementwise function of one tensor."""
    bounded = {"Tanh": 1.0, "Sigmoid": 1.0, "Sin": 1.0, "Cos": 1.0}
    kind = d.pick([*bounded, "Relu", "Abs", "Neg", "Identity", "square", "log", "root", "exp", "softplus"])
    if kind in bounded:
        return d.add(kind, [x], x.dims, bounded[kind])
    if kind in ("Relu", "Abs", "Neg", "Identity"):
        return d.add(kind, [x], x.dims, x.size)
    x = tame(d, x)
    if kind == "square":
        return d.add("Mul", [x, x], x.dims, x.size**2)
    if kind in ("log", "root"):
        inner = d.add(
            "Add", [d.add("Mul", [x, x], x.dims, x.size**2), d.constant(1.25)], x.dims, x.size**2 + 1
        )
        return d.add(
            "Log" if kind == "log" else "Sqrt", [inner], x.dims, 6.0 if kind == "log" else x.size + 1
        )
    if kind == "exp":
        return d.add("Exp", [d.add("Tanh", [x], x.dims)], x.dims, 3.0)
    grown = d.add(
        "Add", [d.add("Exp", [d.add("Sin", [x], x.dims)], x.dims, 3.0), d.constant(1.0)], x.dims, 4.0
    )
    return d.add("Log", [grown], x.dims, 1.5)


def partner(d: Draft, x: Value, *, keep: bool = False) -> Value | None:
    """A tensor with which another can be combined elementwise; with `keep`, without growing it."""
    found = []
    for y in d.values:
        wide = broadcast(x.dims, y.dims)
        if wide is not None and elements(wide) <= LARGEST and (not keep or wide == x.dims):
            found.append(y)
    return d.pick(found[-8:]) if found else None


def binary(d: Draft, x: Value, *, keep: bool = False) -> Value | None:
    """An elementwise function of two tensors."""
    y = partner(d, x, keep=keep)
    if y is None:
        return None
    x, y = tame(d, x), tame(d, y)
    dims = broadcast(x.dims, y.dims)
    assert dims is not None
    return combine(d, d.pick(["Add", "Sub", "Mul", "Mul", "Mul", "Max", "Min", "Div", "Where"]), x, y, dims)


def combine(d: Draft, kind: str, x: Value, y: Value, dims: Dims) -> Value:
    """One elementwise function of two tensors that are not large."""
    if d.chance(0.5):
        x, y = y, x
    if kind == "Mul":
        return d.add("Mul", [x, y], dims, x.size * y.size)
    if kind == "Div":
        low = d.add("Add", [d.add("Abs", [y], y.dims, y.size), d.constant(1.5)], y.dims, y.size + 2)
        return d.add("Div", [x, low], dims, x.size)
    if kind == "Where":
        d.node("Greater", [x.name, y.name], [larger := d.names.new("b")])
        return d.add("Where", [larger, x, d.add("Sin", [y], y.dims)], dims, max(x.size, 1))
    return d.add(kind, [x, y], dims, x.size + y.size)


def elementwise(d: Draft, x: Value) -> Value:
    """A step that leaves the shape."""
    found = binary(d, x, keep=True) if d.chance(0.5) else None
    return found if found is not None else unary(d, x)


def with_constant(d: Draft, x: Value) -> Value:
    """A sum or product with a weight that broadcasts."""
    lead = int(d.rng.integers(len(x.dims) + 1))
    shape = [1 if isinstance(n, str) or d.chance(0.2) else n for n in x.dims[lead:]]
    if d.chance(0.5):
        return d.add("Add", [x, d.constant(spread(d.rng, shape))], x.dims, x.size + 2)
    return d.add("Mul", [x, d.constant(spread(d.rng, shape))], x.dims, 2 * x.size)


def matmul(d: Draft, x: Value) -> Value | None:
    """A product with a matrix on the last axis, or on the one before; Gemm where that fits."""
    if len(x.dims) < 2:
        return None
    x = tame(d, x)
    out = int(d.rng.integers(2, 5))
    if x.dims[-1] != N:
        width = x.width(-1)
        dims = replaced(x.dims, {len(x.dims) - 1: out})
        if elements(dims) > LARGEST:
            return None
        weight = d.constant(spread(d.rng, [width, out], 1 / math.sqrt(width)))
        if len(dims) == 2 and d.chance(0.5):
            return d.add("Gemm", [x, weight, d.constant(spread(d.rng, [out]))], dims, 2 * x.size + 2)
        return d.add("MatMul", [x, weight], dims, 2 * x.size)
    if x.dims[-2] == N:
        return None
    width = x.width(-2)
    dims = replaced(x.dims, {len(x.dims) - 2: out})
    if elements(dims) > LARGEST:
        return None
    return d.add("MatMul", [d.constant(spread(d.rng, [out, width], 1 / width)), x], dims, 2 * x.size)


def scores(d: Draft, x: Value) -> Value | None:
    """The products of all pairs of vectors of a sample."""
    if len(x.dims) < 3 or N in x.dims[-2:] or x.width(-2) ** 2 * elements(x.dims[:-2]) > LARGEST:
        return None
    x = tame(d, x)
    order = [*range(len(x.dims) - 2), len(x.dims) - 1, len(x.dims) - 2]
    across = d.add("Transpose", [x], tuple(x.dims[k] for k in order), x.size, perm=order)
    return d.add("MatMul", [x, across], (*x.dims[:-1], x.dims[-2]), x.size**2 * x.width(-1))


def reduced(d: Draft, operator: str, x: Value, axes: Sequence[int], keep: bool) -> Value:
    """A reduction over axes, in the form of the opset."""
    dims = replaced(x.dims, dict.fromkeys(axes, 1)) if keep else without(x.dims, *axes)
    size = x.size * (4 if operator in ("ReduceSum", "ReduceL1") else 1) + 2
    if d.opset < 18 and operator != "ReduceSum":
        return d.add(operator, [x], dims, size, axes=list(axes), keepdims=int(keep))
    return d.add(operator, [x, d.integers(list(axes))], dims, size, keepdims=int(keep))


def reduction(d: Draft, x: Value) -> Value | None:
    """A reduction over some axes of a sample."""
    if not x.free:
        return None
    count = int(d.rng.integers(1, len(x.free) + 1))
    axes = sorted(int(k) for k in d.rng.choice(x.free, size=count, replace=False))
    kinds = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceLogSumExp", "ReduceL1"]
    return reduced(d, d.pick(kinds), x, axes, d.chance(0.5))


def softmax(d: Draft, x: Value) -> Value | None:
    """A softmax along an axis of a sample."""
    axes = [k for k in x.free if x.dims[k] != 1]
    if not axes:
        return None
    x = tame(d, x)
    kind = d.pick(["Softmax", "LogSoftmax"])
    return d.add(kind, [x], x.dims, 1.0 if kind == "Softmax" else 2 * x.size, axis=d.pick(axes))


def normalisation(d: Draft, x: Value) -> Value | None:
    """A normalisation over axes of a sample: an operator's own, or one written out."""
    kind = d.pick(["LayerNormalization", "LpNormalization", "BatchNormalization", "mean", "mean"])
    if not x.free:
        return None
    if kind == "LayerNormalization":
        first = max((k + 1 for k, n in enumerate(x.dims) if n == N), default=0)
        if d.opset < 17 or first >= len(x.dims) or elements(x.dims[first:]) < 2:
            return None
        shape = [n for n in x.dims[first:] if isinstance(n, int)]
        weights = [d.constant(spread(d.rng, shape)), d.constant(spread(d.rng, shape))]
        return d.add(kind, [x, *weights], x.dims, 4.0, axis=first, epsilon=0.01)
    if kind == "LpNormalization":
        axis = d.pick(x.free)
        away = d.add("Add", [d.add("Cos", [x], x.dims), d.constant(1.5)], x.dims, 2.5)
        return d.add(kind, [away], x.dims, 1.0, axis=axis, p=d.pick([1, 2]))
    if kind == "BatchNormalization":
        if len(x.dims) < 2 or x.dims[0] != N:
            return None
        width = x.width(1)
        numbers = [spread(d.rng, [width]) for _ in range(3)] + [np.abs(spread(d.rng, [width])) + 0.5]
        return d.add(kind, [x, *map(d.constant, numbers)], x.dims, 2 * x.size + 2)
    axes = x.free[-1:] if d.chance(0.5) else x.free
    x = tame(d, x)
    centred = d.add("Sub", [x, reduced(d, "ReduceMean", x, axes, True)], x.dims, 2 * x.size)
    square = d.add("Mul", [centred, centred], x.dims, centred.size**2)
    spreads = reduced(d, "ReduceMean", square, axes, True)
    away = d.add("Add", [spreads, d.constant(0.1)], spreads.dims, spreads.size + 0.1)
    root = d.add("Sqrt", [away], spreads.dims, math.sqrt(away.size) + 1)
    return d.add("Div", [centred, root], x.dims, 4.0)


def along(d: Draft, x: Value) -> Value | None:
    """A running sum, the largest few, or a part of an axis of a sample."""
    axes = [k for k in x.free if x.dims[k] != 1]
    if not axes:
        return None
    axis = d.pick(axes)
    width = x.width(axis)
    kind = d.pick(["CumSum", "TopK", "Gather", "Slice", "Split"])
    if kind == "CumSum":
        place = d.constant(axis, np.int64)
        flags = {"exclusive": int(d.chance(0.3)), "reverse": int(d.chance(0.3))}
        return d.add(kind, [x, place], x.dims, width * x.size, **flags)
    if kind == "Gather":
        places = [int(k) for k in d.rng.integers(width, size=int(d.rng.integers(1, 3)))]
        return d.add(kind, [x, d.integers(places)], replaced(x.dims, {axis: len(places)}), x.size, axis=axis)
    if kind == "Slice":
        dims = replaced(x.dims, {axis: width - 1})
        return d.add(kind, [x, *map(d.integers, ([1], [width], [axis]))], dims, x.size)
    if kind == "Split":
        parts = [Value(d.names.new("t"), replaced(x.dims, {axis: n}), x.size) for n in (1, width - 1)]
        d.node(kind, [x.name, d.integers([1, width - 1])], [p.name for p in parts], axis=axis)
        for part in parts:
            d.keep(part)
        return parts[1]
    count = int(d.rng.integers(1, width + 1))
    found = Value(d.names.new("t"), replaced(x.dims, {axis: count}), x.size)
    largest = int(d.chance(0.7))
    d.node(kind, [x.name, d.integers([count])], [found.name, d.names.new("i")], axis=axis, largest=largest)
    d.keep(found)
    return found


def movement(d: Draft, x: Value) -> Value | None:
    """Another order or grouping of the same numbers, or some of them twice."""
    kind = d.pick(["Transpose", "Reshape", "Reshape", "Unsqueeze", "Concat", "Pad"])
    if kind == "Transpose" and len(x.dims) > 1:
        order = [int(k) for k in d.rng.permutation(len(x.dims))]
        return d.add(kind, [x], tuple(x.dims[k] for k in order), x.size, perm=order)
    if kind == "Unsqueeze" and len(x.dims) < 4:
        place = int(d.rng.integers(len(x.dims) + 1))
        return d.add(kind, [x, d.integers([place])], (*x.dims[:place], 1, *x.dims[place:]), x.size)
    if kind == "Concat":
        same = [
            y
            for y in d.values
            for k in x.free
            if without(y.dims, k) == without(x.dims, k) and k < len(y.dims)
        ]
        y = d.pick(same) if same else x
        axes = [k for k in x.free if len(y.dims) == len(x.dims) and without(y.dims, k) == without(x.dims, k)]
        if not axes:
            return None
        axis = d.pick(axes)
        dims = replaced(x.dims, {axis: x.width(axis) + y.width(axis)})
        if elements(dims) > LARGEST:
            return None
        return d.add(kind, [x, y], dims, max(x.size, y.size), axis=axis)
    if kind == "Pad" and x.free:
        axis = d.pick(x.free)
        pads = [int(k == axis) for k in range(len(x.dims))] + [0] * len(x.dims)
        dims = replaced(x.dims, {axis: x.width(axis) + 1})
        return None if elements(dims) > LARGEST else d.add(kind, [x, d.integers(pads)], dims, x.size)
    return reshaped(d, x) if kind == "Reshape" else None


def reshaped(d: Draft, x: Value) -> Value | None:
    """The elements of each sample on one axis, or its first axes joined; sizes as the file knows them."""
    if not x.dims or x.dims[0] != N or len(x.dims) < 2:
        return None
    flat: Dims = (N, elements(x.dims))
    forms: list[Dims] = [flat]
    if len(x.dims) > 2:
        forms.append((N, elements(x.dims[:3]), *x.dims[3:]))
    elif flat[1] in (4, 6, 8, 9, 12):
        low = 3 if flat[1] == 9 else 2
        forms.append((N, low, elements(flat) // low))
    dims = d.pick(forms)
    if not d.fixed and d.chance(0.3):
        return d.add("Reshape", [x, d.integers([0, *d.sizes(dims)[1:]])], dims, x.size)
    return d.add("Reshape", [x, d.integers(d.sizes(dims))], dims, x.size)


def floored(d: Draft, x: Value, *, whole: bool) -> Value | None:
    """Numbers no less than an extreme less something, or no more: the extreme of each sample, or of all."""
    axes = list(range(len(x.dims))) if whole else x.free
    if not axes or not x.free:
        return None
    gap = round(float(np.exp(d.rng.uniform(np.log(6), np.log(90)))), 1)
    high = d.chance(0.7)
    if whole and d.chance(0.3):  # the largest of all on one axis
        flat = d.add("Reshape", [x, d.integers([-1])], (1,), x.size)
        edge = Value(d.names.new("t"), (1,), x.size)
        d.node("TopK", [flat.name, d.integers([1])], [edge.name, d.names.new("i")], axis=0, largest=int(high))
        d.values.remove(flat)
        d.made.remove(flat)
    else:
        keep = d.chance(0.5) or not whole
        edge = reduced(d, "ReduceMax" if high else "ReduceMin", x, axes, keep)
        d.values.remove(edge)
        d.made.remove(edge)
    limit = d.add("Sub" if high else "Add", [edge, d.constant(gap)], edge.dims, x.size)
    kind = d.pick(["Max", "Where", "Clip"])
    if kind == "Clip" and not limit.dims:
        return d.add(kind, [x, limit.name] if high else [x, "", limit.name], x.dims, x.size)
    if kind == "Where":
        d.node("Less" if high else "Greater", [x.name, limit.name], [beyond := d.names.new("b")])
        return d.add(kind, [beyond, limit, x], x.dims, x.size)
    return d.add("Max" if high else "Min", [x, limit], x.dims, x.size)


PLAIN: tuple[tuple[Step, float], ...] = (
    (unary, 3),
    (binary, 5),
    (with_constant, 1),
    (matmul, 2),
    (scores, 1),
    (reduction, 2),
    (softmax, 1),
    (normalisation, 1),
    (along, 2),
    (movement, 2),
)


def step(d: Draft, x: Value, steps: Sequence[tuple[Step, float]] = PLAIN) -> Value:
    """A random step that fits."""
    odds = np.array([weight for _, weight in steps])
    for _ in range(8):
        chosen = steps[int(d.rng.choice(len(steps), p=odds / odds.sum()))][0]
        found = chosen(d, x)
        if found is not None:
            return found
    return unary(d, x)
