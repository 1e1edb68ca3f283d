"""Which layers follow which: the edges of a graph of which only some tensors are seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_graphsurgeon as gs

from onnx_attribution.graph_tools.ir.reach import SHAPE_ONLY
from onnx_attribution.graph_tools.ir.subgraphs import inputs_of


def links_between(nodes: Sequence[gs.Node], layers: Collection[str]) -> list[tuple[str, str]]:
    """The pairs of layers of which the second depends on the first by a way that crosses no other of them."""
    nearest: dict[str, dict[str, None]] = {name: {name: None} for name in layers}
    found: dict[tuple[str, str], None] = {}
    for node in nodes:
        if node.op in SHAPE_ONLY:
            continue
        before = {name: None for x in inputs_of(node) for name in nearest.get(x.name, ())}
        for z in node.outputs:
            if z.name in layers:
                found.update(((name, z.name), None) for name in before if name != z.name)
            elif before:
                nearest[z.name] = before
    return list(found)
