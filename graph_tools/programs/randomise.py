"""Models whose parameters are drawn anew, block by block from the top: maps that do not change with them show nothing
that was learnt (arXiv 1810.03292).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.ir.edit import copied
from onnx_attribution.graph_tools.ir.weights import value_of
from onnx_attribution.graph_tools.programs.learnt import (
    ANCHORS,
    Block,
    Parameter,
    Role,
    blocks_of,
    constants_of,
    inlined,
)

Draw = Literal["he_normal", "truncated_normal", "shuffle"]
Order = Literal["cascading", "independent"]

TRUNCATED = 0.01  # the standard deviation of arXiv 1810.03292
SLOPE = 0.25  # of a PRelu before it is trained
INITIAL: Mapping[Role, float] = {"bias": 0.0, "scale": 1.0, "slope": SLOPE, "mean": 0.0, "variance": 1.0}


@dataclass(frozen=True)
class Stage:
    """A model of which `redrawn` blocks are drawn anew: the last one in this stage, those before it where stages
    cascade."""

    model: onnx.ModelProto
    redrawn: tuple[str, ...]

    @property
    def block(self) -> str:
        """The block that this stage is named after."""
        return self.redrawn[-1]


def stages(
    model: onnx.ModelProto,
    order: Order = "cascading",
    draw: Draw = "he_normal",
    *,
    seed: int = 0,
    toward: Sequence[str] = (),
    most: int | None = None,
) -> Iterator[Stage]:
    """Models with blocks drawn anew: from the top down, each with those above it (cascading) or each alone.

    `he_normal` draws weights with the variance 2 / fan-in, gates of recurrent operators 1 / fan-in and tables with
    their own mean and deviation; `truncated_normal` all of these with the deviation 0.01, cut at two of them. Biases,
    scales and statistics begin again at 0 and 1. `shuffle` moves the numbers of each parameter around, and is the only
    one for quantised weights. A parameter is drawn alike in every stage; the given model is not changed.

    Raises:
        InvalidArgument: an unknown order or draw, or one that quantised weights cannot have. ModelError: the model has
            no parameters that can be drawn anew.
    """
    for word, value, known in (("order", order, get_args(Order)), ("draw", draw, get_args(Draw))):
        if value not in known:
            raise InvalidArgument(f"no {word} {value!r}; there are: {', '.join(known)}", parameter=word)
    whole = inlined(model)
    found = blocks_of(whole, toward, most)
    for block in found:
        _require_drawable(block, draw)

    def made() -> Iterator[Stage]:
        names: tuple[str, ...] = ()
        cumulative = copied(whole)
        for block in found:
            changed = cumulative if order == "cascading" else copied(whole)
            _redraw(changed, block, draw, seed)
            names = (*names, block.name) if order == "cascading" else (block.name,)
            yield Stage(copied(changed) if order == "cascading" else changed, names)

    return made()


def _require_drawable(block: Block, draw: Draw) -> None:
    if draw == "shuffle":
        return
    for one in block.parameters:
        if one.is_quantised:
            raise InvalidArgument(
                f"{one.name!r} of {block.name!r} is quantised ({one.kind}), and {draw} draws real numbers; "
                "take draw='shuffle'",
                tensor=one.name, parameter="draw",
            )  # fmt: skip


def _redraw(model: onnx.ModelProto, block: Block, draw: Draw, seed: int) -> None:
    """Draws, in place, the parameters of a block anew."""
    held = dict(constants_of(model))
    for one in block.parameters:
        tensor = held[one.key]
        before = value_of(tensor)
        rng = np.random.default_rng([seed, zlib.crc32("/".join(one.key).encode())])
        after = _drawn(one, before, draw, rng).astype(before.dtype).reshape(before.shape)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(after), tensor.name))


def _drawn(one: Parameter, before: NDArray[Any], draw: Draw, rng: np.random.Generator) -> NDArray[Any]:
    if draw == "shuffle":
        return rng.permutation(before.reshape(-1))
    if one.role not in ANCHORS:
        return np.full(before.shape, INITIAL[one.role])
    if draw == "truncated_normal":
        normal = rng.normal(size=before.size)
        while (outside := np.abs(normal) > 2).any():
            normal[outside] = rng.normal(size=int(outside.sum()))
        return normal * TRUNCATED
    if one.role == "table":
        values = np.asarray(before, np.float64)
        return rng.normal(float(values.mean()), float(values.std()), before.size)
    return rng.normal(0.0, math.sqrt((2 if one.role == "weight" else 1) / one.fan_in), before.size)
