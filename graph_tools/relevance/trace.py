"""The walk of fb_trace: z+ with every bias left out, which drops what is below a threshold at each tensor.

What arrives at an output is shared among the positive terms of its inputs, or lost where there are none. So no step
makes it more, and a threshold in proportion to what began leaves supports that are nested: the walk is linear until
something is dropped. The threshold is a constant, and what begins is that over tau, so that samples of one run may have
several.

- operators with weights follow zplus of `weights`; those that read the source may follow `absolute`, by |x w|;
- Add, Sub, Sum and Mean share by the positive parts of their terms, average pools by those of what they average;
- a factor or a term that does not depend on the source, as a BatchNormalization, passes where its term is above 0;
- a max pool, as all that moves elements, passes to where its output is from, and an activation passes;
- of two factors a gate leaves all to the other, others take half each.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, shape_of
from onnx_attribution.graph_tools.operators import VJP, NodeView, Rule, RuleTable
from onnx_attribution.graph_tools.operators.gates import above
from onnx_attribution.graph_tools.operators.recurrent.cells import CELLS
from onnx_attribution.graph_tools.operators.registry import Gradients, Key, RuleFunction
from onnx_attribution.graph_tools.relevance import lrp as tables
from onnx_attribution.graph_tools.relevance.carried import raw, share
from onnx_attribution.graph_tools.relevance.weights import Chosen, Numbers, Product, reads_source, shared

LEVEL = 2.0**-12
"""The threshold: so low that what begins, LEVEL / tau, is a number of half types too."""
KEPT = LEVEL * (1 - 2.0**-20)
"""From here on something is kept: LEVEL, but for the rounding of float32."""
TERMS = frozenset({"Add", "Mean", "Sub", "Sum"})
MEANS = frozenset(
    {"AveragePool", "CumSum", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Resize", "Upsample"}
)
"""Linear in their first input, without a coefficient below 0, unless a Resize is cubic."""
NUMBERS = Numbers(epsilon=0.0, zero_bias=True)


class Trace(NamedTuple):
    """`threshold`: drop what is below LEVEL. `absolute`: what reads the source shares by |x w|."""

    threshold: bool = True
    absolute: bool = False


@lru_cache(maxsize=8)
def trace(asked: Trace) -> RuleTable:
    """The table of the walk."""
    return {key: replace(rule, vjp=_rule(key, rule, asked), sparse=True) for key, rule in VJP.items()}


def _rule(key: Key, rule: Rule, asked: Trace) -> RuleFunction:
    zplus = Chosen("zplus")
    first = Chosen("absolute") if asked.absolute else None
    weighted = tables.lrp(tables.Lrp(zplus, zplus, first, numbers=NUMBERS))[key].vjp

    def follow(op: Emitter, node: NodeView, *arrived: Value | None) -> Gradients:
        r = [kept(op, one) if asked.threshold and one is not None else one for one in arrived]
        if all(one is None for one in r):
            return [None] * len(node.inputs)
        moved = [k for k, active in enumerate(node.active) if active]
        name, first_output = key[1], r[0]
        if first_output is not None:
            if name in TERMS and len(moved) > 1:
                return _terms(op, node, first_output, asked)
            if name in MEANS and moved == [0] and node.attribute("mode") != "cubic":
                return [_mean(op, node, rule, first_output, asked), *[None] * (len(node.inputs) - 1)]
            if _is_part_of_weights(op, node):
                return weighted(op, node, *r)
            if len(moved) == 1 and (term := _term(op, node, moved[0])) is not None:
                size = _whole(term, node.input(moved[0]), asked)
                passed = first_output if size else _where_above(op, term, first_output)
                return [passed if k == moved[0] else None for k in range(len(node.inputs))]
            if rule.bilinear and len(moved) == 2:
                return _factors(op, node, first_output)
        if name in CELLS or _is_left(node, rule, name, moved):
            raise _refusal(node)
        try:
            return weighted(op, node, *r)
        except NotDifferentiable as error:
            raise (_refusal(node) if error.reason == Reason.NO_RULE else error) from error

    return follow


def kept(op: Emitter, r: Value) -> Value:
    """What is not dropped."""
    if element_type(r) == np.float32 and len(shape_of(r) or ()) == 4:
        counts = above(op, r, KEPT, reached=True)
        assert counts is not None
        found = op("Mul", r, counts)
        found.shape = r.shape
        return found
    found = op("Where", op("Less", r, op.like(r, KEPT)), op.like(r, 0), r)
    found.shape = r.shape
    return found


def _is_left(node: NodeView, rule: Rule, name: str, moved: list[int]) -> bool:
    """Whether the rule of LRP would be by terms of both signs."""
    inner = name in ("If", "Loop", "Scan")
    passed = name in tables.ROUTES | tables.PASS | tables.QUANTISING or rule.composite or inner
    weights = tables.is_weighted(node, rule) and len(moved) == 1 and moved[0] < 2
    return not passed and not weights and rule.is_linear_in(node, moved)


def _is_part_of_weights(op: Emitter, node: NodeView) -> bool:
    """Whether an operator with weights before it takes the node for its bias."""
    own = replace(node, outputs=tuple(raw(op, z) if z is not None else None for z in node.outputs))
    return node.operator in ("Add", "BatchNormalization") and tables.follows(op, own, LRP) is not None


LRP = tables.Lrp()


def _whole(term: Value, x: Value, asked: Trace) -> bool:
    """Whether the magnitude of a term counts: it reads the source."""
    return asked.absolute and reads_source(x)


def _term(op: Emitter, node: NodeView, moved: int) -> Value | None:
    """The only term of a node whose other inputs are constants; None: it is not of that kind."""
    x, name = node.input(moved), node.operator
    if name in ("Mul", "Neg") or (name == "Div" and moved == 0):
        return node.z
    if name in ("Add", "Sub", "Sum", "Mean"):
        found = op("Neg", x) if name == "Sub" and moved == 1 else x
        return found
    if name == "BatchNormalization" and moved == 0 and not node.attribute("training_mode", 0):
        rank = len(x.shape or ())
        scale = op("Reshape", node.input(1), op.ints([-1 if k == 1 else 1 for k in range(rank)]))
        return op("Mul", x, scale) if rank else None
    return None


def _where_above(op: Emitter, term: Value, r: Value) -> Value:
    return op("Where", op("Greater", term, op.like(term, 0)), r, op.like(r, 0))


def _sized(op: Emitter, x: Value, asked: Trace) -> Value:
    """What of x counts."""
    found = op("Abs" if asked.absolute and reads_source(x) else "Relu", x)
    found.shape = x.shape
    return found


def _terms(op: Emitter, node: NodeView, r: Value, asked: Trace) -> Gradients:
    sizes: list[Value | None] = []
    for k, (x, active) in enumerate(zip(node.inputs, node.active, strict=True)):
        if x is None or not active:
            sizes.append(None)
        elif node.operator == "Sub" and k == 1:
            negative = op("Neg", x)
            negative.shape = x.shape
            whole = asked.absolute and reads_source(x)
            sizes.append(op("Abs" if whole else "Relu", negative))
        else:
            sizes.append(_sized(op, x, asked))
    total = op("Sum", *[size for size in sizes if size is not None])
    total.shape = node.z.shape
    part = share(op, r, total, 0.0, 1)
    return [None if size is None else op("Mul", size, part) for size in sizes]


def _mean(op: Emitter, node: NodeView, rule: Rule, r: Value, asked: Trace) -> Value:
    size = _sized(op, node.input(0), asked)
    made = node.again(op, size, *node.inputs[1:])
    made.dtype, made.shape = size.dtype, node.z.shape
    view = replace(node, inputs=(size, *node.inputs[1:]), outputs=(made, *node.outputs[1:]))
    spread = rule.vjp(op, view, share(op, r, made, 0.0, 1))[0]
    assert spread is not None
    found = op("Mul", size, spread)
    found.shape = size.shape
    return found


def _factors(op: Emitter, node: NodeView, r: Value) -> Gradients:
    gates = [tables.is_gate(op, node.input(k)) for k in (0, 1)]
    if node.operator == "Mul" and gates[0] == gates[1]:
        half = op("Mul", r, op.like(r, 0.5))
        return [half, half]
    if gates[0] == gates[1]:
        raise _refusal(node)
    data = gates.index(False)
    if node.operator == "Mul":
        return [r if k == data else None for k in (0, 1)]
    product = Product(op, node, data, 1 - data, None, False, node.z)
    found = shared(product, r, Chosen("zplus"), NUMBERS)
    return [found if k == data else None for k in range(len(node.inputs))]


def _refusal(node: NodeView) -> NotDifferentiable:
    tensor = next(z.name for z in node.outputs if z is not None)
    return NotDifferentiable(
        f"fb_trace of the form positive has no rule for {node.operator} (node {node.name!r}, output "
        f"{tensor!r}); explain what is before it (logit=True of a last Softmax or Sigmoid), or take the form "
        "signed",
        reason=Reason.NO_RULE, node=node.name, operator=node.operator, tensor=tensor,
    )  # fmt: skip
