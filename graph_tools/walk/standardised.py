"""Layers that divide by a deviation in several nodes: LayerNorm and RMSNorm, whose factor and bias follow or are in it.

The gradient reads what the forward pass made: the quotient, and the deviation or its inverse.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half
from onnx_attribution.graph_tools.operators.normalisation import standardised_back
from onnx_attribution.graph_tools.operators.transpose import known_inside
from onnx_attribution.graph_tools.walk.forms import (
    Asked,
    alike,
    beside_number,
    inverted,
    made_by,
    mean_of,
    square_of,
)

Found = tuple[Value, Callable[[Emitter, Value], Value]]


def standardised(node: gs.Node, asked: Asked) -> Found | None:
    """(x - mean x) / deviation, or x / root of its mean square."""
    pairs = [tuple(node.inputs)] if node.op == "Div" else [tuple(node.inputs), tuple(node.inputs[::-1])]
    for c, divisor in pairs:
        root = divisor if node.op == "Div" else inverted(divisor, asked)
        found = root and _deviation(root, asked)
        if not found or not alike(found[0], c):
            continue
        axes, hat = found[1], node.outputs[0]
        x = _centred(c, axes, asked)
        back = partial(_back, hat=hat, operator=node.op, divisor=divisor, axes=axes, centred=x is not None)
        return c if x is None else x, back
    return None


def _back(
    op: Emitter, g: Value, hat: Value, operator: str, divisor: Value, axes: tuple[int, ...], centred: bool
) -> Value:
    made = standardised_back(op, g, _wide(op, hat), axes, centred)
    return op(operator, made, _wide(op, divisor))


def folded(node: gs.Node, asked: Asked) -> Found | None:
    """x k + (bias - k mean x), where k is a constant factor over the deviation."""
    for scaled, rest in (node.inputs, node.inputs[::-1]):
        outer, offset = made_by(scaled, "Mul", asked), made_by(rest, "Sub", asked)
        inner = offset and made_by(offset.inputs[1], "Mul", asked)
        if not outer or not offset or not inner or known_inside(offset.inputs[0]) is None:
            continue
        for x, k in (outer.inputs, outer.inputs[::-1]):
            others = [v for v in inner.inputs if v is not k]
            mean = mean_of(others[0], asked) if len(others) == 1 else None
            found = mean and mean[0] is x and _factor(k, asked)
            if not mean or not found:
                continue
            inverse, factor, c, axes = found
            if axes == mean[1] and _centred(c, axes, asked) is x:
                return x, partial(_folded_back, inverse=inverse, factor=factor, c=c, axes=axes)
    return None


def _folded_back(
    op: Emitter, g: Value, inverse: Value, factor: Value, c: Value, axes: tuple[int, ...]
) -> Value:
    inverse, factor, c = (_wide(op, v) for v in (inverse, factor, c))
    made = standardised_back(op, op("Mul", g, factor), op("Mul", c, inverse), axes, True)
    return op("Mul", made, inverse)


def _factor(k: Value, asked: Asked) -> tuple[Value, Value, Value, tuple[int, ...]] | None:
    """Where k is a constant over a deviation: the inverse deviation, the constant, and what it is the deviation of."""
    maker = made_by(k, "Mul", asked)
    for inverse, factor in (maker.inputs, maker.inputs[::-1]) if maker else ():
        root = inverted(inverse, asked)
        found = root and known_inside(factor) is not None and _deviation(root, asked)
        if found:
            return inverse, factor, *found
    return None


def _deviation(root: Value, asked: Asked) -> tuple[Value, tuple[int, ...]] | None:
    """c and axes where a tensor is sqrt(mean of c^2 + a number above 0)."""
    maker = made_by(root, "Sqrt", asked)
    total = maker and beside_number(maker.inputs[0], "Add", asked)
    mean = mean_of(total[0], asked) if total and total[1] > 0 else None
    c = mean and square_of(mean[0], asked)
    return (c, mean[1]) if mean and c else None


def _centred(c: Value, axes: tuple[int, ...], asked: Asked) -> Value | None:
    """x where c is x less its mean."""
    maker = made_by(c, "Sub", asked)
    mean = maker and mean_of(maker.inputs[1], asked)
    return mean[0] if maker and mean and mean[0] is maker.inputs[0] and mean[1] == axes else None


def _wide(op: Emitter, value: Value) -> Value:
    return op.cast(value, np.float32) if is_half(value) else value
