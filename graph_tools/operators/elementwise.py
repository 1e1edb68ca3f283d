"""Elementwise operators. `x, y` operands, `z` output, `g` its gradient; at kinks the convention is PyTorch's."""

from __future__ import annotations

import math

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type
from onnx_attribution.graph_tools.operators.ends import (
    exp_slope,
    log_slope,
    mean,
    quotient,
    ratio,
    shaped,
    share_of_way,
    sigmoid_slope,
    tanh_between,
    times,
)
from onnx_attribution.graph_tools.operators.gates import above, below, both_away, fits, leaky
from onnx_attribution.graph_tools.operators.logistic import (
    gauss,
    gelu_tanh_slope,
    logistic,
    logistic_slope,
    normal_slope,
    sigmoid_gate_slope,
    tanh_slope,
)
from onnx_attribution.graph_tools.operators.registry import VJP, Gradients, NodeView, secant, unary, vjp
from onnx_attribution.graph_tools.operators.squares import is_sum_of_squares
from onnx_attribution.graph_tools.operators.transpose import known, number_of

# --- one input, no attributes: (op, g, x, z) -> gradient of x

unary("Abs", lambda op, g, x, z: op("Mul", g, op("Sign", x)), kinds={"activation", "piecewise_linear"})
unary("Neg", lambda op, g, x, z: op("Neg", g), kinds={"swaps"})
unary("Exp", lambda op, g, x, z: op("Mul", g, z))
unary("Log", lambda op, g, x, z: op("Div", g, x))
unary("Sqrt", lambda op, g, x, z: op("Div", g, _never_zero(op, x, z, op("Mul", op.like(z, 2), z))))
unary("Reciprocal", lambda op, g, x, z: op("Neg", op("Mul", g, op("Mul", z, z))))
unary("Sin", lambda op, g, x, z: op("Mul", g, op("Cos", x)))
unary("Cos", lambda op, g, x, z: op("Neg", op("Mul", g, op("Sin", x))))
unary("Tan", lambda op, g, x, z: op("Mul", g, _one_plus(op, op("Mul", z, z))))
unary("Asin", lambda op, g, x, z: op("Div", g, op("Sqrt", _one_minus_square(op, x))))
unary("Acos", lambda op, g, x, z: op("Neg", op("Div", g, op("Sqrt", _one_minus_square(op, x)))))
unary("Atan", lambda op, g, x, z: op("Div", g, _one_plus(op, op("Mul", x, x))), kinds={"activation"})
unary("Sinh", lambda op, g, x, z: op("Mul", g, op("Cosh", x)))
unary("Cosh", lambda op, g, x, z: op("Mul", g, op("Sinh", x)))
unary("Tanh", lambda op, g, x, z: op("Mul", g, tanh_slope(op, x)), kinds={"activation"})
unary("Asinh", lambda op, g, x, z: op("Div", g, op("Sqrt", _one_plus(op, op("Mul", x, x)))))
unary("Acosh", lambda op, g, x, z: op("Div", g, op("Sqrt", op("Neg", _one_minus_square(op, x)))))
unary("Atanh", lambda op, g, x, z: op("Div", g, _one_minus_square(op, x)))
unary("Sigmoid", lambda op, g, x, z: op("Mul", g, logistic_slope(op, x)), kinds={"activation"})
unary("Softplus", lambda op, g, x, z: op("Mul", g, logistic(op, x)), kinds={"activation"})
unary(
    "Softsign",
    lambda op, g, x, z: op("Div", g, _square(op, _one_plus(op, op("Abs", x)))),
    kinds={"activation"},
)
unary("Erf", lambda op, g, x, z: op("Mul", g, _erf_slope(op, x)), kinds={"activation"})
unary("HardSwish", lambda op, g, x, z: op("Mul", g, hard_swish_slope(op, x)), kinds={"activation"})
unary("Mish", lambda op, g, x, z: op("Mul", g, _mish_slope(op, x)), kinds={"activation"})


