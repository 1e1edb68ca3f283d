"""Layer-wise relevance propagation (Bach et al. 2015): the relevance of a tensor from that of what is made of it.

It begins with the target's value. Operators with weights follow the rules of `weights`, chosen for all, by a composite
for each kind (as Zennit has them), or by name. Everything else has one treatment, derived from the gradient:

- what moves elements, or takes one of several, takes their relevance along: Reshape, Concat, MaxPool, Max;
- another linear operator follows the rule epsilon: Add, Sub, Sum, average pools, Resize, BatchNormalization;
- Add of a constant, or a BatchNormalization after a convolution, is a part of the operator with weights before it;
- an activation passes relevance as it is: all those with f(0) = 0;
- a product with what does not depend on the source passes it too; a gate (a sigmoid, a softmax, the 1 + erf of a
  Gelu, the inverse deviation of a normalisation) leaves all to the other factor; other factors take half each;
- normalisations are what they are made of: the deviation is such a gate;
- LSTM, GRU and RNN follow epsilon, with their gates as constants (Arras et al. 2017).

All else is refused, unless a rule is named for it: `identity` passes relevance as it is, `epsilon` is the gradient
times the values, `derivative` takes relevance for a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_quantised
from onnx_attribution.graph_tools.operators import VJP, NodeView, Rule, RuleTable
from onnx_attribution.graph_tools.operators.decompose import staged
from onnx_attribution.graph_tools.operators.recurrent.cells import CELLS, multipliers
from onnx_attribution.graph_tools.operators.recurrent.directions import INITIAL_C, INITIAL_H, X
from onnx_attribution.graph_tools.operators.registry import Gradients, Key, RuleFunction
from onnx_attribution.graph_tools.operators.transpose import known_inside, number_of
from onnx_attribution.graph_tools.relevance.carried import apart, made_by, raw, share, times
from onnx_attribution.graph_tools.relevance.weights import (
    Chosen,
    Numbers,
    Product,
    differ,
    reads_source,
    shared,
)

ROUTES = frozenset([
    "Cast", "CastLike", "CenterCropPad", "Compress", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten",
    "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Identity", "Max", "MaxPool", "MaxRoiPool",
    "MaxUnpool", "Min", "OptionalGetElement", "Pad", "ReduceMax", "ReduceMin", "Reshape", "ReverseSequence",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze",
    "Where",
])  # fmt: skip
"""Operators each of whose outputs is one of the inputs, or nothing."""
PASS = frozenset([
    "Abs", "Asinh", "Atan", "Celu", "Clip", "Elu", "Erf", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu",
    "QuickGelu", "Relu", "Selu", "Shrink", "Sinh", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
])  # fmt: skip
"""Activations: f(0) = 0."""
QUANTISING = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""What stands for the same numbers in another type."""
SCALES = frozenset({"Div", "Mul"})
"""Products with what does not depend on the source, as Neg is one."""
MADE = frozenset([
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization",
    "RMSNormalization", "SimplifiedLayerNormalization",
])  # fmt: skip
"""Normalisations, which are followed through the operators that they are made of."""
GATES = frozenset({"HardSigmoid", "Reciprocal", "Sigmoid", "Softmax"})
BENT = frozenset({"Clip", "Erf", "Tanh"}) | GATES
"""What makes a gate with numbers added and multiplied."""
ALONG = frozenset(
    {"Cast", "Dropout", "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Where"}
)
STANDARD = (None, "", "ai.onnx")
BIASED = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
COMPOSITES = {
    "none": ("", "", ""),
    "epsilon_plus": ("zplus", "epsilon", ""),
    "epsilon_plus_flat": ("zplus", "epsilon", "flat"),
    "epsilon_alpha2_beta1": ("alpha_beta", "epsilon", ""),
    "epsilon_alpha2_beta1_flat": ("alpha_beta", "epsilon", "flat"),
    "epsilon_gamma_box": ("gamma", "epsilon", "box"),
}
"""The rules of convolutions, of products of matrices, and of those that read the source; "" is as without one."""

EPSILON = Chosen("epsilon")


@dataclass(frozen=True)
class Lrp:
    """Which rule is followed where. `first`: by the operators with weights that read the source, before any other;
    `named`: by nodes, by their name, the name of their output or their operator."""

    convolution: Chosen = EPSILON
    dense: Chosen = EPSILON
    first: Chosen | None = None
    named: tuple[tuple[str, Chosen], ...] = ()
    numbers: Numbers = field(default_factory=Numbers)

    def by_name(self, node: NodeView) -> Chosen | None:
        """The rule that is named for a node."""
        return self.named_for(node.name, node.operator, (z.name for z in node.outputs if z is not None))

    def named_for(self, name: str, operator: str, outputs: Iterable[str]) -> Chosen | None:
        """The first rule that is named for one of these."""
        names = {name, operator, *outputs}
        return next((chosen for one, chosen in self.named if one in names), None)

    def by_kind(self, node: NodeView, data: int, rule: Rule) -> Chosen:
        """That of an operator with weights."""
        if self.first is not None and reads_source(node.input(data)):
            return self.first
        return self.dense if "dense" in rule.kinds or node.operator == "Einsum" else self.convolution


