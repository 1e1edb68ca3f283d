"""The layers' values at x."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnx_attribution.methods import LayerActivation
from onnx_attribution.server.engine.methods.stages import Stage, one_by_one
from onnx_attribution.server.engine.models.forward import moved
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Floats, Recipe, Values, recipe
from onnx_attribution.server.engine.request import targets
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Evaluation, Sums, row_limit


@recipe(LayerActivation)
def layer_activation(method: LayerActivation) -> Recipe:
    return Recipe(Values(), multiplied=True)


def _values(model: LoadedModel, resolved: Resolved, memory: int) -> Evaluation:
    names, target, samples = resolved.choice.layers, resolved.choice.target, resolved.samples
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    values, start = list[Floats](), 0
    for part in samples.parts(row_limit(model, samples, memory)):
        hidden = {n: part.x[n] for n in resolved.choice.sources if n not in model.network.input_axes}
        found = moved(model, part.x, hidden, [*names, target])
        yield part.count
        for name in names:
            parts[name].append(samples.units(name, found[name]))
        chosen = resolved.selection[start : start + part.count]
        values.append(targets.values([found[target]], samples.place(target), chosen))
        start += part.count
    return Sums({name: np.concatenate(p) for name, p in parts.items()}, {}, np.concatenate(values))


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: values are exact."""
    yield one_by_one(0, asked, lambda one: one.samples.count, lambda one: _values(model, one, memory))