def _never_zero(op: Emitter, x: Value, z: Value, slope: Value) -> Value:
    """The divisor of a root's gradient, infinite where the root of a sum of squares is 0.

    A length has a kink at 0, of which the middle is taken, as at all others; 0 times infinity would be NaN.
    """
    if not is_sum_of_squares(x):
        return slope
    return op("Where", op("Equal", z, op.like(z, 0)), op.like(z, math.inf), slope)


def _one_plus(op: Emitter, value: Value) -> Value:
    return op("Add", op.like(value, 1), value)


def _one_minus_square(op: Emitter, value: Value) -> Value:
    """(1 - x) (1 + x), where x is close to 1 too."""
    return op("Mul", op("Sub", op.like(value, 1), value), _one_plus(op, value))


def _square(op: Emitter, value: Value) -> Value:
    return op("Mul", value, value)


def _where_positive(op: Emitter, x: Value, positive: Value, otherwise: Value) -> Value:
    return op("Where", op("Greater", x, op.like(x, 0)), positive, otherwise)


def _erf_slope(op: Emitter, x: Value) -> Value:
    return op("Mul", op.like(x, 2 / math.sqrt(math.pi)), gauss(op, x, 1.0))


def hard_swish_slope(op: Emitter, x: Value) -> Value:
    """0 up to -3, 1 from 3 on, x / 3 + 1/2 between: x / 6 is added there to what the function multiplies x by."""
    inside = below(op, op("Abs", x), 3) if element_type(x) == np.float32 else None
    if inside is not None:
        gate = op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
        gate.shape = x.shape
        return op("Add", gate, op("Mul", op("Mul", x, op.like(x, 1 / 6)), inside))
    middle = op("Add", op("Mul", x, op.like(x, 1 / 3)), op.like(x, 0.5))
    above_3 = op("Where", op("GreaterOrEqual", x, op.like(x, 3)), op.like(x, 1), middle)
    return op("Where", op("Greater", x, op.like(x, -3)), above_3, op.like(x, 0))


def _mish_slope(op: Emitter, x: Value) -> Value:
    soft = op("Softplus", x)
    return op("Add", op("Tanh", soft), op("Mul", op("Mul", x, logistic(op, x)), tanh_slope(op, soft)))


@vjp("Relu", elementwise=True, kinds={"activation", "piecewise_linear"})
def relu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    """From the output, so that the runtime may fuse the node with what makes its input."""
    factor = above(op, node.z, 0) if fits(node, node.z) else None
    return (_where_positive(op, node.z, g, op.like(g, 0)) if factor is None else op("Mul", g, factor),)


@secant("Relu")
def relu_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """What of the way from the smaller to the larger of x and x' lies above 0; where they are equal, the gradient.

    Of images the same from sums: max(x, 0) + max(x', 0) of |x| + |x'|, all or nothing where both have one sign.
    """
    x, y = node.input(0), reference.input(0)
    if fits(node, x) and not reference.given:
        above_0 = shaped(op("Add", node.z, reference.z), x)
        if (away := both_away(op, x, y, above_0)) is not None:
            return (op("Div", shaped(op("Mul", g, above_0), x), away),)
    return (op("Mul", g, share_of_way(op, op("Max", x, y), op("Abs", op("Sub", x, y)))),)


@secant("Tanh")
def tanh_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, tanh_between(op, node.input(0), reference.input(0))),)


@secant("Sigmoid")
def sigmoid_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, sigmoid_slope(op, node.input(0), reference.input(0))),)


@secant("Exp")
def exp_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """The logarithmic mean of the two values."""
    return (op("Mul", g, exp_slope(op, node.input(0), reference.input(0))),)


@secant("Log")
def log_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (times(op, g, log_slope(op, node.input(0), reference.input(0), node.z, reference.z)),)


@secant("Sqrt")
def sqrt_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """1 / (sqrt x + sqrt y); 0 where both are 0."""
    total = op("Add", node.z, reference.z)
    flat = op("Equal", total, op.like(total, 0))
    return (quotient(op, g, total, flat, op.like(g, 0)),)


@secant("Reciprocal")
def reciprocal_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    return (op("Neg", times(op, g, op("Mul", node.z, reference.z))),)