@lru_cache(maxsize=64)
def lrp(asked: Lrp) -> RuleTable:
    """The table of the rules."""
    return {key: replace(rule, vjp=_rule(key, rule, asked), sparse=True) for key, rule in VJP.items()}


def _rule(key: Key, rule: Rule, asked: Lrp) -> RuleFunction:
    treat = _treatment(key, rule, asked)

    def follow(op: Emitter, node: NodeView, *relevance: Value | None) -> Gradients:
        if all(one is None for one in relevance):
            return [None] * len(node.inputs)
        own = replace(node, outputs=tuple(raw(op, z) if z is not None else None for z in node.outputs))
        if (chosen := asked.by_name(own)) is not None:
            return _named(op, node, rule, relevance, chosen, asked)
        return treat(op, node, *relevance)

    return follow


def _treatment(key: Key, rule: Rule, asked: Lrp) -> RuleFunction:
    """What a node without a rule of its own does."""
    name = key[1]
    if name in ROUTES:
        return lambda op, node, *r: _routed(op, node, rule, r)
    if name in PASS | QUANTISING:
        return lambda op, node, *r: _passed(node, r)
    if rule.composite or name in ("If", "Loop", "Scan"):
        return rule.vjp
    if name in CELLS:
        return lambda op, node, *r: _recurrent(op, node, r, asked)

    def treat(op: Emitter, node: NodeView, *r: Value | None) -> Gradients:
        moved = [k for k, active in enumerate(node.active) if active]
        if is_weighted(node, rule) and len(moved) == 1 and moved[0] < 2:
            return _weighted(op, node, rule, r[0], moved[0], asked)
        if name == "Neg" or (name in SCALES and len(moved) == 1 and rule.is_linear_in(node, moved)):
            return _scaled(op, node, rule, r[0], moved[0])
        if rule.is_linear_in(node, moved):
            if name == "Sub" and len(moved) == 1 and _stands_for_integers(node.input(moved[0])):
                return [r[0] if k == moved[0] else None for k in range(2)]  # less its zero point
            if name in ("Add", "BatchNormalization") and (data := follows(op, node, asked)) is not None:
                return [r[0] if k == data else None for k in range(len(node.inputs))]
            return _epsilon(op, node, rule, r, asked)
        if name == "Div":
            return [r[0], None]
        if rule.bilinear and len(moved) == 2:
            return _factors(op, node, rule, r[0], asked)
        if name in MADE and (forward := rule.forward_of(node)) is not None:
            return staged(op, node, forward).back(op, node, r)
        raise _refusal(node)

    return treat


def _stands_for_integers(x: Value) -> bool:
    """Whether a tensor holds quantised numbers as floats."""
    while (maker := made_by(x)) is not None and maker.op in ("Cast", "Identity"):
        x = maker.inputs[0]
        if is_quantised(x):
            return True
    return False


def _refusal(node: NodeView) -> NotDifferentiable:
    return NotDifferentiable(
        f"LRP has no rule for {node.operator} (node {node.name!r}, output {node.z.name!r}); explain what is before it "
        f"(logit=True of a last Softmax or Sigmoid), or name a rule for it: rules={node.z.name + '=identity'!r} passes "
        "relevance as it is, '=epsilon' is the gradient times the values",
        reason=Reason.NO_RULE, node=node.name, operator=node.operator, tensor=node.z.name,
    )  # fmt: skip


Relevance = Sequence[Value | None]


def _recurrent(
    op: Emitter, node: NodeView, r: Relevance, asked: Lrp, chosen: Chosen | None = None
) -> Gradients:
    """By epsilon, with the gates as constants."""
    moved = {k for k, active in enumerate(node.active) if active}
    if moved - {X, INITIAL_H, INITIAL_C}:
        raise _no_recurrent(node, "weights or lengths that depend on the source")
    first = asked.first
    if chosen is None and first is not None and first.rule != "epsilon" and reads_source(node.input(X)):
        raise _no_recurrent(
            node, f"{first.rule}, which is asked of what reads the source: name epsilon for it, "
            f"rules={node.operator + '=epsilon'!r}",
        )  # fmt: skip
    epsilon = (asked.numbers if chosen is None else asked.numbers.of(chosen)).epsilon
    m = [
        None if one is None or z is None else share(op, one, z, 0.0)
        for one, z in zip(r, node.outputs, strict=False)
    ]
    found = multipliers(op, node, epsilon, m)
    if found is None:
        raise _no_recurrent(node, "an activation that is not 0 at 0")
    pairs = zip(node.inputs, found, strict=False)
    return [None if x is None or g is None else times(op, x, g) for x, g in pairs]


