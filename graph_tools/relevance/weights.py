"""Layer-wise relevance propagation through operators with weights: rules from the operator and its gradient.

With z = f(x, w) + b linear in x, `w+` and `w-` the positive and negative parts, and V_w(s) the gradient of f with
weights w, each rule shares the relevance R of z among the elements of x; x+ w+ and x- w- make the positive terms x w:

- epsilon: x V_w(R / z), where every divisor z means z + epsilon sign z, with the sign of 0 above;
- zplus: by the positive terms alone; alpha_beta: alpha by these less beta by the negative ones;
- gamma: by all terms and gamma times those of the sign of z more, z = 0 nothing;
- absolute: by |x w|, without the bias;
- w2: by the squared weights, flat: evenly; box: by x w - low w+ - high w-, with what x may be where the source is
  within its bounds, or of an operator that does not read the source what these are of; identity: as it is.

What a bias takes of a divisor is lost to it; it has part in w2, flat and box in none. Captum's form takes w+ (zplus) or
w + gamma w+ (gamma) in place of w in epsilon's rule, whatever the sign of x, and the bias as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_static, shape_of
from onnx_attribution.graph_tools.operators import VJP, NodeView
from onnx_attribution.graph_tools.relevance.bounds import Bound, bounds_at, laid
from onnx_attribution.graph_tools.relevance.carried import apart, is_relu_of, made_by, share, times

KEPT = 1 << 22  # elements of a constant that a program may hold once more, so that it is not made at each run
CLOSED = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus"})
"""Operators whose output is never below 0."""
KEEPING = frozenset([
    "AveragePool", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool",
    "GlobalMaxPool", "Identity", "MaxPool", "ReduceMax", "ReduceMean", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Sum", "Transpose", "Unsqueeze",
])  # fmt: skip
"""Operators whose output is never below 0 where no input is."""


@dataclass(frozen=True)
class Chosen:
    """A rule by its name; `number` in place of the gamma or epsilon of the settings."""

    rule: str
    number: float | None = None


@dataclass(frozen=True)
class Numbers:
    """What the rules are given."""

    epsilon: float = 1e-9
    gamma: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0
    low: Bound = 0.0
    high: Bound = 1.0
    captum: bool = False
    zero_bias: bool = False

    def of(self, chosen: Chosen) -> Numbers:
        """With the number of a rule that has its own."""
        if chosen.number is None:
            return self
        if chosen.rule == "gamma":
            return replace(self, gamma=chosen.number)
        return replace(self, epsilon=chosen.number)


@dataclass(frozen=True)
class Product:
    """A node with weights: `data` and `weight` are numbers of its inputs, `bias` what is added, by the node itself
    where it is `inside`, and `z` the sum. `factor`: by what a normalisation that follows multiplies each channel,
    before `bias` is added."""

    op: Emitter
    node: NodeView
    data: int
    weight: int
    bias: Value | None
    inside: bool
    z: Value
    factor: Value | None = None

    @property
    def x(self) -> Value:
        return self.node.input(self.data)

    @property
    def w(self) -> Value:
        """The weights, times the factor."""
        w, op = self.node.input(self.weight), self.op
        if self.factor is None:
            return w
        factor = self._laid(w, 1 if self.node.operator == "ConvTranspose" else 0)
        if isinstance(w, gs.Constant) and isinstance(factor, gs.Constant) and np.prod(w.shape) <= KEPT:
            return op.constant(np.asarray(w.values * factor.values).astype(w.dtype))
        found = op("Mul", w, factor)
        found.shape = w.shape
        return found

    def plain_back(self, s: Value) -> Value:
        """V_w(s) by the node's own weights, of which there is no copy then."""
        if self.factor is not None:
            shape = s.shape
            s = self.op("Mul", s, self._laid(s, 1))
            s.shape = shape
        return self.back(self.node.input(self.weight), s)

    def _laid(self, like: Value, axis: int) -> Value:
        """The factor along an axis."""
        rank = len(shape_of(like) or ())
        assert self.factor is not None
        shape = [-1 if k == axis else 1 for k in range(rank)]
        if isinstance(self.factor, gs.Constant):
            return self.op.constant(np.asarray(self.factor.values).reshape(shape))
        return self.op("Reshape", self.factor, self.op.ints(shape))

    def made(self, x: Value, w: Value, bias: Value | None = None) -> Value:
        """f(x, w) + bias."""
        node, op = self.node, self.op
        inputs = [x, w] if self.data < self.weight else [w, x]
        if bias is not None and self.inside:
            inputs.append(bias)
        found = node.again(op, *inputs)
        found.dtype, found.shape = x.dtype, node.z.shape
        if bias is not None and not self.inside:
            found = op("Add", found, bias)
        return found

    def back(self, w: Value, s: Value) -> Value:
        """V_w(s)."""
        inputs = list(self.node.inputs)
        inputs[self.weight] = w
        view = replace(self.node, inputs=tuple(inputs))
        found = VJP[self.node.domain, self.node.operator].vjp(self.op, view, s)[self.data]
        assert found is not None
        if found.shape is None:
            found.shape = self.x.shape
        return found

    def changed(self, value: Value, by: Callable[[Any], Any], emit: Callable[[Value], Value]) -> Value:
        """A weight or bias changed: a constant where it is one that is not large."""
        if isinstance(value, gs.Constant) and np.prod(value.shape) <= KEPT:
            return self.op.constant(np.asarray(by(np.asarray(value.values))).astype(value.dtype))
        found = emit(value)
        found.shape = value.shape
        return found

    def positive(self, value: Value) -> Value:
        return self.changed(value, lambda v: np.maximum(v, 0), lambda v: self.op("Relu", v))

    def negative(self, value: Value) -> Value:
        return self.changed(
            value, lambda v: np.minimum(v, 0), lambda v: self.op("Min", v, self.op.like(v, 0))
        )

    def raised(self, value: Value, part: Value, gamma: float) -> Value:
        """The value and gamma times a part of it."""
        if isinstance(value, gs.Constant) and isinstance(part, gs.Constant):
            return self.op.constant(np.asarray(value.values + gamma * part.values).astype(value.dtype))
        return self.op("Add", value, self.op("Mul", part, self.op.like(part, gamma)))


