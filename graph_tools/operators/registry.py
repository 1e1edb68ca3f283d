"""The table of operators: what each one does to the gradient that arrives at its output, and to DeepLIFT's multipliers.

A rule is a pure function `(op, node, *gradients) -> one value or None per input`: `op` emits nodes, `node` shows the
inputs, outputs and attributes, and there is one gradient per output, None where none arrived. Letters everywhere:
`x, y` operands, `z` output, `g` its gradient. The walk undoes broadcasting and adds contributions up; rules do not.

Kinds, which tell a secant method what may be reused:
- `linear`: for each set of inputs, jointly linear (or affine) in them while the others stay fixed.
- `elementwise`: the output element depends on the input elements at its own place (after broadcasting).
- `bilinear`: linear in each of two inputs on its own; its secant is the gradient at the midpoint.

Further kinds, which RevealCancel and secants ask for:
- `weighted`: a product with weights; `dense` those that reach every input;
- `carries`: without a coefficient below 0, so that each part of a change goes through by itself;
- `scales`: a product with a number for each element; `swaps`: a coefficient of -1;
- `activation`: a nonlinearity that has a value everywhere, wherever one part of a change alone may lead;
- `piecewise_linear`: rounds relative to its input, so that differences of small numbers are meant; `routes`: its output
  is one of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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
    `steady`: what arrives is finite where the network's numbers are. `given`: its tensors are inputs of the program.
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
    steady: bool = False
    given: bool = False

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


Kind = Literal["activation", "carries", "dense", "piecewise_linear", "routes", "scales", "swaps", "weighted"]


def nothing(op: Emitter, node: NodeView, *_: Any) -> Gradients:
    """The rule of what nothing passes."""
    return [None] * len(node.inputs)


@dataclass(frozen=True)
class Rule:
    """One operator: its gradient, its secant, its kinds.

    `linear` holds the sets of inputs in which the operator is jointly linear.
    `sparse`: None for an active input means that no way leads there, not that the rule cannot say.
    `straight_through`: the operator rounds, and its gradient is that of the operator without the rounding.
    `forward` computes the outputs from standard operators, whose secants are its own, for nodes that meet `forward_if`;
    of a `composite` its gradient too; `approximate`: to within the tolerance of an operator that iterates, not of
    rounding. `zero`: why its derivative is zero almost everywhere or does not exist.
    `secant(op, node, reference, *gradients)` says what the kinds do not; `many` the same for more moving inputs than a
    Shapley value takes, `of_integers` for an output of integers, and for operators with graphs
    `inner(op, node, reference, gradients, references, moving)`. `unfollowed`: outputs that may change between x and x'
    though nothing passes them, as positions and bits. `alone`: a rule in place of the gradient that is meant where the
    operator stands by itself; functions of several nodes with it inside keep their gradient.
    """

    vjp: RuleFunction
    linear: tuple[frozenset[int], ...] = ()
    linear_if: Callable[[NodeView], bool] | None = None
    elementwise: bool = False
    bilinear: bool = False
    sparse: bool = False
    straight_through: bool = False
    forward: Forward | None = None
    forward_if: Callable[[NodeView], bool] | None = None
    composite: bool = False
    approximate: bool = False
    kinds: frozenset[Kind] = frozenset()
    secant: RuleFunction | None = None
    many: RuleFunction | None = None
    of_integers: RuleFunction | None = None
    inner: RuleFunction | None = None
    unfollowed: tuple[int, ...] = ()
    zero: str = ""
    alone: bool = False

    def is_linear_in(self, node: NodeView, active: Iterable[int]) -> bool:
        """Whether the node is jointly linear in these inputs."""
        linear = self.linear_if is None or self.linear_if(node)
        return linear and any(set(active) <= group for group in self.linear)

    def forward_of(self, node: NodeView) -> Forward | None:
        """What computes the node from standard operators, if it is meant."""
        return self.forward if self.forward_if is None or self.forward_if(node) else None


def _real(op: Emitter, value: Value | None, *, quantised: bool = True) -> Value | None:
    if value is None or not (is_half(value) or (quantised and is_quantised(value))):
        return value
    return op.cast(value, np.float32)


Key = tuple[str, str]
"""The domain of an operator, "" for the standard's, and its name."""
RuleTable = dict[Key, Rule]


