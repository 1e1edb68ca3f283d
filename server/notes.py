"""What an answer says of itself in words: numbers that are not finite, and layers that the change bypasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from onnx_attribution.graph_tools import select
from onnx_attribution.graph_tools.emit import element_type, is_float, is_half
from onnx_attribution.server.evaluate import Floats, Sums
from onnx_attribution.server.loaded import LoadedModel
from onnx_attribution.server.origin import origin_of
from onnx_attribution.server.question import Question
from onnx_attribution.server.targets import per_sample
from onnx_attribution.values import DEEPLIFT_METHODS, GRADIENT_METHODS, LayerAttribution

RESIDUAL = 1e-3
"""Of the absolute contributions of a layer: what rounding does not explain in float32."""
HALF_RESIDUAL = 3e-2
"""The same with half types, in which every tensor between is rounded to 3 or 2 digits."""


def notes(
    model: LoadedModel,
    question: Question,
    sums: Sums,
    layers: Mapping[str, LayerAttribution],
    memory: int,
) -> Iterator[str]:
    """All of them; `memory` is what a search for the origin of NaN may take, in bytes."""
    yield from _not_finite(model, question, sums, memory)
    yield from _ends_not_finite(question)
    for layer in layers.values():
        if not layer.cut and np.isfinite(layer.residual).any():
            yield _bypassed(model, question, layer)
        if layer.cut and question.request.method in DEEPLIFT_METHODS:
            yield from _missing(model, question, layer, sums.fine[layer.name])


def _not_finite(model: LoadedModel, question: Question, sums: Sums, memory: int) -> Iterator[str]:
    bad = {n: ~np.isfinite(a.reshape(len(a), -1)).all(axis=1) for n, a in sums.fine.items()}
    names = [name for name, samples in bad.items() if samples.any()]
    if not names:
        return
    first = int(np.argmax(np.any([bad[name] for name in names], axis=0))) * question.references
    # occlusion needs no derivative, which the search runs
    begins = None if question.features else origin_of(model, question, first, memory)
    for name in names:
        yield f"the attributions of {name!r} hold NaN or infinite numbers" + (f"; {begins}" if begins else "")


def _ends_not_finite(question: Question) -> Iterator[str]:
    ends = {"input": question.value}
    if question.request.method not in GRADIENT_METHODS:
        ends["baseline"] = question.baseline_value
    for end, values in ends.items():
        if not np.isfinite(values).all():
            yield f"the target {question.choice.target!r} is NaN or infinite at the {end}"


def _missing(
    model: LoadedModel, question: Question, layer: LayerAttribution, values: Floats
) -> Iterator[str]:
    """Where contributions that sum exactly do not: an operator on the way has no exact secant, or they are noise."""
    tensors = model.graph.tensors()
    target = tensors[question.choice.target]
    share = HALF_RESIDUAL if any(is_half(value) for value in tensors.values()) else RESIDUAL
    size = per_sample(np.abs(values))
    ends = np.maximum(np.abs(question.value), np.abs(question.baseline_value))
    kind = element_type(target)
    eps = float(ml_dtypes.finfo(kind).eps) if is_float(target) else 0.0  # type: ignore[no-untyped-call]
    with np.errstate(invalid="ignore"):
        missed = np.abs(layer.residual) > share * size + 16 * eps * ends
    missed &= np.isfinite(size)
    if missed.any():
        worst = int(np.argmax(np.where(missed, np.abs(layer.residual), -1)))
        yield (
            f"the contributions of {layer.name!r} miss the change by {-layer.residual[worst]:.3g} in sample {worst}, "
            f"where their absolute values sum to {size[worst]:.3g}: an operator between has no exact secant there"
        )


def _bypassed(model: LoadedModel, question: Question, layer: LayerAttribution) -> str:
    residual = layer.residual[np.isfinite(layer.residual)]
    change = layer.sum[np.isfinite(layer.residual)] - residual
    moved = change != 0
    shares = np.unique(np.round(-100 * residual[moved] / change[moved]).astype(int))
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
