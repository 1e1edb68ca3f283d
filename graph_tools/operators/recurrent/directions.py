"""What recurrent operators share: their directions in time order, their activations, and the Scans there and back.

Sizes: T steps, B sequences, H units. Steps beyond a sequence's length hand on the state and the gradient unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.control_flow_emit import dims, scan
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.ir.subgraphs import Values
from onnx_attribution.graph_tools.operators.logistic import logistic_divisor
from onnx_attribution.graph_tools.operators.registry import VJP, NodeView
from onnx_attribution.graph_tools.operators.transpose import declare

X, W, R, B, LENGTHS, INITIAL_H, INITIAL_C, P = range(8)
"""The inputs of LSTM; GRU and RNN have the first six."""

FUNCTIONS: dict[str, tuple[str, dict[str, float]]] = {
    "affine": ("", {"alpha": 1.0, "beta": 0.0}),
    "elu": ("Elu", {"alpha": 1.0}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "leakyrelu": ("LeakyRelu", {"alpha": 0.01}),
    "relu": ("Relu", {}),
    "scaledtanh": ("Tanh", {"alpha": 1.0, "beta": 1.0}),
    "sigmoid": ("Sigmoid", {}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "tanh": ("Tanh", {}),
    "thresholdedrelu": ("ThresholdedRelu", {"alpha": 1.0}),
}
"""The activations that the standard allows, by their names in small letters, with defaults."""


@dataclass(frozen=True)
class Function:
    """An activation of a gate, after the clip of its argument."""

    name: str
    numbers: dict[str, float]
    clip: float | None

    def value(self, op: Emitter, a: Value) -> Value:
        held, alpha, beta = self._held(op, a), *self._numbers()
        if self.name == "affine":
            y: Value = op("Add", op("Mul", held, op.like(a, alpha)), op.like(a, beta))
        elif self.name == "scaledtanh":
            y = op("Mul", op("Tanh", op("Mul", held, op.like(a, beta))), op.like(a, alpha))
        else:
            y = op(FUNCTIONS[self.name][0], held, **self.numbers)
        return declare(y, dims(a))

    def pulled(self, op: Emitter, a: Value, y: Value, g: Value) -> Value:
        """`g` times the derivative at `a`, where the value is `y`."""
        alpha, beta = self._numbers()
        if self.name == "affine":
            made: Value = op("Mul", g, op.like(g, alpha))
        elif self.name in ("sigmoid", "tanh", "scaledtanh"):
            hyperbolic = (2.0, 4.0) if self.name == "tanh" else (2 * beta, 4 * alpha * beta)
            rate, size = (1.0, 1.0) if self.name == "sigmoid" else hyperbolic
            made = op("Div", g, logistic_divisor(op, a, rate))
            made = made if size == 1 else op("Mul", made, op.like(a, size))
        else:
            name = FUNCTIONS[self.name][0]
            view = NodeView(name, name, (self._held(op, a),), (y,), self.numbers, (True,), op.graph.opset)
            (found,) = VJP["", name].vjp(op, view, g)
            assert found is not None
            made = found
        if self.clip is not None:
            inside = op("LessOrEqual", op("Abs", a), op.like(a, self.clip))
            made = op("Where", inside, made, op.like(a, 0))
        return declare(made, dims(a))

    def _held(self, op: Emitter, a: Value) -> Value:
        """The argument after the clip."""
        return a if self.clip is None else op("Clip", a, op.like(a, -self.clip), op.like(a, self.clip))

    def _numbers(self) -> tuple[float, float]:
        return self.numbers.get("alpha", 1.0), self.numbers.get("beta", 0.0)


@dataclass(frozen=True)
class Side:
    """One direction of the operator, in time order: what it reads, and what arrives at it."""

    reverse: int
    size: int
    x: Value  # [T, B, I]
    w: Value  # [gates * H, I]
    r: Value  # [gates * H, H]
    bias: Sequence[Value] | None  # of x and of the hidden state, [gates * H]
    hidden: Value | None  # the initial hidden state, [B, H]
    cell: Value | None  # the initial cell, [B, H]
    peephole: Value | None  # [3 * H]
    steps: Value | None  # whether a step is within its sequence, [T, B, 1]
    functions: Sequence[Function]
    g: Value | None  # of Y, [T, B, H]
    g_h: Value | None  # of Y_h, [B, H]
    g_c: Value | None  # of Y_c, [B, H]
    epsilon: float | None = None  # of relevance, which passes no gate; None: it is a gradient that arrives

    def split(self, op: Emitter, value: Value, parts: int) -> Values:
        """The parts of H units, along the last axis."""
        return self.parts(op, value, [1] * parts)

    def parts(self, op: Emitter, value: Value, gates: Sequence[int]) -> Values:
        """The parts of so many gates each, along the last axis."""
        sizes = [n * self.size for n in gates]
        made = op.multi("Split", len(sizes), value, op.ints(sizes), axis=-1)
        return [declare(x, [*dims(value)[:-1], size]) for x, size in zip(made, sizes, strict=True)]

    def gates(self, op: Emitter, with_states: int) -> Value:
        """What x and the biases add to the gates, [T, B, gates * H]; those of hidden states to the first gates."""
        wide = dims(self.w)[0]
        flat = op("Reshape", self.x, op("Concat", op.ints([-1]), op.dims(self.x, 2), axis=0))
        made = op("Gemm", flat, self.w, self._bias(op, with_states), transB=1)
        shape = op("Concat", op.dims(self.x, 0, 2), op.ints([-1]), axis=0)
        return declare(op("Reshape", made, shape), [*dims(self.x)[:2], wide])

    def _bias(self, op: Emitter, with_states: int) -> Value | None:
        if self.bias is None:
            return None
        parts: Values = [op("Add", *(self.rows(op, bias, 0, with_states) for bias in self.bias))]
        if dims(self.bias[0]) != [with_states * self.size]:
            parts.append(self.rows(op, self.bias[0], with_states, None))
        return op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def rows(self, op: Emitter, weights: Value, first: int, last: int | None) -> Value:
        """What belongs to some gates of weights or biases [gates * H, ...]; `last` None: to all that follow."""
        whole, *rest = dims(weights)
        stop = whole if last is None else last * self.size
        assert isinstance(stop, int)
        if first == 0 and stop == whole:
            return weights
        made = op("Slice", weights, op.ints([first * self.size]), op.ints([stop]), op.ints([0]))
        return declare(made, [stop - first * self.size, *rest])

    def turned(self, op: Emitter, weights: Value) -> Value:
        """Transposed weights."""
        return declare(op("Transpose", weights, perm=[1, 0]), dims(weights)[::-1])

    def shifted(self, op: Emitter, states: Value, begin: Value | None) -> Value:
        """The states that the steps began with, where `states` are those that they ended with, [T, B, H]."""
        first = op("Unsqueeze", start(op, self, begin), op.ints([0]))
        ends = ([1], [2**62]) if self.reverse else ([0], [-1])
        others = op("Slice", states, op.ints(ends[0]), op.ints(ends[1]), op.ints([0]))
        parts = [others, first] if self.reverse else [first, others]
        return declare(op("Concat", *parts, axis=0), dims(states))

    def where(self, op: Emitter, value: Value, otherwise: float) -> Value:
        """`value` at the steps that count."""
        if self.steps is None:
            return value
        return declare(op("Where", self.steps, value, op.like(value, otherwise)), dims(value))

    def there(
        self, op: Emitter, step: Forward, states: Sequence[Value | None], inputs: Values
    ) -> tuple[Values, Values]:
        """Runs `step(op, states, inputs)` from the first step to the last.

        It returns the next states and what else it makes. The results are the final states, and the states after each
        step with all else, [T, B, ...].
        """
        begin = [start(op, self, value) for value in states]
        masks = [self.steps] if self.steps is not None else []

        def body(inner: Emitter, carried: Values, slices: Values) -> tuple[Values, Values]:
            after, made = step(inner, carried, slices[: len(inputs)])
            if masks:
                after = [
                    inner("Where", slices[-1], new, old) for new, old in zip(after, carried, strict=True)
                ]
            after = [declare(new, dims(old)) for new, old in zip(after, carried, strict=True)]
            return after, [*after, *made]

        given = [*inputs, *masks]
        turned = [self.reverse] * len(given)
        return scan(op, body, begin, given, reverse=turned, reverse_made=self.reverse)

    def back(self, op: Emitter, step: Step, states: Values, factors: Values) -> tuple[Values, Values]:
        """Runs `step(op, dh, states, factors)` from the last step to the first; dh includes what arrives at Y.

        It returns what the hidden state of the step before gets, the next of the other states, and its outputs.
        """
        extra = [self.where(op, self.g, 0)] if self.g is not None else []
        extra += [self.steps] if self.steps is not None else []

        def body(inner: Emitter, carried: Values, slices: Values) -> tuple[Values, Values]:
            dh, shape = carried[0], dims(carried[0])
            if self.g is not None:
                dh = declare(inner("Add", dh, slices[len(factors)]), shape)
            back, others, made = step(inner, dh, carried[1:], slices[: len(factors)])
            if self.steps is not None:
                back = inner("Where", slices[-1], back, dh)
            return [back, *others], made

        inputs = [*factors, *extra]
        turned = 1 - self.reverse
        return scan(op, body, states, inputs, reverse=[turned] * len(inputs), reverse_made=turned)


def together(op: Emitter, sides: Sequence[Side]) -> Side:
    """Directions of equal weights as one whose sequences are those of each, one after another."""
    if len(sides) == 1:
        return sides[0]

    def stacked(values: Sequence[Value | None], axis: int) -> Value | None:
        given = [v for v in values if v is not None]
        if not given:
            return None
        return declare(
            op("Concat", *given, axis=axis), [None if a == axis else d for a, d in enumerate(dims(given[0]))]
        )

    x = stacked([s.x for s in sides], 1)
    assert x is not None
    return replace(
        sides[0],
        x=x,
        hidden=stacked([s.hidden for s in sides], 0),
        cell=stacked([s.cell for s in sides], 0),
        steps=stacked([s.steps for s in sides], 1),
    )


def apart(op: Emitter, sides: Sequence[Side], value: Value) -> Values:
    """What a direction of `together` made, for each of the sides."""
    count, axis = len(sides), len(dims(value)) - 2
    if count == 1:
        return [value]
    number = {"num_outputs": count} if op.graph.opset >= 18 else {}
    parts = op.multi("Split", count, value, axis=axis, **number)
    return [
        declare(v, [*dims(s.x)[1 - axis : 2], dims(value)[-1]]) for v, s in zip(parts, sides, strict=True)
    ]


Step = Callable[[Emitter, Value, Values, Values], tuple[Value, Values, Values]]
Forward = Callable[[Emitter, Values, Values], tuple[Values, Values]]


def sides_of(
    op: Emitter, node: NodeView, gradients: Sequence[Value | None], gates: int, functions: Sequence[str]
) -> list[Side]:
    """The directions of the operator, each in time order."""
    x, size = node.input(X), node.attribute("hidden_size") or dims(node.input(R))[2]
    if not isinstance(size, int):
        raise NotDifferentiable(
            f"the number of units of {node.operator} (node {node.name!r}) is unknown",
            reason=Reason.UNKNOWN_RANK, node=node.name, operator=node.operator, tensor=node.input(R).name,
        )  # fmt: skip
    kind = node.attribute("direction", "forward")
    count = 2 if kind == "bidirectional" else 1
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    h, c = inputs[INITIAL_H], inputs[INITIAL_C]
    g, g_h, g_c = [*gradients, None, None][:3]
    if node.attribute("layout", 0):
        x = _turned(op, x, [1, 0, 2])
        h, c, g_h, g_c = (v and _turned(op, v, [1, 0, 2]) for v in (h, c, g_h, g_c))
        g = g and _turned(op, g, [1, 2, 0, 3])
    within = _within(op, x, inputs[LENGTHS])

    def part(value: Any, axis: int, index: int) -> Any:
        """One direction of a value; None stays None."""
        if value is None:
            return None
        left = dims(value)
        del left[axis]
        if count == 1:
            return declare(op("Squeeze", value, op.ints([axis])), left)
        return declare(op("Gather", value, op.constant(np.int64(index)), axis=axis), left)

    chosen = _functions(node, functions, count)
    sides = []
    for d in range(count):
        reverse = int(d == 1 or kind == "reverse")
        bias = part(inputs[B], 0, d)
        biases = bias and [
            declare(v, [gates * size])
            for v in op.multi("Split", 2, bias, op.ints([gates * size] * 2), axis=0)
        ]
        w, r = part(node.input(W), 0, d), part(node.input(R), 0, d)
        w = declare(w, [gates * size, *dims(w)[1:]])
        r = declare(r, [gates * size, size])
        sides.append(
            Side(
                reverse, size, x, w, r,
                biases,
                part(h, 0, d), part(c, 0, d), part(inputs[P], 0, d), within,
                chosen[d * len(functions) : (d + 1) * len(functions)],
                part(g, 1, d), part(g_h, 0, d), part(g_c, 0, d),
            )
        )  # fmt: skip
    return sides


def _within(op: Emitter, x: Value, lengths: Value | None) -> Value | None:
    """Which steps are within their sequence, [T, B, 1]; None: all."""
    if lengths is None:
        return None
    end = op("Reshape", op.dims(x, 0, 1), op.ints([]))
    numbers = op("Range", op.constant(np.int64(0)), end, op.constant(np.int64(1)))
    steps = declare(op("Reshape", numbers, op.ints([-1, 1, 1])), [dims(x)[0], 1, 1])
    ends = declare(op("Reshape", op.cast(lengths, np.int64), op.ints([1, -1, 1])), [1, dims(x)[1], 1])
    return declare(op("Less", steps, ends), [*dims(x)[:2], 1])


def _functions(node: NodeView, defaults: Sequence[str], count: int) -> list[Function]:
    """The activations of all directions; each takes the next alpha and beta if it has any."""
    clip = node.attribute("clip")
    numbers = {k: list(node.attribute(f"activation_{k}") or []) for k in ("alpha", "beta")}
    found = []
    for name in node.attribute("activations") or list(defaults) * count:
        if name.lower() not in FUNCTIONS:
            raise NotDifferentiable(
                f"no gradient rule for the activation {name} of {node.operator} (node {node.name!r})",
                reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=node.input(X).name,
            )  # fmt: skip
        own = {k: numbers[k].pop(0) if numbers[k] else v for k, v in FUNCTIONS[name.lower()][1].items()}
        found.append(Function(name.lower(), own, clip or None))
    return found


def start(op: Emitter, s: Side, value: Value | None) -> Value:
    """A state [B, H]: the given one, or zeros."""
    if value is not None:
        return value
    zero = gs.Constant("zero", np.zeros(1, dtype=s.x.dtype))
    made = op("ConstantOfShape", op("Concat", op.dims(s.x, 1, 2), op.ints([s.size]), axis=0), value=zero)
    return declare(made, [dims(s.x)[1], s.size])


def add(op: Emitter, x: Value, y: Value) -> Value:
    """x + y in the shape of x."""
    return declare(op("Add", x, y), dims(x))


def mul(op: Emitter, x: Value, y: Value) -> Value:
    """x * y in the shape of x."""
    return declare(op("Mul", x, y), dims(x))


def joined(op: Emitter, values: Values, axis: int = -1) -> Value:
    """Values of equal shape side by side."""
    if len(values) == 1:
        return values[0]
    shape = dims(values[0])
    sizes = [d for d in (dims(v)[axis] for v in values) if isinstance(d, int)]
    shape[axis] = sum(sizes) if len(sizes) == len(values) else None
    return declare(op("Concat", *values, axis=axis % len(shape)), shape)


def _turned(op: Emitter, value: Value, perm: Sequence[int]) -> Value:
    return declare(op("Transpose", value, perm=list(perm)), [dims(value)[a] for a in perm])