def _no_recurrent(node: NodeView, what: str) -> NotDifferentiable:
    tensor = next(z.name for z in node.outputs if z is not None)
    return NotDifferentiable(
        f"LRP follows epsilon through {node.operator} (node {node.name!r}, output {tensor!r}), with its gates as "
        f"constants, and has no rule for {what}",
        reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=tensor,
    )  # fmt: skip


def _named(op: Emitter, node: NodeView, rule: Rule, r: Relevance, chosen: Chosen, asked: Lrp) -> Gradients:
    """By a rule that is named for the node."""
    moved = [k for k, active in enumerate(node.active) if active]
    if chosen.rule == "derivative":
        return rule.vjp(op, node, *r)
    if is_weighted(node, rule) and len(moved) == 1 and moved[0] < 2:
        return _weighted(op, node, rule, r[0], moved[0], asked, chosen)
    if chosen.rule == "identity":
        x = node.inputs[moved[0]] if len(moved) == 1 else None
        if x is None or r[0] is None or differ(x, node.z):
            raise NotDifferentiable(
                "the rule identity passes relevance as it is, from the only input that depends on the source to an "
                f"output of its shape; {node.operator} (node {node.name!r}) is not of that kind: name epsilon for it",
                reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator,
            )  # fmt: skip
        return [r[0] if active else None for active in node.active]
    if chosen.rule == "epsilon" and node.operator in CELLS:
        return _recurrent(op, node, r, asked, chosen)
    if chosen.rule == "epsilon":
        return _epsilon(op, node, rule, r, asked, chosen)
    raise NotDifferentiable(
        f"the rule {chosen.rule} is for products with weights, not for {node.operator} (node {node.name!r}); there "
        "may be identity, epsilon and derivative",
        reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator,
    )  # fmt: skip


def _routed(op: Emitter, node: NodeView, rule: Rule, r: Relevance) -> Gradients:
    """As multipliers where all are known to be such, so that the next rule need not divide."""
    pairs = [None if one is None else apart(op, one) for one in r]
    known = [
        one is None or (pair is not None and pair[0] is z)
        for one, pair, z in zip(r, pairs, node.outputs, strict=False)
    ]
    if not all(known):
        return rule.vjp(op, node, *r)
    found = rule.vjp(op, node, *(pair and pair[1] for pair in pairs))
    made: list[Value | None] = []
    for x, g in zip(node.inputs, found, strict=False):
        if g is not None and x is not None and g.shape is None and not rule.elementwise:
            g.shape = x.shape
        made.append(None if g is None or x is None else times(op, x, g))
    return made


def _passed(node: NodeView, r: Relevance) -> Gradients:
    return [r[0], *[None] * (len(node.inputs) - 1)]


def _scaled(op: Emitter, node: NodeView, rule: Rule, r: Value | None, data: int) -> Gradients:
    """The only factor that counts takes all; where it is 0 the multiplier says what it is worth."""
    assert r is not None
    pair = apart(op, r)
    if pair is None or pair[0] is not node.z:
        return [r if k == data else None for k in range(len(node.inputs))]
    found = rule.vjp(op, node, pair[1])[data]
    assert found is not None
    made = times(op, node.input(data), found)
    return [made if k == data else None for k in range(len(node.inputs))]


def _epsilon(
    op: Emitter, node: NodeView, rule: Rule, r: Relevance, asked: Lrp, chosen: Chosen | None = None
) -> Gradients:
    """The gradient times the values, of what arrives over the outputs."""
    epsilon = asked.numbers.epsilon if chosen is None else asked.numbers.of(chosen).epsilon
    parts = [
        None if one is None or z is None else share(op, one, z, epsilon)
        for one, z in zip(r, node.outputs, strict=False)
    ]
    found = rule.vjp(op, node, *parts)
    pairs = zip(node.inputs, found, node.active, strict=False)
    return [times(op, x, g) if g is not None and x is not None and active else None for x, g, active in pairs]


def _factors(op: Emitter, node: NodeView, rule: Rule, r: Value | None, asked: Lrp) -> Gradients:
    """Of two factors a gate leaves all to the other; else each takes half."""
    x, y = node.input(0), node.input(1)
    gates = [is_gate(op, x), is_gate(op, y)]
    found = _epsilon(op, node, rule, [r], asked)
    if gates[0] != gates[1]:
        return [None if gate else one for one, gate in zip(found, gates, strict=False)]
    return [None if one is None else op("Mul", one, op.like(one, 0.5)) for one in found]


