"""DeepLIFT's multipliers with the Rescale rule: the gradient rules with slopes between x and x'.

Linear operators keep their gradient; products take it at the midpoint, which is their two-factor Shapley value;
elementwise functions take the secant.
Normalisations and other functions of many elements are recomputed from standard operators that sum exactly.
Truth values and integers that depend on the source count as numbers: a comparison is a step, Where a product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float
from onnx_attribution.graph_tools.ir.reach import depends
from onnx_attribution.graph_tools.operators.decompose import staged
from onnx_attribution.graph_tools.operators.ends import (
    PLAYERS,
    midpoint,
    quotient,
    shapley,
    slope_of_one,
)
from onnx_attribution.graph_tools.operators.huge import Known, may_be_huge, tamed
from onnx_attribution.graph_tools.operators.lost import Lost, inputs_missed, outputs_missed
from onnx_attribution.graph_tools.operators.registry import (
    OPERATORS,
    Forward,
    Gradients,
    NodeView,
    Rule,
    RuleTable,
)
from onnx_attribution.methods import NearZero


def secant_table(rules: RuleTable) -> RuleTable:
    """The rules, and those of operators without a derivative that have a secant, or whose change is refused."""
    return {key: rule for key, rule in OPERATORS.items() if rule.zero and rule.secant is not None} | rules


def secant_of(
    references: dict[str, Value],
    moving: set[str],
    near_zero: NearZero = "midpoint",
    lost: Lost | None = None,
    given: bool = False,
) -> Callable[[NodeView, Rule], Callable[..., Gradients]]:
    """The choice of the secant: which rule a node follows between x and x'.

    `references` maps tensors to their values at x'; `moving` names those whose values depend on the source. Both grow
    with the tensors of operators that are recomputed from standard ones; where one of those stands for an output, the
    operator's own is taken. Unless `near_zero` is "midpoint", functions of one input take the plain quotient,
    as other libraries do, and its gradient there where that is rounding noise. `lost` takes what operators without a
    secant carry of the target's change; the references are inputs of the program if they are `given`.
    """
    own: dict[str, Value] = {}
    huge: Known = {}
    lost = lost or Lost()

    def choose(node: NodeView, rule: Rule) -> Callable[..., Gradients]:
        moved = [k for k, x in enumerate(node.inputs) if x is not None and x.name in moving]
        active = tuple(
            k in moved for k in range(len(node.inputs))
        )  # more than lead to the layer, if it is no cut
        at_reference = replace(
            node,
            inputs=tuple(x and references.get(x.name, x) for x in node.inputs),
            outputs=tuple(z and references.get(z.name, z) for z in node.outputs),
            active=active,
            given=given,
        )
        node = replace(node, active=active)
        forward = rule.forward_of(node)
        if (inner := rule.inner) is not None:

            def controlled(op: Emitter, view: NodeView, *g: Value | None) -> Gradients:
                with lost.body():
                    return inner(op, replace(view, active=active), at_reference, g, references, moving)

            return controlled

        def follow(op: Emitter, view: NodeView, *g: Value | None) -> Gradients:
            pairs = zip(node.outputs, view.outputs, strict=True)
            outputs = tuple(z if raw is None else own.get(raw.name, z) for raw, z in pairs)
            alike = rule.elementwise or rule.bilinear
            here = _numeric(op, replace(view, active=active, outputs=outputs), node, g, alike)
            there = _numeric(op, at_reference.real(op), at_reference, g, alike)
            missed = outputs_missed(op, rule.unfollowed, node, here, there, g)
            if chosen is None:
                assert forward is not None
                results = _through(op, here, there, rule, forward, g, moved, references, moving, own)
                return lost.note(op, node, missed, results)
            if steering:
                missed |= inputs_missed(op, node, at_reference, steering, g)
                here, there = (_steered(v, raw, steering) for v, raw in ((here, node), (there, at_reference)))
            here, there = (_tamed(op, v, huge) for v in (here, there))
            results = _typed(op, here, chosen(op, here, there, *g))
            if steering:
                given = dict(enumerate(results))
                results = [
                    _still(op, x) if k in steering and x is not None else given.get(k)
                    for k, x in enumerate(node.inputs)
                ]
            return lost.note(op, node, missed, results)

        steering = [] if forward is not None else _steering(node, rule, moved)
        followed = [k for k in moved if k not in steering]
        chosen = _chosen(node, rule, followed, near_zero) if forward is None else None
        return follow

    return choose


def _steering(node: NodeView, rule: Rule, moved: Sequence[int]) -> list[int]:
    """What moves and is no number to the operator, but says how the others move: positions, sizes, amounts.

    Such an operator is followed where they are the same at x and x'.
    """
    found = [k for k in moved if not is_float(node.input(k))]
    rest = [k for k in moved if k not in found]
    known = rule.secant is not None or rule.many is not None
    if known or rule.elementwise or not found or not rest or not _is_followed(node, rule, rest):
        return []
    return found


def _is_followed(node: NodeView, rule: Rule, moved: Sequence[int]) -> bool:
    """Whether the operator is linear in what moves, or a product of two that are."""
    return rule.is_linear_in(node, moved) or (rule.bilinear and _in_two_factors(rule, moved))


def _steered(view: NodeView, raw: NodeView, steering: Sequence[int]) -> NodeView:
    """The node with what steers it as the network has it, as if that did not move."""
    inputs = tuple(raw.inputs[k] if k in steering else x for k, x in enumerate(view.inputs))
    return replace(
        view, inputs=inputs, active=tuple(a and k not in steering for k, a in enumerate(view.active))
    )


def _still(op: Emitter, x: Value) -> Value:
    """The multiplier of an input that does not change."""
    zero = op("Expand", op.constant(np.float32(0)), op.shape(x))
    zero.shape = x.shape
    return zero


def _tamed(op: Emitter, node: NodeView, huge: Known) -> NodeView:
    """The node with finite numbers in place of infinite ones, where masks may have made some."""

    def value(x: Value | None) -> Value | None:
        return tamed(op, x) if x is not None and is_float(x) and may_be_huge(x, huge) else x

    return replace(node, inputs=tuple(map(value, node.inputs)), outputs=tuple(map(value, node.outputs)))


def _typed(op: Emitter, node: NodeView, gradients: Gradients) -> Gradients:
    """What goes to each float input in its own type, which a cast or a comparison changes."""
    pairs = zip(gradients, node.inputs, strict=False)
    return [g if g is None or x is None or not is_float(x) else op.cast(g, x.dtype) for g, x in pairs]


def _numeric(
    op: Emitter, node: NodeView, raw: NodeView, gradients: Sequence[Value | None], alike: bool
) -> NodeView:
    """The node with numbers in place of the truth values and integers that depend on the source.

    `raw` has the types of the network. Where the inputs are `alike`, of one type, integers that meet such numbers
    become numbers too.
    """
    if any(isinstance(value, gs.Graph) for value in node.attributes.values()):
        return node
    kind = next((g.dtype for g in gradients if g is not None), np.dtype(np.float32))

    def number(value: Value | None, typed: Value | None) -> Value | None:
        whole = value is not None and typed is not None and typed.dtype is not None and not is_float(typed)
        return op.cast(value, kind) if whole else value

    inputs = [*zip(node.inputs, raw.inputs, node.active, strict=True)]
    every = alike and node.operator != "Where" and any(a and number(x, r) is not x for x, r, a in inputs)
    return replace(
        node,
        inputs=tuple(number(x, r) if every or is_active else x for x, r, is_active in inputs),
        outputs=tuple(map(number, node.outputs, raw.outputs)) if any(node.active) else node.outputs,
    )


def _chosen(
    node: NodeView, rule: Rule, moved: Sequence[int], near_zero: NearZero
) -> Callable[..., Gradients]:
    """What the node does, as `(op, node, reference, *gradients)`; `moved` are the inputs that differ at x'."""
    if (
        near_zero != "midpoint"
        and rule.elementwise
        and len(moved) == 1
        and not rule.is_linear_in(node, moved)
        and not rule.zero
        and is_float(node.input(moved[0]))
    ):
        return lambda op, view, reference, g: slope_of_one(op, view, reference, rule, moved[0], g, near_zero)
    if rule.of_integers is not None and not is_float(node.z):
        return rule.of_integers
    if rule.secant is not None:
        return rule.secant
    if rule.is_linear_in(node, moved):
        return lambda op, view, reference, *g: rule.vjp(op, view, *g)
    if rule.bilinear and _in_two_factors(rule, moved):
        return lambda op, view, reference, *g: rule.vjp(op, midpoint(op, view, reference), *g)
    if rule.elementwise and len(moved) == 1:
        return lambda op, view, reference, g: slope_of_one(op, view, reference, rule, moved[0], g)
    if rule.elementwise and 2 <= len(moved) <= PLAYERS:
        return lambda op, view, reference, g: shapley(op, view, reference, rule, moved, g)
    if rule.many is not None:
        return rule.many
    raise NotDifferentiable(
        f"DeepLIFT has no rule for {node.operator} (node {node.name!r}) with "
        f"{', '.join(repr(node.input(k).name) for k in moved)} depending on the source",
        reason=Reason.NO_SECANT, node=node.name, operator=node.operator, tensor=node.z.name,
    )  # fmt: skip