class Held:
    """A table by its identity, which nothing else has as long as this is kept."""

    def __init__(self, table: RuleTable) -> None:
        self._table = table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and other._table is self._table

    def __hash__(self) -> int:
        return id(self._table)


OPERATORS: RuleTable = {}
"""The record of every operator."""
VJP: RuleTable = {}
"""The records of those with a gradient."""
ZERO_DERIVATIVE: dict[Key, str] = {}
"""The reasons of those without."""
ALL_INPUTS = frozenset(range(1024))


def _enter(key: Key, rule: Rule) -> None:
    OPERATORS[key] = rule
    if rule.zero:
        ZERO_DERIVATIVE[key] = rule.zero
    else:
        VJP[key] = rule


def _new(operators: Iterable[str], domain: str, rule: Rule) -> None:
    for operator in operators:
        if (domain, operator) in OPERATORS:
            raise ValueError(f"a rule for {operator} exists already")
        _enter((domain, operator), rule)


def vjp(
    *operators: str,
    linear: Iterable[Iterable[int]] = (),
    kinds: Iterable[Kind] = (),
    domain: str = "",
    **fields: Any,
) -> Callable[[RuleFunction], RuleFunction]:
    """Registers operators with their gradient; a second registration is refused. `fields` are those of `Rule`."""

    def register(function: RuleFunction) -> RuleFunction:
        groups = tuple(frozenset(group) for group in linear)
        _new(operators, domain, Rule(function, groups, kinds=frozenset(kinds), **fields))
        return function

    return register


def secant(
    *operators: str,
    to: Literal["secant", "many", "of_integers", "inner"] = "secant",
    domain: str = "",
) -> Callable[[RuleFunction], RuleFunction]:
    """Adds the secant to operators that are registered; `to` names the field of `Rule`."""

    def register(function: RuleFunction) -> RuleFunction:
        fields: dict[str, Any] = {to: function}
        for key in ((domain, operator) for operator in operators):
            _enter(key, replace(OPERATORS[key], **fields))
        return function

    return register


def decomposed(
    *operators: str, when: Callable[[NodeView], bool] | None = None, domain: str = ""
) -> Callable[[Forward], Forward]:
    """Adds the secant to operators that are registered: that of the standard operators that `(op, node)` emits."""

    def register(forward: Forward) -> Forward:
        for key in ((domain, operator) for operator in operators):
            _enter(key, replace(OPERATORS[key], forward=forward, forward_if=when))
        return forward

    return register


def unary(
    operator: str,
    function: Callable[[Emitter, Value, Value, Value], Value],
    domain: str = "",
    kinds: Iterable[Kind] = (),
) -> None:
    """Registers an elementwise function of one input without attributes by `(op, g, x, z) -> gradient of x`."""

    def rule(op: Emitter, node: NodeView, g: Value) -> Gradients:
        return (function(op, g, node.input(0), node.z),)

    vjp(operator, elementwise=True, kinds=kinds, domain=domain)(rule)


def zero(
    reason: str, *operators: str, elementwise: bool = False, unfollowed: bool = False, domain: str = ""
) -> None:
    """Registers operators that stop every gradient, with the reason.

    Those that are `elementwise` may have a secant; where the output of one that is `unfollowed` changes, DeepLIFT
    refuses.
    """
    rule = Rule(nothing, elementwise=elementwise, sparse=True, zero=reason)
    _new(operators, domain, replace(rule, secant=nothing, unfollowed=(0,)) if unfollowed else rule)
