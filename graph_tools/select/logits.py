"""What a target that a softmax or a sigmoid makes is made of, also where the file has these in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Shape, is_float, shape_of


@dataclass(frozen=True)
class Logit:
    """The tensor before a final activation; the axis of its classes, counted from the end.

    `made` is "" where the tensor has the places of the target. Else it is what the activation makes of it, place by
    place, and the target takes some of its elements, with a minus sign where it takes one less them. `sign` is -1 where
    the logit is the tensor's negative.
    """

    tensor: str
    operator: str
    axis: int | None
    made: str = ""
    sign: int = 1


@dataclass(frozen=True)
class _Final:
    """A softmax, a sigmoid or the logarithm of one, its argument, and the axis of the classes."""

    operator: str
    argument: gs.Tensor
    axis: int | None = None
    sign: int = 1


_QUANTISING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_RESHAPING = _QUANTISING | {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_TAKING = (_RESHAPING - _QUANTISING) | {"Concat", "Gather", "Slice", "Split", "Transpose"}
_SAME = frozenset({"Cast", "Dropout", "Identity"})
_WIDENING = frozenset({"Cast", "Expand", "Identity", "Tile"})
_SPREADING = _SAME | {"Expand", "Reshape", "Squeeze", "Tile", "Unsqueeze"}
_SMALL = 1e-3
"""Up to which a number that is added to a sum of exponentials only keeps it from zero."""
_DEPTH = 8


def logit_of(graph: gs.Graph, target: str) -> Logit | None:
    """What a target that a Softmax, LogSoftmax or Sigmoid makes is made of; None for all others.

    These are found in parts too: less the maximum, exponentials, divided by their sum; 1 / (1 + exp(-x)).
    """
    value = graph.tensors()[target]
    made = _past(value, _RESHAPING)
    final = _final(made)
    if final is not None and (found := _shaped_like(value, final)) is not None:
        return found
    cores: dict[str, tuple[gs.Tensor, _Final]] = {}
    if not _trace(value, cores, signed=False) or len(cores) != 1:
        return None
    made, final = next(iter(cores.values()))
    shape = shape_of(final.argument)
    if not is_float(made) or not is_float(final.argument) or not _alike(shape, shape_of(made)):
        return None
    axis = None if final.axis is None or shape is None else final.axis % len(shape) - len(shape)
    return Logit(final.argument.name, final.operator, axis, made.name, final.sign)


def _shaped_like(value: gs.Tensor, final: _Final) -> Logit | None:
    """The argument where it has the shape of the target, or what it was reshaped from that has."""
    shape, found = shape_of(value), final.argument
    if shape is None:
        return None
    while shape_of(found) is None or not is_float(found) or not _alike(shape_of(found), shape):
        if not found.inputs or found.inputs[0].op not in _RESHAPING:
            return None
        found = found.inputs[0].inputs[0]
    if isinstance(found, gs.Constant):
        return None
    if final.axis is not None and _alike(shape_of(final.argument), shape):
        return Logit(found.name, final.operator, final.axis % len(shape) - len(shape))
    axis = -1 if final.axis is not None and len(shape) == 2 else None
    return Logit(found.name, final.operator, axis, sign=final.sign)


def _trace(
    value: gs.Tensor, cores: dict[str, tuple[gs.Tensor, _Final]], *, signed: bool, depth: int = 0
) -> bool:
    """Collects what the elements of a value are taken from; whether all are from activations."""
    if (final := _final(value)) is not None:
        cores[value.name] = value, final
        return not signed or final.operator == "Sigmoid"
    node = _maker(value)
    if node is None or depth > 4 * _DEPTH:
        return False
    if node.op == "Sub" and _number(node.inputs[0]) == 1:
        return _trace(node.inputs[1], cores, signed=True, depth=depth + 1)
    if node.op not in _TAKING:
        return False
    given = node.inputs if node.op == "Concat" else node.inputs[:1]
    return all(_trace(x, cores, signed=signed, depth=depth + 1) for x in given)


# --- Activations


def _final(value: gs.Tensor) -> _Final | None:
    """The activation that makes a value, whole or in parts."""
    node = _maker(value)
    if node is None:
        return None
    if node.op in ("LogSoftmax", "QLinearSoftmax", "Softmax"):
        return _Final(node.op.removeprefix("QLinear"), node.inputs[0], int(node.attrs.get("axis", -1)))
    if node.op in ("QLinearSigmoid", "Sigmoid"):
        return _Final("Sigmoid", node.inputs[0])
    makers: dict[str, Callable[[gs.Node], _Final | None]] = {
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


def _of(node: gs.Node, operators: dict[str, str]) -> _Final | None:
    """An activation behind a logarithm or an exponential."""
    inner = _final(_past(node.inputs[0], _SAME))
    return (
        _Final(operators[inner.operator], inner.argument, inner.axis, inner.sign)
        if inner and inner.operator in operators
        else None
    )


def _quotient(node: gs.Node) -> _Final | None:
    """exp(z) / sum exp(z), 1 / (1 + exp(-x)), exp(x) / (1 + exp(x))."""
    if node.op == "Div":
        above, below = _past(node.inputs[0], _SAME), node.inputs[1]
    elif node.op == "Reciprocal" or _number(node.inputs[1]) == -1:
        above, below = gs.Constant("one", np.ones(1)), node.inputs[0]
    else:
        return None
    return _ratio(above, below)


def _ratio(above: gs.Tensor, below: gs.Tensor) -> _Final | None:
    top = _made_by(above, "Exp")
    added = _one_more(below)
    if added is not None:
        power = _made_by(added, "Exp")
        if power is None:
            return None
        if top is not None and _same(above, added):
            return _Final("Sigmoid", top.inputs[0])
        if _number(above) != 1:
            return None
        argument = _negated(power.inputs[0])
        if argument is None:  # 1 / (1 + exp(y)) is the sigmoid of -y
            return _Final("Sigmoid", power.inputs[0], sign=-1)
        return _Final("Sigmoid", argument)
    if top is None:
        return None
    total = _past(_without_floor(below), _SPREADING)
    maker = _maker(total)
    if maker is None or maker.op not in ("ReduceL1", "ReduceSum") or not _same(above, maker.inputs[0]):
        return None
    axis = _reduced_axis(maker)
    return _Final("Softmax", _unshifted(top.inputs[0], axis), axis)


def _product(node: gs.Node) -> _Final | None:
    """A quotient by a reciprocal; (1 + tanh(x / 2)) / 2."""
    for one, other in (node.inputs[:2], node.inputs[1::-1]):
        inverse = _made_by(_past(one, _SPREADING), "Reciprocal")
        if inverse is not None:
            return _ratio(_past(other, _SAME), inverse.inputs[0])
        added = _one_more(other) if _number(one) == 0.5 else None
        bent = None if added is None else _made_by(added, "Tanh")
        half = None if bent is None else _maker(_past(bent.inputs[0], _SAME))
        if half is not None and half.op == "Mul" and 0.5 in [_number(x) for x in half.inputs]:
            return _Final("Sigmoid", half.inputs[0] if _number(half.inputs[1]) == 0.5 else half.inputs[1])
        if half is not None and half.op == "Div" and _number(half.inputs[1]) == 2:
            return _Final("Sigmoid", half.inputs[0])
    return None


def _normalised(node: gs.Node) -> _Final | None:
    """exp(z) divided by the sum of its absolute values."""
    top = _made_by(node.inputs[0], "Exp")
    if top is None or int(node.attrs.get("p", 2)) != 1:
        return None
    axis = int(node.attrs.get("axis", -1))
    return _Final("Softmax", _unshifted(top.inputs[0], axis), axis)


def _log_sigmoid(node: gs.Node) -> _Final | None:
    """-softplus(-x)."""
    inner = _made_by(node.inputs[0], "Softplus")
    argument = None if inner is None else _negated(inner.inputs[0])
    return None if argument is None else _Final("LogSigmoid", argument)


def _log_softmax(node: gs.Node) -> _Final | None:
    """z less the logarithm of the sum of its exponentials, with or without the maximum taken out first."""
    if node.op == "Add":
        minus = _made_by(node.inputs[1], "Neg")
        if minus is None:
            return None
        score, log = node.inputs[0], minus.inputs[0]
    else:
        score, log = node.inputs[:2]
    score, maker, added = _past(score, _SAME), _maker(_past(log, _SPREADING)), None
    if maker is not None and maker.op == "Add":  # the maximum is added again
        parts = [_past(x, _SPREADING) for x in maker.inputs]
        logs = [k for k, x in enumerate(parts) if _is_log_sum(_maker(x))]
        if len(logs) != 1:
            return None
        maker, added = _maker(parts[logs[0]]), parts[1 - logs[0]]
    if maker is None:
        return None
    if maker.op == "ReduceLogSumExp":
        inside, axis = maker.inputs[0], _reduced_axis(maker)
    elif maker.op == "ReduceLogSum":
        inside, axis = _argument_of_exp(maker.inputs[0]), _reduced_axis(maker)
    elif maker.op == "Log":
        total = _maker(_past(maker.inputs[0], _SPREADING))
        if total is None or total.op not in ("ReduceL1", "ReduceSum"):
            return None
        inside, axis = _argument_of_exp(total.inputs[0]), _reduced_axis(total)
    else:
        return None
    if inside is not None and added is not None:
        less = _made_by(inside, "Sub")
        if less is None or not _same(_past(less.inputs[1], _SPREADING), added):
            return None
        inside = less.inputs[0]
    if inside is None or not _same(inside, score):
        return None
    return _Final("LogSoftmax", _unshifted(score, axis), axis)


def _is_log_sum(node: gs.Node | None) -> bool:
    return node is not None and node.op in ("Log", "ReduceLogSum", "ReduceLogSumExp")


def _argument_of_exp(value: gs.Tensor) -> gs.Tensor | None:
    maker = _made_by(value, "Exp")
    return None if maker is None else maker.inputs[0]


# --- Parts


def _maker(value: gs.Tensor) -> gs.Node | None:
    return value.inputs[0] if value.inputs else None


def _made_by(value: gs.Tensor, operator: str) -> gs.Node | None:
    """The node that makes a value, if it has this operator; what keeps the numbers is passed over."""
    node = _maker(_past(value, _SAME))
    return node if node is not None and node.op == operator else None


def _past(value: gs.Tensor, through: frozenset[str]) -> gs.Tensor:
    """The value before the nodes of these operators."""
    while value.inputs and value.inputs[0].op in through:
        value = value.inputs[0].inputs[0]
    return value


def _number(value: gs.Tensor) -> float | None:
    """The number that a constant of one element holds, or of many equal ones."""
    value = _past(value, _SPREADING)
    if not isinstance(value, gs.Constant) or not 1 <= np.prod(value.shape) <= 1 << 16:
        return None
    array: Any = np.asarray(value.values).astype(np.float64).reshape(-1)
    return float(array[0]) if (array == array[0]).all() else None


def _one_more(value: gs.Tensor) -> gs.Tensor | None:
    """What is added to one."""
    node = _made_by(value, "Add")
    if node is None:
        return None
    for one, other in (node.inputs[:2], node.inputs[1::-1]):
        if _number(one) == 1:
            return _past(other, _SAME)
    return None


def _negated(value: gs.Tensor) -> gs.Tensor | None:
    """What a value is the negative of."""
    node = _maker(_past(value, _SAME))
    if node is None:
        return None
    if node.op == "Neg":
        return node.inputs[0]
    if node.op == "Sub" and _number(node.inputs[0]) == 0:
        return node.inputs[1]
    if node.op == "Mul":
        for one, other in (node.inputs[:2], node.inputs[1::-1]):
            if _number(one) == -1:
                return other
    if node.op == "Div" and _number(node.inputs[1]) == -1:
        return node.inputs[0]
    return None


def _without_floor(value: gs.Tensor) -> gs.Tensor:
    """A sum, without the small number that is added or that it is at least."""
    node = _maker(_past(value, _SPREADING))
    if node is not None and node.op in ("Add", "Clip", "Max"):
        for k, x in enumerate(node.inputs[:2]):
            small = _number(x)
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
    node = _maker(_past(value, _SAME))
    if node is None or node.op not in ("Add", "Sub"):
        return value
    score, other = node.inputs[:2]
    if node.op == "Add":
        minus = _made_by(_past(other, _SPREADING), "Neg")
        if minus is None:
            return value
        other = minus.inputs[0]
    top = _maker(_past(other, _SPREADING))
    is_top = top is not None and top.op == "ReduceMax" and _same(score, top.inputs[0])
    if top is not None and is_top and (axis is None or _reduced_axis(top) in (None, axis)):
        return score
    return (
        score
        if _is_one_for_all(_past(other, _WIDENING), score, axis) and _is_made_of(other, score)
        else value
    )


def _is_one_for_all(value: gs.Tensor, like: gs.Tensor, axis: int | None) -> bool:
    """Whether a value is broadcast along an axis of another one."""
    shape, full = shape_of(value), shape_of(like)
    if shape is None or full is None or axis is None:
        return False
    back = axis % len(full) - len(full)
    return -back > len(shape) or shape[back] == 1


def _is_made_of(value: gs.Tensor, source: gs.Tensor) -> bool:
    """Whether a value is made of another one, a few nodes before it."""
    source, frontier = _past(source, _SAME), [value]
    for _ in range(_DEPTH):
        if any(_past(x, _SAME) is source for x in frontier):
            return True
        frontier = [y for x in frontier for node in x.inputs for y in node.inputs]
    return False


def _reduced_axis(node: gs.Node) -> int | None:
    """The one axis that a reduction takes."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        axes = np.asarray(node.inputs[1].values).reshape(-1).tolist()
    return int(axes[0]) if axes is not None and len(axes) == 1 else None


