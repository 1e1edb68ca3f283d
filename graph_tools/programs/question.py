"""What a standalone program answers, and the program while it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.convert import input_like
from onnx_attribution.graph_tools.ir.emit import Value
from onnx_attribution.graph_tools.operators import RuleTable
from onnx_attribution.graph_tools.programs.build import Draft
from onnx_attribution.graph_tools.programs.line import Line, OpenLine
from onnx_attribution.graph_tools.programs.pairs import clone
from onnx_attribution.graph_tools.programs.scalar import Scalar, row_axis, rows_first, value_of
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.walk.differentiate import differentiate
from onnx_attribution.graph_tools.walk.reveal_nodes import Where
from onnx_attribution.methods import NearZero
from onnx_attribution.values import Array


@dataclass(frozen=True)
class AtInput:
    """The gradient at x, times the activation if `multiply`."""

    multiply: bool


@dataclass(frozen=True)
class Along:
    """Sums along a path: of gradients times the differences of activations (`conductance`), or the mean gradient of a
    source, times x - x' if `multiply`.

    All rows share a run, or with `loop` the nodes of the path come one after the other.
    """

    line: Line | OpenLine
    conductance: bool
    multiply: bool = True
    loop: bool = False


@dataclass(frozen=True)
class Between:
    """DeepLIFT between x and x'."""

    multiply: bool = True
    near_zero: NearZero = "midpoint"
    reveal_cancel: Where | None = None


@dataclass(frozen=True)
class Asked:
    """What a program answers: what is explained, the scalar of each row, and where the method is evaluated.

    `baselines` are those of sources, or of inputs that lead to a hidden source; None: an input of the program.
    `complete`: attributions sum to the change at a layer in `cuts`, or at all layers (`joint`). `alone`: the inputs
    have room for one row. `relevance`: the rules carry relevance, which begins with the target's value.
    """

    choice: Choice
    target: Scalar
    at: AtInput | Along | Between
    baselines: Mapping[str, Array | None]
    complete: bool
    cuts: frozenset[str]
    joint: bool
    alone: bool
    rules: RuleTable
    relevance: bool = False


@dataclass
class Found:
    """What a program computes: by layer the attributions and the coarse ones, `[rows]` the target at both ends."""

    attributions: dict[str, Value]
    value: Value
    baseline: Value | None = None
    coarse: dict[str, Value] | None = None
    no_estimate: Value | None = None


class Work:
    """A program while it is built, and the inputs that it got."""

    def __init__(self, draft: Draft, asked: Asked, rows: int | str | None) -> None:
        self.draft, self.asked, self.rows, self.op = draft, asked, rows, draft.op
        self.shapes = {name: draft.tensor(name).shape for name in asked.choice.layers}
        self.new_names: list[tuple[gs.Variable, str]] = []
        self.given = self._given()

    def _given(self) -> Value | None:
        """The input that says what is explained of each row."""
        target, draft = self.asked.target, self.draft
        if not target.is_given:
            return None
        if not target.by_index:
            return draft.weight(target.tensor)
        own = draft.tensor(target.tensor)
        place = row_axis(draft.network, target.tensor, own.shape)
        axes = len(own.shape) - (place is not None) + (place is not None and place.factor != 1)
        shape = [1 if place is None else self.rows or "rows", *([axes] if axes > 1 else [])]
        return draft.add(gs.Variable("target", dtype=np.dtype(np.int64), shape=shape))

    def low(self, name: str, high: Value) -> Value:
        """The baseline of an input, or of a hidden source, in the shape of its value at x."""
        op, fixed = self.op, self.asked.baselines[name]
        if fixed is None:
            axis = self.draft.network.input_axes.get(name)
            place = row_axis(self.draft.network, name, high.shape or ())
            axis = place.axis if axis is None and place is not None else axis
            shape = [
                d if k != axis or isinstance(d, int) else "baselines" for k, d in enumerate(high.shape or ())
            ]
            given: Value = self.draft.add(input_like(high, f"baseline/{name}", shape))
        else:
            given = op.constant(np.asarray(fixed))
        sizes = op("Shape", high)
        sizes.shape = [len(high.shape or ())]
        made = op("Expand", given, sizes)
        made.shape = high.shape
        return made

    def lows(self, highs: Mapping[str, Value]) -> dict[str, Value]:
        """The sources at x', where `highs` are the inputs and the sources at x.

        A hidden source without a baseline of its own is what the network makes of its inputs at theirs.
        """
        sources, known = self.asked.choice.sources, self.asked.baselines
        found = {name: self.low(name, highs[name]) for name in known}
        if behind := [name for name in sources if name not in known]:
            inputs = {x for x in highs if x in self.draft.network.input_axes}
            below = {name: found.get(name, highs[name]) for name in inputs}
            clone(self.draft.graph, below, "baseline")
            found |= {name: below[name] for name in behind}
        return {name: found[name] for name in sources}

    def value(self, own: Value, rows: int | str | None, given: Value | None) -> Value:
        """The scalar of each row of the target's tensor, or of its twin."""
        target = self.asked.target
        place = row_axis(self.draft.network, target.tensor, own.shape)
        return value_of(self.op, own, target, place, rows, given)

    def weight(self, value: Value) -> Value:
        """The weights of the target's elements."""
        ones = self.op("Expand", self.op.like(value, 1), self.op("Shape", value))
        ones.shape = value.shape
        target = self.asked.target.tensor
        return differentiate(self.op, {value.name: ones}, [target])[
            target
        ]  # by itself: refusals name the target

    def by_row(self, layer: str, value: Value) -> Value:
        """The sum of each row of a value in the layer's shape."""
        op = self.op
        value.shape = self.shapes[layer]
        place = row_axis(self.draft.network, layer, self.shapes[layer])
        front = rows_first(op, value, place, self.rows)
        if len(front.shape) > 1:
            front = op("ReduceSum", front, op.ints(range(1, len(front.shape))), keepdims=0)
        front.shape = [self.rows]
        return front

    def rename(self) -> None:
        """Gives values the names that they have for others."""
        for value, name in self.new_names:
            value.name = name
