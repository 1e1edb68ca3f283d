"""The table of rules: what each operator does to the gradient that arrives at its output.

A rule is a pure function `(op, node, *gradients) -> one value or None per input`: `op` emits nodes, `node` shows the
inputs, outputs and attributes, and there is one gradient per output, None where none arrived. Letters everywhere:
`x, y` operands, `z` output, `g` its gradient. The walk undoes broadcasting and adds contributions up; rules do not.

Kinds, which tell a secant method what may be reused:
- `linear`: for each set of inputs, jointly linear (or affine) in them while the others stay fixed.
- `elementwise`: the output element depends on the input elements at its own place (after broadcasting).
- `bilinear`: linear in each of two inputs on its own; its secant is the gradient at the midpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_half, is_quantised

Gradients = Sequence[Value | None]
RuleFunction = Callable[..., Gradients]
Forward = Callable[[Emitter, "NodeView"], "Value | Sequence[Value | None]"]
Walk = Callable[[Emitter, Mapping[str, Value], Sequence[str]], dict[str, Value]]
"""The reverse walk over an inner graph: `(op, seeds, names) -> gradients` by name; where no way leads there is none."""


@dataclass(frozen=True)
class NodeView:
    """A node as a rule sees it. Absent optional inputs and outputs are None.

    The variables that its graphs capture follow the inputs; `walk` differentiates such a graph under the same rules.
    """

    operator: str
    name: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    active: tuple[bool, ...]
    opset: int
    domain: str = ""
    walk: Walk | None = None

    def input(self, index: int) -> Value:
        """A required input."""
        value = self.inputs[index]
        assert value is not None
        return value

    def optional(self, index: int) -> Value | None:
        """An input that may be absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def z(self) -> Value:
        """The first output."""
        value = self.outputs[0]
        assert value is not None
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default of the standard."""
        return self.attributes.get(name, default)

    def real(self, op: Emitter) -> NodeView:
        """The node with float32 in place of half types and of the quantised values that gradients pass.

        Nodes with graphs stay as they are: what their graphs declare is of the file's types.
        """
        if any(isinstance(value, gs.Graph) for value in self.attributes.values()):
            return self
        pairs = zip(self.inputs, self.active, strict=True)
        return replace(
            self,
            inputs=tuple(_real(op, x, quantised=is_active) for x, is_active in pairs),
            outputs=tuple(_real(op, z) for z in self.outputs),
        )

    def again(self, op: Emitter, *inputs: Value | None, **changed: Any) -> gs.Variable:
        """The same operator on other inputs."""
        attributes = {**self.attributes, **changed}
        return op(self.operator, *inputs, domain=self.domain or None, **attributes)


@dataclass(frozen=True)
class Rule:
    """A gradient rule with its kind; `linear` holds the sets of inputs in which the operator is jointly linear.

    `sparse`: None for an active input means that no way leads there, not that the rule cannot say.
    `straight_through`: the operator rounds, and its gradient is that of the operator without the rounding.
    `forward` computes the outputs from standard operators, where the rule is the gradient of those; `approximate`: to
    within the tolerance of an operator that iterates, not of rounding.
    """

    vjp: RuleFunction
    linear: tuple[frozenset[int], ...] = ()
    linear_if: Callable[[NodeView], bool] | None = None
    elementwise: bool = False
    bilinear: bool = False
    sparse: bool = False
    straight_through: bool = False
    forward: Forward | None = None
    approximate: bool = False

    def is_linear_in(self, node: NodeView, active: Iterable[int]) -> bool:
        """Whether the node is jointly linear in these inputs."""
        linear = self.linear_if is None or self.linear_if(node)
        return linear and any(set(active) <= group for group in self.linear)


def _real(op: Emitter, value: Value | None, *, quantised: bool = True) -> Value | None:
    if value is None or not (is_half(value) or (quantised and is_quantised(value))):
        return value
    return op.cast(value, np.float32)


RuleTable = dict[tuple[str, str], Rule]
VJP: RuleTable = {}
ALL_INPUTS = frozenset(range(1024))

ZERO_DERIVATIVE: dict[tuple[str, str], str] = {}
"""Operators whose derivative is zero almost everywhere or does not exist, each with the reason in words."""


def vjp(
    *operators: str,
    linear: Iterable[Iterable[int]] = (),
    linear_if: Callable[[NodeView], bool] | None = None,
    elementwise: bool = False,
    bilinear: bool = False,
    sparse: bool = False,
    straight_through: bool = False,
    forward: Forward | None = None,
    approximate: bool = False,
    domain: str = "",
) -> Callable[[RuleFunction], RuleFunction]:
    """Registers a gradient rule; a second one for the same operator is refused."""

    def register(function: RuleFunction) -> RuleFunction:
        for operator in operators:
            key = (domain, operator)
            if key in VJP or key in ZERO_DERIVATIVE:
                raise ValueError(f"a rule for {operator} exists already")
            groups = tuple(frozenset(group) for group in linear)
            VJP[key] = Rule(
                function,
                groups,
                linear_if,
                elementwise,
                bilinear,
                sparse,
                straight_through,
                forward,
                approximate,
            )
        return function

    return register


def unary(operator: str, function: Callable[[Emitter, Value, Value, Value], Value], domain: str = "") -> None:
    """Registers an elementwise function of one input without attributes by `(op, g, x, z) -> gradient of x`."""

    def rule(op: Emitter, node: NodeView, g: Value) -> Gradients:
        return (function(op, g, node.input(0), node.z),)

    vjp(operator, elementwise=True, domain=domain)(rule)


def zero(reason: str, *operators: str, domain: str = "") -> None:
    """Lists operators that stop every gradient, with the reason."""
    for operator in operators:
        key = (domain, operator)
        if key in VJP or key in ZERO_DERIVATIVE:
            raise ValueError(f"a rule for {operator} exists already")
        ZERO_DERIVATIVE[key] = reason