# --- one input with attributes


@vjp("LeakyRelu", elementwise=True, kinds={"activation", "piecewise_linear"})
def leaky_relu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    alpha = node.attribute("alpha", 0.01)
    factor = leaky(op, node.z, alpha) if fits(node, node.z) else None
    if factor is not None:
        return (op("Mul", g, factor),)
    slope = op("Mul", g, op.like(g, alpha))
    return (_where_positive(op, node.z if alpha > 0 else node.input(0), g, slope),)


@vjp("Elu", elementwise=True, kinds={"activation"})
def elu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (_where_positive(op, node.input(0), g, _grown(op, node, g, node.attribute("alpha", 1.0))),)


def _grown(op: Emitter, node: NodeView, g: Value, alpha: float, rate: float = 1.0) -> Value:
    """g times alpha exp(x / rate) where x is below 0."""
    low = op("Min", node.input(0), op.like(g, 0))
    return op(
        "Mul",
        g,
        op("Mul", op("Exp", low if rate == 1 else op("Div", low, op.like(g, rate))), op.like(g, alpha)),
    )


@vjp("Selu", elementwise=True, kinds={"activation"})
def selu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    alpha, gamma = (
        node.attribute("alpha", 1.67326319217681884765625),
        node.attribute("gamma", 1.05070102214813232421875),
    )
    below = _grown(op, node, g, alpha * gamma)
    return (_where_positive(op, node.input(0), op("Mul", g, op.like(g, gamma)), below),)


@vjp("Celu", elementwise=True, kinds={"activation"})
def celu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (_where_positive(op, node.input(0), g, _grown(op, node, g, 1.0, node.attribute("alpha", 1.0))),)


@vjp("ThresholdedRelu", elementwise=True, kinds={"activation", "piecewise_linear"})
def thresholded_relu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    return (op("Where", op("Greater", x, op.like(x, node.attribute("alpha", 1.0))), g, op.like(g, 0)),)


@vjp("Shrink", elementwise=True, kinds={"activation"})
def shrink(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x = node.input(0)
    outside = op("Greater", op("Abs", x), op.like(x, node.attribute("lambd", 0.5)))
    return (op("Where", outside, g, op.like(g, 0)),)


@secant("ThresholdedRelu", "Shrink")
def sloped_jump(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """A jump between slopes: where x = x' its gradient."""
    d = op("Sub", node.input(0), reference.input(0))
    (local,) = VJP["", node.operator].vjp(op, node, op("Expand", op.like(d, 1), op.shape(node.z)))
    return (op("Mul", g, ratio(op, op("Sub", node.z, reference.z), d, local)),)


@vjp("HardSigmoid", elementwise=True, kinds={"activation"})
def hard_sigmoid(op: Emitter, node: NodeView, g: Value) -> Gradients:
    z, zero = node.z, op.like(g, 0)
    inside = op("And", op("Greater", z, op.like(z, 0)), op("Less", z, op.like(z, 1)))
    return (op("Where", inside, op("Mul", g, op.like(g, node.attribute("alpha", 0.2))), zero),)


@vjp("Swish", elementwise=True, kinds={"activation"})
def swish(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, sigmoid_gate_slope(op, node.input(0), node.attribute("alpha", 1.0))),)


@vjp("QuickGelu", elementwise=True, domain="com.microsoft", kinds={"activation"})
def quick_gelu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, sigmoid_gate_slope(op, node.input(0), node.attribute("alpha", 1.702))),)


@vjp("Gelu", elementwise=True, kinds={"activation"})
def gelu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    slope = gelu_tanh_slope if node.attribute("approximate", "none") == "tanh" else normal_slope
    return (op("Mul", g, slope(op, node.input(0))),)


