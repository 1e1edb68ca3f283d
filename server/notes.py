"""What an answer says of itself in words: numbers that are not finite, and layers that the change bypasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnx_attribution.graph_tools import select
from onnx_attribution.server.evaluate import Sums
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.server.origin import origin_of
from onnx_attribution.server.question import Question
from onnx_attribution.values import LayerAttribution


def notes(
    model: LoadedModel,
    question: Question,
    sums: Sums,
    layers: Mapping[str, LayerAttribution],
    memory: int,
) -> Iterator[str]:
    """All of them; `memory` is what a search for the origin of NaN may take, in bytes."""
    yield from _not_finite(model, question, sums, memory)
    for layer in layers.values():
        if not layer.cut and np.isfinite(layer.residual).any():
            yield _bypassed(model, question, layer)


def _not_finite(model: LoadedModel, question: Question, sums: Sums, memory: int) -> Iterator[str]:
    bad = {n: ~np.isfinite(a.reshape(len(a), -1)).all(axis=1) for n, a in sums.fine.items()}
    names = [name for name, samples in bad.items() if samples.any()]
    if not names:
        return
    first = int(np.argmax(np.any([bad[name] for name in names], axis=0))) * question.references
    begins = origin_of(model, question, first, memory)
    for name in names:
        yield f"the attributions of {name!r} hold NaN or infinite numbers" + (f"; {begins}" if begins else "")


def _bypassed(model: LoadedModel, question: Question, layer: LayerAttribution) -> str:
    change = layer.sum - layer.residual
    moved = change != 0
    shares = np.unique(np.round(-100 * layer.residual[moved] / change[moved]).astype(int))
    ends = (
        " to ".join(f"{share} %" for share in dict.fromkeys((shares[0], shares[-1])))
        if len(shares)
        else "all"
    )
    nodes = list(model.graph.nodes)
    cuts = select.cut_tensors(nodes, question.choice.sources, question.choice.target)
    made = [z.name for node in nodes for z in node.outputs]
    behind = made[made.index(layer.name) :] if layer.name in made else made
    nearest = next((name for name in behind if name in cuts), question.choice.target)
    return f"layer {layer.name!r} is no cut: {ends} of the change bypasses it; the next cut is {nearest!r}"