def is_gate(op: Emitter, value: Value, bent: bool = False, depth: int = 12) -> bool:
    """Whether a tensor is a factor between two bounds, or an inverse size: it says how much of the other passes."""
    maker = made_by(raw(op, value))
    if maker is None or not depth:
        return False
    if maker.op in (BENT if bent else GATES):
        return True
    if maker.op == "Clip":
        return (
            len(maker.inputs) == 3
            and number_of(maker.inputs[1]) == 0
            and known_inside(maker.inputs[2]) is not None
        )
    if maker.op in ALONG:
        data = maker.inputs[1] if maker.op == "Where" else maker.inputs[0]
        return is_gate(op, data, bent, depth - 1)
    if maker.op in ("Add", "Div", "Mul", "Sub"):
        x, y = maker.inputs
        if maker.op == "Div" and known_inside(x) is not None:
            return True
        others = [one for one in (x, y) if known_inside(one) is None]
        added = maker.op in ("Add", "Sub")
        return len(others) == 1 and is_gate(op, others[0], bent or added, depth - 1)
    return False


# --- operators with weights


def is_weighted(node: NodeView, rule: Rule) -> bool:
    return "weighted" in rule.kinds or (node.operator == "Einsum" and len(node.inputs) == 2)


def _weighted(
    op: Emitter,
    node: NodeView,
    rule: Rule,
    r: Value | None,
    data: int,
    asked: Lrp,
    chosen: Chosen | None = None,
) -> Gradients:
    assert r is not None
    own, z, factor = node.optional(2), node.z, None
    bias, inside = own, own is not None
    after = _after(op, raw(op, z), asked)
    if after is not None and after.op == "Add":
        bias = next(op.cast(x, z.dtype) for x in after.inputs if known_inside(x) is not None)
    elif after is not None:
        factor, bias = _affine(op, after, own, z)
        inside = True
    if after is not None:
        z = op.cast(after.outputs[0], z.dtype)
    product = Product(op, node, data, 1 - data, bias, inside, z, factor)
    found = shared(product, r, chosen or asked.by_kind(node, data, rule), asked.numbers)
    return [found if k == data else None for k in range(len(node.inputs))]


def _affine(op: Emitter, norm: gs.Node, bias: Value | None, z: Value) -> tuple[Value, Value]:
    """What a BatchNormalization multiplies by and adds, with the bias before it, for each channel."""
    scale, offset, mean, variance = (np.asarray(known_inside(x), np.float64) for x in norm.inputs[1:5])
    factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    kind, moved = element_type(z), offset - mean * factor
    made = op.constant(factor.astype(kind))
    if bias is None:
        return made, op.constant(moved.astype(kind))
    known = known_inside(bias)
    if known is not None:
        return made, op.constant((moved + np.asarray(known, np.float64) * factor).astype(kind))
    return made, op("Add", op("Mul", bias, made), op.constant(moved.astype(kind)))


def _after(op: Emitter, z: Value, asked: Lrp) -> gs.Node | None:
    """What is a part of the operator with weights that makes z, as it is all that reads it: an Add of its bias, or the
    BatchNormalization of its channels."""
    maker, readers = made_by(z), [one for one in z.outputs if not op.has_made(one)]
    if maker is None or len(readers) != 1 or any(one.domain not in STANDARD for one in (maker, readers[0])):
        return None
    if asked.named_for(readers[0].name, readers[0].op, (out.name for out in readers[0].outputs)) is not None:
        return None
    reader = readers[0]
    constants = [known_inside(x) is not None for x in reader.inputs]
    if reader.op == "Add" and maker.op in BIASED and len(maker.inputs) == 2:
        return reader if sum(constants) == 1 and _one_moves(maker) else None
    if reader.op != "BatchNormalization" or maker.op not in ("Conv", "ConvTranspose"):
        return None
    known = reader.inputs[0] is z and all(constants[1:5]) and not reader.attrs.get("training_mode", 0)
    grouped = maker.op == "ConvTranspose" and maker.attrs.get("group", 1) != 1
    return reader if known and not grouped and _one_moves(maker) else None


def _one_moves(maker: gs.Node) -> bool:
    """Whether only one of the factors can depend on the source: the weights are known."""
    return sum(_is_known(x) for x in maker.inputs[:2]) == 1


def _is_known(x: Value, depth: int = 8) -> bool:
    if isinstance(x, gs.Constant):
        return True
    maker = made_by(x)
    return maker is not None and depth > 0 and all(_is_known(one, depth - 1) for one in maker.inputs)


def follows(op: Emitter, node: NodeView, asked: Lrp) -> int | None:
    """The input that an operator with weights makes, of which the node is a part."""
    for k, x in enumerate(node.inputs):
        if x is None or known_inside(x) is not None:
            continue
        after = _after(op, raw(op, x), asked)
        if after is not None and after.name == node.name:
            return k
    return None