def _same(left: gs.Tensor, right: gs.Tensor, depth: int = 0) -> bool:
    """Whether two values are one, or are made alike of the same ones."""
    left, right = _past(left, _SAME), _past(right, _SAME)
    if left is right:
        return True
    one, other = _maker(left), _maker(right)
    if one is None or other is None or depth > _DEPTH:
        return False
    alike = one.op == other.op and one.domain == other.domain and len(one.inputs) == len(other.inputs)
    place = [z is left for z in one.outputs] == [z is right for z in other.outputs]
    return (
        alike
        and place
        and repr(sorted(one.attrs.items())) == repr(sorted(other.attrs.items()))
        and all(_same_input(a, b, depth) for a, b in zip(one.inputs, other.inputs, strict=True))
    )


def _same_input(left: gs.Tensor, right: gs.Tensor, depth: int) -> bool:
    if isinstance(left, gs.Constant) and isinstance(right, gs.Constant):
        return left.shape == right.shape and np.array_equal(np.asarray(left.values), np.asarray(right.values))
    return _same(left, right, depth + 1)


def _alike(left: Shape | None, right: Shape | None) -> bool:
    """Whether two shapes are the same as far as they are known."""
    if left is None or right is None or len(left) != len(right):
        return False
    pairs = zip(left, right, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
