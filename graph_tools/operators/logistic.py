"""The logistic function and its relatives, each to the relative precision of its type also where it saturates.

1 - z loses every digit where z is close to 1, and onnxruntime's Sigmoid and Erf are precise to 1e-7 of 1, not of what
they give; the exponential is precise everywhere.
"""

from __future__ import annotations

import math

from onnx_attribution.graph_tools.ir.emit import Emitter, Value

TAIL = -4.0
"""Below it the distribution function of the normal is that of its tail: 1 + erf has lost three digits there."""


def logistic(op: Emitter, x: Value) -> Value:
    """1 / (1 + exp(-x))."""
    return op("Reciprocal", op("Add", op("Exp", op("Neg", x)), op.like(x, 1)))


def logistic_divisor(op: Emitter, x: Value, rate: float = 1.0) -> Value:
    """1 over the derivative of the logistic function at rate x: e + 1 / e + 2 with e = exp(rate x).

    Far out it is infinite, on either side.
    """
    e = op("Exp", x if rate == 1 else op("Mul", x, op.like(x, rate)))
    return op("Add", op("Add", e, op("Reciprocal", e)), op.like(x, 2))


def logistic_slope(op: Emitter, x: Value, rate: float = 1.0) -> Value:
    """The derivative of the logistic function at rate x."""
    return op("Reciprocal", logistic_divisor(op, x, rate))


def tanh_slope(op: Emitter, x: Value) -> Value:
    """1 - tanh^2."""
    return op("Mul", logistic_slope(op, x, 2.0), op.like(x, 4))


def gauss(op: Emitter, x: Value, factor: float) -> Value:
    """exp(-factor x^2)."""
    return op("Exp", op("Mul", op.like(x, -factor), op("Mul", x, x)))


def normal_slope(op: Emitter, x: Value) -> Value:
    """Phi(x) + x phi(x), the derivative of the exact Gelu.

    Below `TAIL` Phi is phi times Mills' ratio, whose continued fraction is (x^2 + 5) / (x^4 + 6 x^2 + 3) of -x.
    """
    half = op("Add", op.like(x, 1), op("Erf", op("Mul", x, op.like(x, math.sqrt(0.5)))))
    square = op("Mul", x, x)
    density = op("Mul", op("Mul", x, op.like(x, 1 / math.sqrt(2 * math.pi))), gauss(op, x, 0.5))
    below = op("Add", op("Mul", op("Add", square, op.like(x, 6)), square), op.like(x, 3))
    tail = op("Neg", op("Mul", density, op("Div", op("Add", square, op.like(x, 5)), below)))
    phi = op("Where", op("Less", x, op.like(x, TAIL)), tail, op("Mul", half, op.like(x, 0.5)))
    return op("Add", phi, density)


def sigmoid_gate_slope(op: Emitter, x: Value, rate: float) -> Value:
    """The derivative of x s with s = sigmoid(rate x): s (1 + rate x (1 - s)).

    Where 1 - s loses its digits it is added to 1.
    """
    turned = x if rate == 1 else op("Mul", x, op.like(x, rate))
    return _gated(op, logistic(op, turned), turned)


def gelu_tanh_slope(op: Emitter, x: Value, k: float = math.sqrt(2 / math.pi), c: float = 0.044715) -> Value:
    """The derivative of x/2 (1 + tanh u) = x sigmoid(2u) with u = k (x + c x^3)."""
    curve = op("Mul", op("Mul", x, x), op.like(x, -2 * k * c))
    fallen = op("Exp", op("Mul", x, op("Add", curve, op.like(x, -2 * k))))
    steepness = op("Sub", op.like(x, 2 * k), op("Mul", curve, op.like(x, 3)))
    return _gated(op, op("Reciprocal", op("Add", fallen, op.like(x, 1))), op("Mul", x, steepness))


def _gated(op: Emitter, s: Value, x: Value) -> Value:
    """s (1 + x (1 - s))."""
    one = op.like(x, 1)
    return op("Mul", s, op("Add", op("Mul", x, op("Sub", one, s)), one))