def shared(product: Product, relevance: Value, chosen: Chosen, numbers: Numbers) -> Value:
    """The relevance of x."""
    numbers = numbers.of(chosen)
    if numbers.zero_bias:
        product = replace(
            product, bias=None, z=product.made(product.x, product.w) if product.bias else product.z
        )
    return RULES[chosen.rule](product, relevance, numbers)


def _epsilon(product: Product, relevance: Value, numbers: Numbers) -> Value:
    s = share(product.op, relevance, product.z, numbers.epsilon)
    return times(product.op, product.x, product.plain_back(s))


def _by_terms(
    product: Product,
    relevance: Value,
    numbers: Numbers,
    first: Value,
    second: Value,
    bias: Value | None,
    sign: int = 0,
) -> Value:
    """By x+ first + x- second and the bias, whose sum has this sign, if one is known: the multiplier of x."""
    op, x = product.op, product.x
    if never_below(x):
        s = share(op, relevance, product.made(x, first, bias), numbers.epsilon, sign)
        return product.back(first, s)
    zero = op.like(x, 0)
    up, down = op("Max", x, zero), op("Min", x, zero)
    up.shape = down.shape = x.shape
    total = op("Add", product.made(up, first, bias), product.made(down, second))
    total.shape = product.z.shape
    s = share(op, relevance, total, numbers.epsilon, sign)
    return op("Where", op("Greater", x, zero), product.back(first, s), product.back(second, s))


