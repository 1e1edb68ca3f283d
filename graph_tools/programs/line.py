"""The nodes of a path and the sums over them as values of a graph: constants, or made from a number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.emit import Emitter, Value

Rule = Literal["trapezoid", "left", "right"]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms over node numbers: `sum[level] = sum over terms of weights[level] * g[gradient] * (h[right] - h[left])`."""

    gradient: Integers
    left: Integers
    right: Integers
    weights: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Line:
    """Nodes on the line from x' to x, both ends among them, and the sums over them.

    These are terms, or `[levels, nodes, nodes]` what a product of a gradient and an activation weighs. Level 0 is the
    answer, level 1, where it is there, what the error estimate compares it with.
    """

    alphas: NDArray[np.float64]
    sums: Terms | NDArray[np.float64]


@dataclass(frozen=True)
class OpenLine:
    """Equal steps, whose number is an input; for a conductance, or for the mean of gradients."""

    rule: Rule
    conductance: bool


@dataclass(frozen=True)
class TermsMade:
    """Terms in a graph; `gradient` is None where they are the nodes."""

    gradient: Value | None
    left: Value
    right: Value
    weights: Value


@dataclass(frozen=True)
class Nodes:
    """A line in a graph: how many nodes and in which places the ends are as vectors of one number, the terms or the
    products of each level, and `no_estimate`, true where the levels are the same."""

    count: Value
    first: Value
    last: Value
    alphas: Value
    sums: TermsMade | Sequence[Value]
    levels: int
    no_estimate: Value | None = None


def fixed(op: Emitter, line: Line, dtype: Any) -> Nodes:
    """The line as constants, alphas of a type."""
    wide, sums = _wide(dtype), line.sums
    made: TermsMade | Sequence[Value]
    if isinstance(sums, Terms):
        plain = np.array_equal(sums.gradient, np.arange(len(line.alphas)))
        gradient, left, right = (op.ints(one.tolist()) for one in (sums.gradient, sums.left, sums.right))
        made = TermsMade(None if plain else gradient, left, right, op.constant(sums.weights.astype(wide)))
        levels = len(sums.weights)
    else:
        made, levels = [op.constant(one.astype(wide)) for one in sums], len(sums)
    return Nodes(
        op.ints([len(line.alphas)]),
        op.ints([int(np.argmin(line.alphas))]),
        op.ints([int(np.argmax(line.alphas))]),
        op.constant(line.alphas.astype(dtype)),
        made,
        levels,
    )


def made(op: Emitter, line: OpenLine, steps: Value, dtype: Any) -> Nodes:
    """The line of a number of steps, which is a vector of one number; the coarse level has every second node.

    The terms are those of the fine level, then those of the coarse one: the numbers that the engine has.
    """
    wide = _wide(dtype)
    zero, one, two = (op.constant(np.asarray(k, np.int64)) for k in (0, 1, 2))
    n = op("Reshape", steps, op.ints([]))
    n.shape = []
    half = op("Div", op("Add", n, one), two)

    def counted(end: Value) -> Value:
        numbers = op("Range", zero, end, one)
        numbers.shape = [None]
        return numbers

    def inside(value: Value) -> Value:
        return op("Min", op("Max", value, zero), n)

    every = counted(op("Add", n, one))
    size = op.cast(n, wide)
    alphas = op.cast(op("Div", op.cast(every, wide), size), dtype)
    levels = []
    for stride, count in ((one, n), (two, half)):
        ends = op("Mul", counted(op("Add", count, one)), stride)
        if line.rule == "trapezoid":
            gradient, left, right = (inside(op(w, ends, stride) if w else ends) for w in ("", "Sub", "Add"))
        else:
            low = op("Mul", counted(count), stride)
            left, right = low, inside(op("Add", low, stride))
            gradient = low if line.rule == "left" else right
        halved = line.rule == "trapezoid"
        if line.conductance:
            weight = op("Expand", op.constant(np.asarray(0.5 if halved else 1, wide)), op("Shape", gradient))
        elif halved:
            width = op.cast(op("Sub", right, left), wide)
            weight = op("Div", width, op("Mul", size, op.like(size, 2)))
        else:  # nodes alike, every second one of the fine level
            if line.rule == "right":
                gradient = op("Add", low, one)
            weight = op("Div", op.like(size, 1), op("Expand", op.cast(count, wide), op("Shape", gradient)))
        weight.dtype, weight.shape = np.dtype(wide), [None]
        levels.append((gradient, left, right, weight))
    nothing = [op("Mul", level[3], op.like(size, 0)) for level in levels]
    fine = op("Concat", levels[0][3], nothing[1], axis=0)
    coarse = op("Concat", nothing[0], levels[1][3], axis=0)
    gradient, left, right = (
        op("Concat", a, b, axis=0) for a, b in zip(*(level[:3] for level in levels), strict=True)
    )
    weights = op("Concat", *(op("Unsqueeze", level, op.ints([0])) for level in (fine, coarse)), axis=0)
    total = op("Add", steps, op.ints([1]))
    ends = op.ints([0]), steps
    terms = TermsMade(gradient, left, right, weights)
    return Nodes(total, *ends, alphas, terms, 2, op("Less", n, two))


def _wide(dtype: Any) -> Any:
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32