def _in_two_factors(rule: Rule, moved: Sequence[int]) -> bool:
    """Whether what moves is one set of inputs in which the operator is linear, times another."""
    return any(set(moved) <= one | other for one in rule.linear for other in rule.linear)


def _through(
    op: Emitter,
    node: NodeView,
    reference: NodeView,
    rule: Rule,
    forward: Forward,
    gradients: Sequence[Value | None],
    moved: Sequence[int],
    references: dict[str, Value],
    moving: set[str],
    own: dict[str, Value],
) -> Gradients:
    """The secant of the standard operators that a node stands for, recomputed at x and at x'."""
    here, there = staged(op, node, forward), staged(op, reference, forward)
    there.append_to(op)
    moving.update(x.name for k, x in enumerate(here.inputs) if k in moved and x is not None)
    for ours, theirs in zip(here.inner.graph.nodes, there.inner.graph.nodes, strict=True):
        if depends(ours, moving):
            moving.update(z.name for z in ours.outputs)
        references.update((z.name, w) for z, w in zip(ours.outputs, theirs.outputs, strict=True))
    for made, z, w in zip(here.outputs, node.outputs, reference.outputs, strict=False):
        if made is not None and z is not None and w is not None and not rule.approximate:
            own[made.name], references[made.name] = z, w
    if rule.approximate:
        pairs = zip(here.outputs, there.outputs, strict=True)
        changes = [x and y and op("Sub", x, y) for x, y in pairs]
        gradients = [
            g if g is None or made is None else _rescaled(op, g, made, node.outputs[k], reference.outputs[k])
            for k, (g, made) in enumerate(zip(gradients, changes, strict=False))
        ]
    return here.back(op, node, gradients)


def _rescaled(op: Emitter, g: Value, made: Value, z: Value | None, w: Value | None) -> Value:
    """`g` for an output that changes by z - w where what stands for it changes by `made`."""
    assert z is not None
    assert w is not None
    change = op("Sub", z, w)
    small = op("LessOrEqual", op("Abs", made), op.like(made, 1e-6))
    return op("Mul", g, quotient(op, change, made, small, op.like(made, 1)))
