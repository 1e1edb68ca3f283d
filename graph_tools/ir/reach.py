"""Which tensors depend on which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.emit import (
    Value,
    is_float,
    is_quantised,
)
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of

QUANTISING = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})
"""Operators that make integers which stand for real numbers."""


SHAPE_ONLY = frozenset({"EyeLike", "Shape", "Size"})
"""Operators through which a value does not pass: their output depends on the shape alone."""


def reachable(nodes: Iterable[gs.Node], sources: Iterable[str]) -> set[str]:
    """Names of the tensors that depend on `sources` through what derivatives pass, the sources included.

    Those are float tensors, the quantised ones that a quantising operator makes of them, and what holds tensors:
    sequences, of whose elements the type is not always known, are no way around the walk.
    """
    found, quantised = set(sources), set[str]()
    for node in nodes:
        moved = {x.name for x in inputs_of(node) if x.name in found}
        if moved:
            found.update(out.name for out in node.outputs if is_float(out) or _holds_tensors(out))
            if node.op in QUANTISING or moved & quantised:
                quantised.update(out.name for out in node.outputs if is_quantised(out))
                found |= quantised
    return found


def _holds_tensors(value: Value) -> bool:
    return getattr(value, "type", "tensor_type") in ("sequence_type", "optional_type")


def dependents(nodes: Iterable[gs.Node], sources: Iterable[str]) -> set[str]:
    """Names of the tensors whose values depend on the sources, the sources included."""
    found = set(sources)
    for node in nodes:
        if depends(node, found):
            found.update(z.name for z in node.outputs)
    return found


def depends(node: gs.Node, names: set[str]) -> bool:
    """Whether what a node makes depends on the values of the tensors of these names."""
    return node.op not in SHAPE_ONLY and any(x.name in names for x in inputs_of(node))


def ancestors(
    nodes: Sequence[gs.Node], targets: Sequence[str], given: frozenset[str] = frozenset()
) -> set[str]:
    """Names of the tensors on whose values the targets depend, the targets included; `given` ones depend on nothing."""
    found = set(targets)
    for node in reversed(nodes):
        if node.op not in SHAPE_ONLY and any(z.name in found and z.name not in given for z in node.outputs):
            found.update(x.name for x in inputs_of(node))
    return found
