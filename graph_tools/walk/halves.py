"""The positive and the negative part of a tensor's change between x' and x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.graph_tools.ir.emit import Emitter, Value, is_float, is_half
from onnx_attribution.graph_tools.operators.ends import near, shaped
from onnx_attribution.graph_tools.operators.huge import Known, difference
from onnx_attribution.graph_tools.operators.transpose import known
from onnx_attribution.graph_tools.walk.differentiate import Carried

Pair = Carried
"""The positive and the negative of something."""


@dataclass
class Parts:
    """The two parts of the change of every tensor that depends on the source."""

    op: Emitter
    references: Mapping[str, Value]
    moving: set[str]
    found: dict[str, Pair] = field(default_factory=dict)
    huge: Known = field(default_factory=dict)

    def change(self, value: Value) -> Value:
        """What a tensor changes by between x' and x."""
        op, here, there = self.op, value, self.references[value.name]
        if not is_float(here):
            here, there = op.cast(here, np.float32), op.cast(there, np.float32)
        here, there = (op.cast(v, np.float32) if is_half(v) else v for v in (here, there))
        made = difference(op, here, there, self.huge)
        made.shape = value.shape
        return made

    def flat(self, value: Value) -> Value:
        """Where a tensor's change has no sign: it is 0, or the rounding of x and x'."""
        d = self.change(value)
        here, there = (self.op.cast(v, d.dtype) for v in (value, self.references[value.name]))
        return near(self.op, here, there, d, floor=0)

    def signed(self, value: Value) -> Pair:
        """The change as a positive and a negative part, elementwise; what has no sign is split evenly."""
        op, d = self.op, self.change(value)
        half, zero = op("Mul", d, op.like(d, 0.5)), op.like(d, 0)
        flat = self.flat(value)
        ends = (op("Where", flat, half, op(kind, d, zero)) for kind in ("Max", "Min"))
        positive, negative = (shaped(v, value) for v in ends)
        return positive, negative

    def of(self, value: Value) -> Pair:
        """The parts of a tensor; those of its sign where nothing else was said."""
        if value.name not in self.found:
            self.found[value.name] = self.signed(value)
        return self.found[value.name]


def signs(op: Emitter, w: Value) -> Pair:
    """What of some weights is above 0, and what below."""
    held = known(w)
    if held is not None:
        return op.constant(np.maximum(held, 0)), op.constant(np.minimum(held, 0))
    zero = op.like(w, 0)
    return shaped(op("Max", w, zero), w), shaped(op("Min", w, zero), w)


def some(value: Value | None) -> Value:
    assert value is not None
    return value