@vjp("Gelu", elementwise=True, domain="com.microsoft", kinds={"activation"})
def gelu_contrib(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return (op("Mul", g, normal_slope(op, node.input(0))),)


# --- two and more inputs


@vjp("Add", elementwise=True, linear=[{0, 1}], kinds={"carries"})
def add(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return g, g


@vjp("Sub", elementwise=True, linear=[{0, 1}], kinds={"swaps"})
def sub(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return g, op("Neg", g)


@vjp("Mul", elementwise=True, linear=[{0}, {1}], bilinear=True, kinds={"scales"})
def mul(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return op("Mul", g, node.input(1)), op("Mul", g, node.input(0))


@vjp("Div", elementwise=True, linear=[{0}], kinds={"scales"})
def div(op: Emitter, node: NodeView, g: Value) -> Gradients:
    ratio = op("Div", g, node.input(1))
    return ratio, op("Neg", op("Mul", ratio, node.z))


@secant("Div")
def div_secant(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """x (1 / y): the product by its midpoint, 1 / y by its secant -1 / (y y')."""
    x, y = node.input(0), node.input(1)
    divisors = None if node.active[1] else known(y)
    if divisors is not None and np.all(divisors != 0):
        return op("Div", g, y), None
    x0, y0 = reference.input(0), reference.input(1)
    inverse = op("Mul", op("Add", op("Reciprocal", y), op("Reciprocal", y0)), op.like(y, 0.5))
    slope = op("Neg", op("Div", mean(op, x, x0), op("Mul", y, y0)))
    return times(op, g, inverse), times(op, g, slope)


@secant("Div", to="of_integers")
def div_of_integers(op: Emitter, node: NodeView, reference: NodeView, g: Value) -> Gradients:
    """What division leaves out is a step of the quotient."""
    made, there = (op("Div", view.input(0), view.input(1)) for view in (node, reference))
    d = op("Sub", made, there)
    step = quotient(op, op("Sub", node.z, reference.z), d, op("Equal", d, op.like(d, 0)), op.like(d, 0))
    return div_secant(op, node, reference, times(op, g, step))


@vjp("Pow", elementwise=True)
def pow_(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, exponent = node.input(0), node.input(1)
    y = op.cast(exponent, x.dtype)
    one, zero = op.like(x, 1), op.like(x, 0)
    if (constant := number_of(exponent)) is not None:
        if constant == 2.0:
            return op("Mul", g, op("Mul", op.like(x, 2), x)), None
        power = x if constant == 1.0 else op("Pow", x, op.like(x, constant - 1))
        if 0 < constant < 1 and is_sum_of_squares(x):  # a length, as with Sqrt
            power = op("Where", op("Equal", x, zero), zero, power)
        return op("Mul", g, op("Mul", op.like(x, constant), power)) if constant != 0 else op.zeros_like(
            node.z
        ), None
    flat = op("Equal", y, zero)
    power = op("Pow", op("Where", flat, one, x), op("Sub", y, one))
    dx = op("Where", flat, zero, op("Mul", g, op("Mul", y, power)))
    positive = op("Greater", x, zero)
    log = op("Log", op("Where", positive, x, one))
    dy = op("Where", positive, op("Mul", g, op("Mul", node.z, log)), zero)
    return dx, dy


@vjp("PRelu", elementwise=True, linear=[{1}], kinds={"activation", "piecewise_linear"})
def prelu(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, slope = node.input(0), node.input(1)
    below = op("Mul", g, x)
    return _where_positive(op, x, g, op("Mul", g, slope)), _where_positive(op, x, op.like(g, 0), below)


@vjp("Mod", elementwise=True)
def mod(op: Emitter, node: NodeView, g: Value) -> Gradients:
    x, y = node.input(0), node.input(1)
    quotient = op("Div", x, y)
    whole = (
        op("Mul", op("Sign", quotient), op("Floor", op("Abs", quotient)))
        if node.attribute("fmod", 0)
        else op("Floor", quotient)
    )
    return g, op("Neg", op("Mul", g, whole))


@vjp("Sum", elementwise=True, linear=[range(1024)], kinds={"carries"})
def sum_(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return [g] * len(node.inputs)


@vjp("Mean", elementwise=True, linear=[range(1024)], kinds={"carries"})
def mean_(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return [op("Mul", g, op.like(g, 1 / len(node.inputs)))] * len(node.inputs)
