"""Which of some layers follow which, of what a server lists of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx_attribution.values import LayerInfo


def links_of(layers: Sequence[LayerInfo], names: Collection[str]) -> list[tuple[str, str]]:
    """The pairs of those of the listed layers that have these names, the second of which depends on the first by a way
    that crosses no other of them."""
    nearest: dict[str, dict[str, None]] = {}
    found: list[tuple[str, str]] = []
    for one in layers:  # in the order of the graph
        before = {name: None for each in one.after for name in nearest.get(each, ())}
        if one.name in names:
            found += [(name, one.name) for name in before]
            before = {one.name: None}
        nearest[one.name] = before
    return found
