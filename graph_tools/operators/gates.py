"""Gradients that pass where an activation does, by a factor of 0 or 1 in place of a choice.

onnxruntime keeps convolutions and what lies between them in a blocked layout. Products, sums and HardSigmoid stay in
it, comparisons and Where do not, and its Where costs as much as five products. A factor is meant only where nothing
infinite may arrive, as 0 times infinity is no number.

HardSigmoid, `max(0, min(1, slope x + offset))`, is a step where it rises between two neighbouring float32 numbers: with
a power of two as slope it is exact on both sides. Only at 0 does it rise within the numbers below 2^-126.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, element_type, shape_of
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of

if TYPE_CHECKING:
    from onnx_attribution.graph_tools.operators.registry import NodeView

STEEPEST = 2.0**127
CLOSE = 2.0**-124  # to 0, yet normal numbers lie between
BLOCK = 16  # channels that the blocked layout keeps together, at most
STEADY = frozenset([
    "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Celu", "Clip", "Concat", "Conv",
    "ConvTranspose", "Cos", "DepthToSpace", "Dropout", "Elu", "Erf", "Expand", "Flatten", "Gather", "Gelu",
    "Gemm", "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu", "LogSoftmax", "MatMul", "Max", "MaxPool",
    "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "Relu", "Reshape", "Resize", "Selu", "Sigmoid", "Sin", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Tile", "Transpose",
    "Unsqueeze", "Upsample", "Where",
])  # fmt: skip
"""Standard operators whose derivative is finite wherever their inputs are."""


def unsteady(nodes: Sequence[gs.Node], seeds: Iterable[str]) -> set[str]:
    """The tensors whose gradient may be infinite though all numbers of the network are finite.

    Between them and the seeds lies an operator such as a root or a quotient.
    """
    behind, found = set(seeds), set[str]()
    for node in reversed(nodes):
        outputs = {z.name for z in node.outputs if not z.is_empty()}
        if not outputs & behind:
            continue
        names = {x.name for x in inputs_of(node)}
        behind |= names
        if outputs & found or not _is_steady(node):
            found |= names
    return found


def _is_steady(node: gs.Node) -> bool:
    return node.domain in (None, "", "ai.onnx") and node.op in STEADY


def fits(node: NodeView, x: Value) -> bool:
    """Whether a factor takes the place of a choice at the elements of `x`: float32 in the layout of images."""
    return node.steady and element_type(x) == np.float32 and len(shape_of(x) or ()) == 4


def fits_blocks(x: Value) -> bool:
    """Whether a tensor is a float32 image of whole blocks of channels."""
    shape = shape_of(x) or ()
    return len(shape) == 4 and in_blocks(x) and element_type(x) == np.float32


def in_blocks(x: Value) -> bool:
    """Whether the number of channels is known, and that of whole blocks."""
    channels = (shape_of(x) or ("?", "?"))[1]
    return isinstance(channels, int) and channels % BLOCK == 0


def above(op: Emitter, x: Value, bound: float, *, reached: bool = False) -> Value | None:
    """1 where x > bound (`reached`: x >= bound), else 0; None where no HardSigmoid rises that fast."""
    other = np.nextafter(np.float32(bound), np.float32(-np.inf if reached else np.inf))
    return _step(op, x, bound, float(other), 1.0 if reached else 0.0)


def below(op: Emitter, x: Value, bound: float, *, reached: bool = False) -> Value | None:
    """1 where x < bound (`reached`: x <= bound), else 0; None where no HardSigmoid falls that fast."""
    other = np.nextafter(np.float32(bound), np.float32(np.inf if reached else -np.inf))
    return _step(op, x, bound, float(other), 1.0 if reached else 0.0)


def of_relu6(op: Emitter, z: Value) -> Value | None:
    """1 where 0 < z < 6, else 0, of what a ReLU6 made; None where that is no product of factors.

    In whole blocks of channels z is bent up at 0, to 7.5, which leaves one bound: a pass over the tensor less.
    """
    if not in_blocks(z):
        rising, falling = above(op, z, 0), below(op, z, 6)
        return None if rising is None or falling is None else op("Mul", rising, falling)
    channels = int(z.shape[1])
    ones = op.constant(np.ones((channels, 1, 1, 1), np.float32))
    moved = op("Conv", z, ones, op.constant(np.full(channels, -CLOSE, np.float32)), group=channels)
    bent = op("LeakyRelu", moved, alpha=-7.5 / CLOSE)
    moved.shape = bent.shape = z.shape
    return below(op, bent, 6)


def _step(op: Emitter, x: Value, bound: float, other: float, there: float) -> Value | None:
    """`there` at the bound and beyond it, the other of 0 and 1 at its neighbour and beyond that."""
    if float(np.float32(bound)) != bound or not np.isfinite([bound, other]).all():
        return None
    rise = (1 - 2 * there) / (other - bound)
    if abs(rise) > STEEPEST:
        if bound:
            return None
        rise = float(np.copysign(STEEPEST, rise))
    made = op("HardSigmoid", x, alpha=rise, beta=there - bound * rise)
    made.shape = x.shape
    return made


def leaky(op: Emitter, z: Value, slope: float) -> Value | None:
    """1 where z > 0, else `slope`; None where that is no product with a number for each channel."""
    grown = scaled(op, z, STEEPEST) if 0 < slope < 1 else None
    if grown is None:
        return None
    made = op("Clip", grown, op.like(z, slope), op.like(z, 1))
    made.shape = z.shape
    return made


def both_away(op: Emitter, x: Value, y: Value, above_0: Value) -> Value | None:
    """|x| + |y|, a bit above 0, where max(x, 0) + max(y, 0) is given; None where that is no sum of blocked ones.

    That of numbers of one sign is exact. What is summed is below 0, and turned by what the runtime takes in one pass.
    """
    twice_below = scaled(op, above_0, -2, -float(np.finfo(np.float32).tiny))
    if twice_below is None:
        return None
    total = _like(op("Add", x, y), x)
    return _like(op("LeakyRelu", _like(op("Add", twice_below, total), x), alpha=-1.0), x)


def _like(made: gs.Variable, x: Value) -> gs.Variable:
    made.shape = x.shape
    return made


def scaled(op: Emitter, x: Value, factor: float, more: float = 0) -> Value | None:
    """factor x + more as a convolution; None where the channels are not whole blocks."""
    channels = (shape_of(x) or ("?", "?"))[1]
    if not isinstance(channels, int) or channels % BLOCK:
        return None
    weights = op.constant(np.full((channels, 1, 1, 1), factor, np.float32))
    bias = [op.constant(np.full(channels, more, np.float32))] if more else []
    made = op("Conv", x, weights, *bias, group=channels)
    made.shape = x.shape
    return made
