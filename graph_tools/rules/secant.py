"""DeepLIFT's multipliers with the Rescale rule: the gradient rules with slopes between x and x'.

Linear operators keep their gradient; products take it at the midpoint, which is their two-factor Shapley value;
elementwise functions take the secant; max pooling gives each window's change to the places of its two maxima.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_attribution.errors import NotDifferentiable
from onnx_attribution.graph_tools.emit import Emitter, Value
from onnx_attribution.graph_tools.rules.pooling import pool_indices, unpool
from onnx_attribution.graph_tools.rules.registry import Gradients, NodeView, Rule

SecantRule = Callable[[Emitter, NodeView, NodeView, Value], Gradients]
SECANT: dict[str, SecantRule] = {}
"""Rules `(op, node, reference, g)` for operators whose secant needs more than their gradient rule."""


def secant(*operators: str) -> Callable[[SecantRule], SecantRule]:
    """Registers a secant rule."""

    def register(function: SecantRule) -> SecantRule:
        SECANT.update(dict.fromkeys(operators, function))
        return function

    return register


def secant_of(
    references: Mapping[str, Value], moving: set[str], op: Emitter
) -> Callable[[NodeView, Rule], object]:
    """The choice of the secant: which rule a node follows between x and x'.

    `references` maps tensors to their values at x'; `moving` names those whose values depend on the source.
    """

    def choose(node: NodeView, rule: Rule) -> Callable[..., Gradients]:
        at_reference = replace(
            node,
            inputs=tuple(x and references.get(x.name, x) for x in node.inputs),
            outputs=tuple(z and references.get(z.name, z) for z in node.outputs),
        )
        active = [k for k, is_active in enumerate(node.active) if is_active]
        moved = [k for k, x in enumerate(node.inputs) if x is not None and x.name in moving]
        if node.operator in SECANT and node.domain == "":
            special = SECANT[node.operator]
            return lambda op, view, g, *_: special(op, view, at_reference, g)
        if moved == active and rule.is_linear_in(node, active):
            return rule.vjp
        if moved == active and rule.bilinear:
            return lambda op, view, *g: rule.vjp(op, _midpoint(op, node, at_reference), *g)
        if moved == active and rule.elementwise and len(active) == 1:
            return lambda op, view, g: _slope(op, node, at_reference, rule, active[0], g)
        if moved == active and rule.elementwise and len(active) == 2:
            return lambda op, view, g: _shared(op, node, at_reference, active, g)
        raise NotDifferentiable(
            f"DeepLIFT has no rule for {node.operator} (node {node.name!r}) with "
            f"{', '.join(repr(node.input(k).name) for k in moved)} depending on the source",
            node=node.name, operator=node.operator, tensor=node.z.name,
        )  # fmt: skip

    return choose


def _mean(op: Emitter, x: Value, y: Value) -> Value:
    return x if x is y else op("Mul", op("Add", x, y), op.like(x, 0.5))


def _midpoint(op: Emitter, node: NodeView, reference: NodeView) -> NodeView:
    """The node with each active input halfway between x and x'."""
    pairs = zip(node.inputs, reference.inputs, node.active, strict=True)
    return replace(
        node,
        inputs=tuple(_mean(op, x, y) if a and x is not None and y is not None else x for x, y, a in pairs),
    )


PIECEWISE_LINEAR = frozenset({"Abs", "Clip", "LeakyRelu", "Max", "Min", "PRelu", "ThresholdedRelu"})
"""Functions that round relative to their input, so that differences of small numbers are meant."""


def near(op: Emitter, x: Value, y: Value, d: Value, *, floor: float = 1) -> Value:
    """Where the difference d = x - y is rounding noise: below 8 units in the last place of x, y or `floor`."""
    scale = op("Max", op("Abs", x), op("Abs", y), op.like(x, floor))
    return op("LessOrEqual", op("Abs", d), op("Mul", scale, op.like(x, 8 * float(np.finfo(x.dtype).eps))))


def quotient(op: Emitter, change: Value, d: Value, close: Value, slope: Value) -> Value:
    """change / d, and `slope` where d is close to 0."""
    return op("Where", close, slope, op("Div", change, op("Where", close, op.like(d, 1), d)))


