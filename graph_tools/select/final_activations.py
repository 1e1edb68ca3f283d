"""A softmax, a sigmoid or the logarithm of one as the maker of a value, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import shape_of
from onnx_attribution.graph_tools.select.patterns import (
    SAME,
    SPREADING,
    added_to_one,
    is_made_of,
    is_same,
    made_by,
    maker_of,
    negated,
    number_of,
    past,
    reduced_axis,
)

_SMALL = 1e-3
"""Up to which a number that is added to a sum of exponentials only keeps it from zero."""
WIDENING = frozenset({"Cast", "Expand", "Identity", "Tile"})


@dataclass(frozen=True)
class Final:
    """A softmax, a sigmoid or the logarithm of one, its argument, and the axis of the classes."""

    operator: str
    argument: gs.Tensor
    axis: int | None = None
    sign: int = 1


def final_activation(value: gs.Tensor) -> Final | None:
    """The activation that makes a value, whole or in parts."""
    node = maker_of(value)
    if node is None:
        return None
    if node.op in ("LogSoftmax", "QLinearSoftmax", "Softmax"):
        return Final(node.op.removeprefix("QLinear"), node.inputs[0], int(node.attrs.get("axis", -1)))
    if node.op in ("QLinearSigmoid", "Sigmoid"):
        return Final("Sigmoid", node.inputs[0])
    makers: dict[str, Callable[[gs.Node], Final | None]] = {
        "Add": _log_softmax,
        "Div": _quotient,
        "Exp": lambda node: _of(node, {"LogSoftmax": "Softmax", "LogSigmoid": "Sigmoid"}),
        "Log": lambda node: _of(node, {"Softmax": "LogSoftmax", "Sigmoid": "LogSigmoid"}),
        "LpNormalization": _normalised,
        "Mul": _product,
        "Neg": _log_sigmoid,
        "Pow": _quotient,
        "Reciprocal": _quotient,
        "Sub": _log_softmax,
    }
    return makers[node.op](node) if node.op in makers else None


def _of(node: gs.Node, operators: dict[str, str]) -> Final | None:
    """An activation behind a logarithm or an exponential."""
    inner = final_activation(past(node.inputs[0], SAME))
    return (
        Final(operators[inner.operator], inner.argument, inner.axis, inner.sign)
        if inner and inner.operator in operators
        else None
    )


def _quotient(node: gs.Node) -> Final | None:
    """exp(z) / sum exp(z), 1 / (1 + exp(-x)), exp(x) / (1 + exp(x))."""
    if node.op == "Div":
        above, below = past(node.inputs[0], SAME), node.inputs[1]
    elif node.op == "Reciprocal" or number_of(node.inputs[1]) == -1:
        above, below = gs.Constant("one", np.ones(1)), node.inputs[0]
    else:
        return None
    return _ratio(above, below)


def _ratio(above: gs.Tensor, below: gs.Tensor) -> Final | None:
    top = made_by(above, "Exp")
    added = added_to_one(below)
    if added is not None:
        power = made_by(added, "Exp")
        if power is None:
            return None
        if top is not None and is_same(above, added):
            return Final("Sigmoid", top.inputs[0])
        if number_of(above) != 1:
            return None
        argument = negated(power.inputs[0])
        if argument is None:  # 1 / (1 + exp(y)) is the sigmoid of -y
            return Final("Sigmoid", power.inputs[0], sign=-1)
        return Final("Sigmoid", argument)
    if top is None:
        return None
    total = past(_without_floor(below), SPREADING)
    maker = maker_of(total)
    if maker is None or maker.op not in ("ReduceL1", "ReduceSum") or not is_same(above, maker.inputs[0]):
        return None
    axis = reduced_axis(maker)
    return Final("Softmax", _unshifted(top.inputs[0], axis), axis)


def _product(node: gs.Node) -> Final | None:
    """A quotient by a reciprocal; (1 + tanh(x / 2)) / 2."""
    for one, other in (node.inputs[:2], node.inputs[1::-1]):
        inverse = made_by(past(one, SPREADING), "Reciprocal")
        if inverse is not None:
            return _ratio(past(other, SAME), inverse.inputs[0])
        added = added_to_one(other) if number_of(one) == 0.5 else None
        bent = None if added is None else made_by(added, "Tanh")
        half = None if bent is None else maker_of(past(bent.inputs[0], SAME))
        if half is not None and half.op == "Mul" and 0.5 in [number_of(x) for x in half.inputs]:
            return Final("Sigmoid", half.inputs[0] if number_of(half.inputs[1]) == 0.5 else half.inputs[1])
        if half is not None and half.op == "Div" and number_of(half.inputs[1]) == 2:
            return Final("Sigmoid", half.inputs[0])
    return None


def _normalised(node: gs.Node) -> Final | None:
    """exp(z) divided by the sum of its absolute values."""
    top = made_by(node.inputs[0], "Exp")
    if top is None or int(node.attrs.get("p", 2)) != 1:
        return None
    axis = int(node.attrs.get("axis", -1))
    return Final("Softmax", _unshifted(top.inputs[0], axis), axis)


def _log_sigmoid(node: gs.Node) -> Final | None:
    """-softplus(-x)."""
    inner = made_by(node.inputs[0], "Softplus")
    argument = None if inner is None else negated(inner.inputs[0])
    return None if argument is None else Final("LogSigmoid", argument)


def _log_softmax(node: gs.Node) -> Final | None:
    """z less the logarithm of the sum of its exponentials, with or without the maximum taken out first."""
    if node.op == "Add":
        minus = made_by(node.inputs[1], "Neg")
        if minus is None:
            return None
        score, log = node.inputs[0], minus.inputs[0]
    else:
        score, log = node.inputs[:2]
    score, maker, added = past(score, SAME), maker_of(past(log, SPREADING)), None
    if maker is not None and maker.op == "Add":  # the maximum is added again
        parts = [past(x, SPREADING) for x in maker.inputs]
        logs = [k for k, x in enumerate(parts) if _is_log_sum(maker_of(x))]
        if len(logs) != 1:
            return None
        maker, added = maker_of(parts[logs[0]]), parts[1 - logs[0]]
    if maker is None:
        return None
    if maker.op == "ReduceLogSumExp":
        inside, axis = maker.inputs[0], reduced_axis(maker)
    elif maker.op == "ReduceLogSum":
        inside, axis = _argument_of_exp(maker.inputs[0]), reduced_axis(maker)
    elif maker.op == "Log":
        total = maker_of(past(maker.inputs[0], SPREADING))
        if total is None or total.op not in ("ReduceL1", "ReduceSum"):
            return None
        inside, axis = _argument_of_exp(total.inputs[0]), reduced_axis(total)
    else:
        return None
    if inside is not None and added is not None:
        less = made_by(inside, "Sub")
        if less is None or not is_same(past(less.inputs[1], SPREADING), added):
            return None
        inside = less.inputs[0]
    if inside is None or not is_same(inside, score):
        return None
    return Final("LogSoftmax", _unshifted(score, axis), axis)


def _is_log_sum(node: gs.Node | None) -> bool:
    return node is not None and node.op in ("Log", "ReduceLogSum", "ReduceLogSumExp")


def _argument_of_exp(value: gs.Tensor) -> gs.Tensor | None:
    maker = made_by(value, "Exp")
    return None if maker is None else maker.inputs[0]


def _without_floor(value: gs.Tensor) -> gs.Tensor:
    """A sum, without the small number that is added or that it is at least."""
    node = maker_of(past(value, SPREADING))
    if node is not None and node.op in ("Add", "Clip", "Max"):
        for k, x in enumerate(node.inputs[:2]):
            small = number_of(x)
            if (
                small is not None
                and 0 <= small <= _SMALL
                and not (node.op == "Clip" and (k != 1 or len(node.inputs) > 2))
            ):
                return node.inputs[1 - k]
    return value


def _unshifted(value: gs.Tensor, axis: int | None) -> gs.Tensor:
    """A value before its maximum is subtracted, or what else is made of it and is the same for all classes.

    No softmax notices it.
    """
    node = maker_of(past(value, SAME))
    if node is None or node.op not in ("Add", "Sub"):
        return value
    score, other = node.inputs[:2]
    if node.op == "Add":
        minus = made_by(past(other, SPREADING), "Neg")
        if minus is None:
            return value
        other = minus.inputs[0]
    top = maker_of(past(other, SPREADING))
    is_top = top is not None and top.op == "ReduceMax" and is_same(score, top.inputs[0])
    if top is not None and is_top and (axis is None or reduced_axis(top) in (None, axis)):
        return score
    return (
        score if _is_one_for_all(past(other, WIDENING), score, axis) and is_made_of(other, score) else value
    )


def _is_one_for_all(value: gs.Tensor, like: gs.Tensor, axis: int | None) -> bool:
    """Whether a value is broadcast along an axis of another one."""
    shape, full = shape_of(value), shape_of(like)
    if shape is None or full is None or axis is None:
        return False
    back = axis % len(full) - len(full)
    return -back > len(shape) or shape[back] == 1
