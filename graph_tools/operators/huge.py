"""Infinite numbers, and those as good as infinite, in DeepLIFT: masks of -inf or -3.4e38 that depend on the source.

A multiplier times an infinite change is meant as its limit: of a multiplier that falls as the change grows. So every
rule that takes differences sees finite numbers in place of the huge ones, the same everywhere: beyond `HUGE` all are
`SCALE` times what they were, so that no multiplier underflows, and infinity is the largest of them.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, is_float, is_half
from onnx_attribution.graph_tools.ir.subgraphs import graphs_of, inputs_of
from onnx_attribution.graph_tools.operators.transpose import known

HUGE = 1e24
SCALE = 1e-12
FAR = HUGE * SCALE / 10
"""A difference that only huge numbers have."""
READ = 1 << 22  # elements of a constant that are looked at
CARRYING = frozenset([
    "Abs", "Add", "Cast", "Clip", "Compress", "Concat", "ConstantOfShape", "Div", "Dropout", "Expand",
    "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "If", "LeakyRelu", "Log", "LogSoftmax",
    "Max", "Min", "Mul", "Neg", "PRelu", "Pad", "ReduceLogSumExp", "ReduceMax", "ReduceMin", "Reshape",
    "ReverseSequence", "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Sub", "Sum", "Tile",
    "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
])  # fmt: skip
"""Operators that masks are made of and go through: what they make may be huge if something that they read is."""

PRODUCTS = frozenset({"Conv", "Gemm", "LayerNormalization", "MatMul"})
"""Operators that no mask goes through and leaves its mark as an infinite number."""
PASSING = frozenset({
    "Add", "Cast", "Div", "Identity", "Mul", "Neg", "Reshape", "Sqrt", "Squeeze", "Sub", "Sum", "Transpose",
    "Unsqueeze",
})  # fmt: skip
"""Operators that make finite numbers of those that they read, as far as sizes of numbers go."""
SIZES = frozenset({"Cast", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
"""Operators through which a size of a tensor goes."""


Known = dict[int, tuple[Value, bool]]
"""What was found of tensors, by their identity; each is kept, so that no other takes its place."""


def may_be_huge(value: Value, known: Known | None = None) -> bool:
    """Whether a tensor is made of huge constants, or of logarithms of 0, as masks are; `known` keeps what was found."""
    known = {} if known is None else known
    waiting = [value]
    while waiting:
        top = waiting[-1]
        if id(top) in known:
            waiting.pop()
            continue
        found, more = _judged(top)
        missing = [x for x in more if id(x) not in known]
        if found or not missing:
            known[id(top)] = (top, found or any(known[id(x)][1] for x in more))
            waiting.pop()
        else:
            waiting += missing
    return known[id(value)][1]


def is_sum_of_products(value: Value) -> bool:
    """Whether a tensor is certain to hold no mask: made of products with others and of finite numbers alone."""
    waiting, seen = [value], set[int]()
    while waiting:
        top = waiting.pop()
        if id(top) in seen or not is_float(top):  # what was an integer is finite
            continue
        seen.add(id(top))
        if (numbers := known(top)) is not None:
            if numbers.size > READ or not np.all(np.abs(numbers.astype(np.float64)) <= HUGE):
                return False
            continue
        maker = top.inputs[0] if top.inputs else None
        if maker is None or maker.domain not in (None, "", "ai.onnx"):
            return False
        if maker.op in PRODUCTS or (maker.op == "Pow" and _is_power_of_size(*maker.inputs)):
            continue
        if maker.op not in PASSING or (maker.op == "Div" and not _never_zero(maker.inputs[1])):
            return False
        waiting += [x for x in maker.inputs if not x.is_empty()]
    return True


def _never_zero(value: Value) -> bool:
    """Whether a divisor is a constant without zeros, or a root, as that of a size is."""
    if (numbers := known(value)) is not None:
        return bool(np.all(numbers != 0))
    return bool(value.inputs) and value.inputs[0].op == "Sqrt"


def _is_power_of_size(value: Value, exponent: Value) -> bool:
    """Whether a number is a small power, such as the root, of a size of a tensor, which has elements."""
    power = known(exponent)
    while value.inputs and value.inputs[0].op in SIZES:
        value = value.inputs[0].inputs[0]
    is_size = bool(value.inputs) and value.inputs[0].op == "Shape"
    return is_size and power is not None and bool(np.all(np.abs(power) <= 1))


def _judged(value: Value) -> tuple[bool, list[Value]]:
    """Whether a tensor certainly may be huge, and on which others that depends if not."""
    if isinstance(value, gs.Constant):
        return is_float(value) and _holds_huge(value), []
    maker = value.inputs[0] if value.inputs else None
    if maker is None or not is_float(value):
        return False, []
    if maker.op == "Constant":
        held = maker.attrs.get("value")
        return isinstance(held, gs.Constant) and _holds_huge(held), []
    if maker.op not in CARRYING or maker.domain not in (None, "", "ai.onnx"):
        return False, []
    if maker.op == "ConstantOfShape":
        held = maker.attrs.get("value")
        return isinstance(held, gs.Constant) and _holds_huge(held), []
    ends = [z for graph in graphs_of(maker) for z in graph.outputs]
    return maker.op == "Log", [x for x in (*inputs_of(maker), *ends) if is_float(x)]


def _holds_huge(value: gs.Constant) -> bool:
    if not 0 < np.prod(value.shape) <= READ:
        return False
    held = np.asarray(value.values)
    return any(abs(float(end)) > HUGE for end in (held.min(), held.max()))


def tamed(op: Emitter, value: Value) -> Value:
    """The value with finite numbers in place of the huge ones."""
    if is_half(value):
        value = op.cast(value, np.float32)
    info = np.finfo(element_type(value))
    if isinstance(value, gs.Constant):
        held = np.asarray(value.values)
        with np.errstate(over="ignore"):
            small = np.clip(held, info.min, info.max) * held.dtype.type(SCALE)
        return op.constant(np.where(np.abs(held) > HUGE, small, held))
    bounded = op("Max", op("Min", value, op.like(value, float(info.max))), op.like(value, float(info.min)))
    is_huge = op("Greater", op("Abs", value), op.like(value, HUGE))
    return op("Where", is_huge, op("Mul", bounded, op.like(value, SCALE)), value)


def difference(op: Emitter, x: Value, y: Value, known: Known | None = None) -> Value:
    """x - y, where huge numbers are finite."""
    if may_be_huge(x, known) or may_be_huge(y, known):
        x, y = tamed(op, x), tamed(op, y)
    return op("Sub", x, y)