def _slope(op: Emitter, node: NodeView, reference: NodeView, rule: Rule, index: int, g: Value) -> Gradients:
    """The secant of an elementwise function of one moving input; near 0 the gradient at the midpoint."""
    x, y = node.input(index), reference.input(index)
    d = op("Sub", x, y)
    middle = _midpoint(op, node, reference)
    z = node.again(op, *middle.inputs)
    z.shape = node.z.shape
    one = op("Expand", op.like(g, 1), op.shape(node.z))
    one.shape = node.z.shape
    local = rule.vjp(op, replace(middle, outputs=(z,)), one)[index]
    assert local is not None
    close = near(op, x, y, d, floor=0 if node.operator in PIECEWISE_LINEAR else 1)
    slope = quotient(op, op("Sub", node.z, reference.z), d, close, local)
    return [op("Mul", g, slope) if k == index else None for k in range(len(node.inputs))]


def _shared(op: Emitter, node: NodeView, reference: NodeView, active: Sequence[int], g: Value) -> Gradients:
    """The two-factor Shapley value of an elementwise function of two moving inputs (Max, Min, Div, Pow...)."""
    first, second = active
    results: list[Value | None] = [None] * len(node.inputs)

    def at(*moved: int) -> Value:
        inputs = [
            x if k in moved or k not in active else reference.inputs[k] for k, x in enumerate(node.inputs)
        ]
        return node.again(op, *inputs)

    both, none, only_first, only_second = node.z, reference.z, at(first), at(second)
    for index, alone, other in ((first, only_first, only_second), (second, only_second, only_first)):
        x, y = node.input(index), reference.input(index)
        d = op("Sub", x, y)
        change = op("Add", op("Sub", alone, none), op("Sub", both, other))
        half = op("Mul", change, op.like(change, 0.5))
        # selections have no rounding of their own, so that any difference counts, however small
        close = op("Equal", d, op.like(d, 0)) if node.operator in ("Max", "Min") else near(op, x, y, d)
        results[index] = op("Mul", g, quotient(op, half, d, close, op.like(g, 0)))
    return results


@secant("Relu")
def relu(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """The ratio lies between 0 and 1, whatever rounding says, and is meant however small the difference is."""
    x, y = node.input(0), reference.input(0)
    d = op("Sub", x, y)
    close = op("Equal", d, op.like(d, 0))
    step = op("Where", op("Greater", op("Add", x, y), op.like(x, 0)), op.like(g, 1), op.like(g, 0))
    ratio = quotient(op, op("Sub", node.z, reference.z), d, close, step)
    return (op("Mul", g, op("Min", op("Max", ratio, op.like(g, 0)), op.like(g, 1))),)


@secant("Tanh")
def tanh(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """tanh a - tanh b = tanh(a - b) (1 - tanh a tanh b): no cancellation."""
    d = op("Sub", node.input(0), reference.input(0))
    return (op("Mul", g, op("Mul", _tanhc(op, d), _one_minus_product(op, node.z, reference.z))),)


@secant("Sigmoid")
def sigmoid(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """sigmoid x = (1 + tanh(x / 2)) / 2."""
    half = op.like(g, 0.5)
    x, y = op("Mul", node.input(0), half), op("Mul", reference.input(0), half)
    slope = op("Mul", _tanhc(op, op("Sub", x, y)), _one_minus_product(op, op("Tanh", x), op("Tanh", y)))
    return (op("Mul", g, op("Mul", slope, op.like(g, 0.25))),)


def _tanhc(op: Emitter, d: Value) -> Value:
    flat = op("Equal", d, op.like(d, 0))
    return quotient(op, op("Tanh", d), d, flat, op.like(d, 1))


def _one_minus_product(op: Emitter, x: Value, y: Value) -> Value:
    return op("Sub", op.like(x, 1), op("Mul", x, y))


@secant("Div")
def div(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """x (1 / y): the product by its midpoint, 1 / y by its secant -1 / (y y')."""
    x, y = node.input(0), node.input(1)
    x0, y0 = reference.input(0), reference.input(1)
    inverse = op("Mul", op("Add", op("Reciprocal", y), op("Reciprocal", y0)), op.like(y, 0.5))
    slope = op("Neg", op("Div", _mean(op, x, x0), op("Mul", y, y0)))
    return op("Mul", g, inverse), op("Mul", g, slope)


@secant("MaxPool")
def max_pool(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """With c the larger of the two maxima: c - z' goes to the place of the maximum of x, z - c to that of x'.

    Windows that overlap add up.
    """
    x, y, z, w = node.input(0), reference.input(0), node.z, reference.z
    c = op("Max", z, w)
    to_x = unpool(op, x, op("Mul", g, op("Sub", c, w)), pool_indices(op, node, x))
    to_y = unpool(op, x, op("Mul", g, op("Sub", z, c)), pool_indices(op, reference, y))
    d = op("Sub", x, y)
    return (quotient(op, op("Add", to_x, to_y), d, op("Equal", d, op.like(d, 0)), op.like(d, 0)),)
