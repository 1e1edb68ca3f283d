"""What several nodes of a graph say together: products with numbers, sums with one, means, squares and deviations.

Of tensors that somebody asks for, and of nodes that are not standard operators, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.operators.transpose import known_inside, number_of

Asked = frozenset[str]
DEPTH = 4  # of nested products


@dataclass(frozen=True)
class Composite:
    """A function of several nodes: the tensors that it reads, and the gradient of each by that of its result.

    It is meant where nothing arrives by a tensor of `still`, which it reads too; else `otherwise`.
    """

    inputs: tuple[Value, ...]
    back: Callable[[Emitter, Value], Sequence[Value]]
    still: tuple[Value, ...] = ()
    otherwise: Composite | None = None

    def where(self, active: Collection[str]) -> Composite | None:
        """The function that is meant where these tensors move; None where none of its inputs does."""
        if any(x.name in active for x in self.still):
            return self.otherwise and self.otherwise.where(active)
        return self if any(x.name in active for x in self.inputs) else None


def of_one(x: Value, back: Callable[[Emitter, Value], Value]) -> Composite:
    """A function of one tensor."""
    return Composite((x,), lambda op, g: (back(op, g),))


def made_by(value: Value, operator: str, asked: Asked) -> gs.Node | None:
    """The node of this operator that makes a tensor that nobody asks for."""
    maker = value.inputs[0] if value.inputs else None
    standard = maker is not None and maker.op == operator and maker.domain in (None, "", "ai.onnx")
    return maker if standard and value.name not in asked else None


def beside_number(value: Value, operator: str, asked: Asked) -> tuple[Value, float] | None:
    """The operand of a node of two that is no number, and the number."""
    maker = made_by(value, operator, asked)
    if maker is None or len(maker.inputs) != 2:
        return None
    for x, other in (maker.inputs, maker.inputs[::-1]):
        number = number_of(other)
        if number is not None and number_of(x) is None:
            return x, number
    return None


def factors(
    node: gs.Node, asked: Asked, whole: Value | None = None, depth: int = DEPTH
) -> tuple[float, list[Value]]:
    """The number and the tensors whose product a Mul, or a Div by a number, makes; `whole` is not taken apart."""
    scale, tensors = 1.0, list[Value]()
    divisor = number_of(node.inputs[1]) if node.op == "Div" else None
    if node.op != "Mul" and not divisor:
        return 1.0, [node.outputs[0]]
    for x in node.inputs[:1] if divisor else node.inputs:
        if (number := number_of(x)) is not None:
            scale *= number
            continue
        maker = made_by(x, "Mul", asked) or made_by(x, "Div", asked)
        if maker is None or x is whole or not depth:
            tensors.append(x)
            continue
        more, others = factors(maker, asked, whole, depth - 1)
        scale *= more
        tensors += others
    return scale / (divisor or 1.0), tensors


def product(value: Value, asked: Asked, whole: Value | None = None) -> tuple[float, list[Value]]:
    """The number and the tensors whose product a tensor is."""
    maker = made_by(value, "Mul", asked) or made_by(value, "Div", asked)
    return (1.0, [value]) if maker is None or value is whole else factors(maker, asked, whole)


def number_before(node: gs.Node, x: Value, other: Value, asked: Asked) -> float | None:
    """c where a node makes c x other, in any order."""
    scale, tensors = factors(node, asked, x)
    pair = len(tensors) == 2 and any(t is x for t in tensors) and any(t is other for t in tensors)
    return scale if pair and x is not other else None


def monomial(value: Value, asked: Asked, x: Value) -> tuple[float, int] | None:
    """c and n where a tensor is c x^n."""
    scale, tensors = product(value, asked, x)
    degree = 0
    for tensor in tensors:
        power = None if tensor is x else made_by(tensor, "Pow", asked)
        exponent = 1.0 if tensor is x else power and power.inputs[0] is x and number_of(power.inputs[1])
        if not exponent or exponent not in (1, 2, 3):
            return None
        degree += int(exponent)
    return scale, degree


def sums(value: Value, asked: Asked) -> Iterator[tuple[Value, Value]]:
    """The two operands of a sum, in both orders."""
    maker = made_by(value, "Add", asked)
    if maker is not None:
        yield from ((maker.inputs[0], maker.inputs[1]), (maker.inputs[1], maker.inputs[0]))


def mean_of(value: Value, asked: Asked) -> tuple[Value, tuple[int, ...]] | None:
    """What a tensor is the mean of, and over which axes, which are kept."""
    maker = made_by(value, "ReduceMean", asked)
    if maker is None or not maker.attrs.get("keepdims", 1):
        return None
    x, axes = maker.inputs[0], maker.attrs.get("axes")
    if axes is None and len(maker.inputs) > 1 and (numbers := known_inside(maker.inputs[1])) is not None:
        axes = numbers.reshape(-1).tolist()
    shape = shape_of(x)
    return (x, tuple(sorted(int(a) % len(shape) for a in axes))) if axes and shape else None


def square_of(value: Value, asked: Asked) -> Value | None:
    """What a tensor is the square of."""
    power = beside_number(value, "Pow", asked)
    maker = made_by(value, "Mul", asked)
    if power is not None and power[1] == 2.0 and value.inputs[0].inputs[0] is power[0]:
        return power[0]
    return maker.inputs[0] if maker is not None and maker.inputs[0] is maker.inputs[1] else None


def inverted(value: Value, asked: Asked) -> Value | None:
    """What a tensor is 1 over."""
    maker = made_by(value, "Reciprocal", asked)
    if maker is not None:
        return maker.inputs[0]
    maker = made_by(value, "Div", asked)
    return maker.inputs[1] if maker is not None and number_of(maker.inputs[0]) == 1.0 else None


def alike(x: Value, y: Value) -> bool:
    """Whether two tensors are one, or what two nodes of one operator make of the same."""
    if x is y:
        return True
    if not x.inputs or not y.inputs:
        return False
    one, other = x.inputs[0], y.inputs[0]
    same = (one.op, one.domain, one.attrs) == (other.op, other.domain, other.attrs)
    outputs = one.outputs[0] is x and other.outputs[0] is y and len(one.inputs) == len(other.inputs)
    return same and outputs and all(a is b for a, b in zip(one.inputs, other.inputs, strict=True))