def _zplus(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op, b = product.op, product.bias
    up = product.positive(product.w)
    if numbers.captum:
        return _with(product, up, relevance, numbers)
    bias = None if b is None else product.positive(b)
    return times(
        op, product.x, _by_terms(product, relevance, numbers, up, product.negative(product.w), bias, 1)
    )


def _alpha_beta(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op, x, b = product.op, product.x, product.bias
    if numbers.captum:  # alpha 1 and beta 0, else it is refused before
        return _zplus(product, relevance, numbers)
    up, down = product.positive(product.w), product.negative(product.w)
    parts = (None, None) if b is None else (product.positive(b), product.negative(b))
    found = _by_terms(product, relevance, numbers, up, down, parts[0], 1)
    found = op("Mul", found, op.like(found, numbers.alpha))
    if numbers.beta:
        other = _by_terms(product, relevance, numbers, down, up, parts[1], -1)
        found = op("Sub", found, op("Mul", other, op.like(other, numbers.beta)))
    return times(op, x, found)


def _gamma(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op, x, b = product.op, product.x, product.bias
    w, gamma = product.w, numbers.gamma
    up = product.raised(w, product.positive(w), gamma)
    if numbers.captum:
        return _with(product, up, relevance, numbers)
    down = product.raised(w, product.negative(w), gamma)
    parts: list[Value | None] = [None, None]
    if b is not None:
        parts = [product.raised(b, part, gamma) for part in (product.positive(b), product.negative(b))]
    pair = apart(op, relevance)
    if pair is not None and is_relu_of(op, pair[0], product.z):  # none arrives where z is not above 0
        return times(op, x, _by_terms(product, relevance, numbers, up, down, parts[0]))
    zero, none = op.like(product.z, 0), op.like(relevance, 0)
    above = op("Where", op("Greater", product.z, zero), relevance, none)
    below = op("Where", op("Less", product.z, zero), relevance, none)
    terms = (
        _by_terms(product, above, numbers, up, down, parts[0]),
        _by_terms(product, below, numbers, down, up, parts[1]),
    )
    return times(op, x, op("Add", *terms))


def _with(product: Product, w: Value, relevance: Value, numbers: Numbers) -> Value:
    """Epsilon's rule with other weights, and the bias as it is."""
    op, x = product.op, product.x
    s = share(op, relevance, product.made(x, w, product.bias), numbers.epsilon)
    return times(op, x, product.back(w, s))


def _squared(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op = product.op
    return _blind(product, relevance, product.changed(product.w, np.square, lambda v: op("Mul", v, v)))


def _flat(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op = product.op
    ones = product.changed(product.w, np.ones_like, lambda v: op("Add", op("Mul", v, 0), op.like(v, 1)))
    return _blind(product, relevance, ones)


def _blind(product: Product, relevance: Value, w: Value) -> Value:
    """Whatever x is, by weights that are not below 0."""
    op, x = product.op, product.x
    ones = op("Expand", op.like(x, 1), op.shape(x))
    ones.shape = x.shape
    return product.back(w, share(op, relevance, product.made(ones, w), 0.0))


def _absolute(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op, x = product.op, product.x
    size = op("Abs", x)
    size.shape = x.shape
    w = product.changed(product.w, np.abs, lambda v: op("Abs", v))
    s = share(op, relevance, product.made(size, w), numbers.epsilon, 1)
    return times(op, size, product.back(w, s))


def _box(product: Product, relevance: Value, numbers: Numbers) -> Value:
    op, x, w = product.op, product.x, product.w
    up, down = product.positive(w), product.negative(w)
    if reads_source(x):
        low, high = bounds_at(op, x, numbers.low, numbers.high)
    else:
        low, high = (laid(op, x, bound) for bound in (numbers.low, numbers.high))
    ends = op("Add", product.made(low, up), product.made(high, down))
    s = share(op, relevance, op("Sub", product.made(x, w), ends), numbers.epsilon)
    at_ends = op("Add", op("Mul", low, product.back(up, s)), op("Mul", high, product.back(down, s)))
    return op("Sub", op("Mul", x, product.back(w, s)), at_ends)


def _identity(product: Product, relevance: Value, numbers: Numbers) -> Value:
    if differ(product.x, product.z):
        node, one, other = product.node, shape_of(product.x), shape_of(product.z)
        raise NotDifferentiable(
            f"LRP's rule identity passes relevance as it is; {node.operator} (node {node.name!r}) makes "
            f"{list(other or ())} of {list(one or ())}: choose another rule for it",
            reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=node.z.name,
        )  # fmt: skip
    return relevance


def differ(x: Value, z: Value) -> bool:
    """Whether two tensors are of other shapes, as far as these are known."""
    one, other = shape_of(x), shape_of(z)
    if one is None or other is None or len(one) != len(other):
        return True
    return any(a != b for a, b in zip(one, other, strict=True) if is_static((a, b)))


RULES: dict[str, Callable[[Product, Value, Numbers], Value]] = {
    "epsilon": _epsilon,
    "zplus": _zplus,
    "alpha_beta": _alpha_beta,
    "gamma": _gamma,
    "w2": _squared,
    "flat": _flat,
    "absolute": _absolute,
    "box": _box,
    "identity": _identity,
}


WEIGHTED = ("Conv", "Einsum", "Gemm", "MatMul", "Linear", "Attention", "LSTM", "GRU", "RNN")
"""Parts of the names of operators with weights."""


def reads_source(x: Value) -> bool:
    """Whether no operator with weights lies before a tensor."""
    seen, waiting = set[int](), [x]
    while waiting:
        maker = made_by(waiting.pop())
        if maker is None or id(maker) in seen:
            continue
        seen.add(id(maker))
        if any(part in maker.op for part in WEIGHTED):
            return False
        waiting += [one for one in maker.inputs if isinstance(one, gs.Variable)]
    return True


def never_below(x: Value, depth: int = 32) -> bool:
    """Whether no element of a tensor can be below 0, as far as the operators that make it say."""
    if isinstance(x, gs.Constant):
        return bool(np.prod(x.shape) <= KEPT and (np.asarray(x.values) >= 0).all())
    maker = made_by(x)
    if maker is None or maker.domain not in (None, "", "ai.onnx") or not depth:
        return False
    if maker.op in CLOSED:
        return True
    if maker.op == "Clip":
        low = maker.inputs[1] if len(maker.inputs) > 1 else None
        return isinstance(low, gs.Constant) and bool((np.asarray(low.values) >= 0).all())
    if maker.op in ("Add", "Sum", "Concat", "Mul"):
        return all(never_below(one, depth - 1) for one in maker.inputs)
    return maker.op in KEEPING | {"Cast"} and never_below(maker.inputs[0], depth - 1)
