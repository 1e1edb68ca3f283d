"""Occlusion: by how much the target falls where a group of features is at its baseline.

For a group G, `F(x) - F(x with the elements of G at the baseline)`, in units of the target. Every element has the value
of its group, as in Captum's FeatureAblation; where windows overlap, the mean over those that cover it, as in Captum's
Occlusion (sliding windows: Zeiler and Fergus 2014, arXiv 1311.2901). No derivative is taken, so that any model that
runs can be asked. The values do not sum to F(x) - F(x') unless F is additive in the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnx_attribution.methods import Occlusion
from onnx_attribution.server.engine.methods.coalitions import Numbers, features_of, touched, values_at
from onnx_attribution.server.engine.methods.stages import Evaluations, Stage
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Groups, Recipe, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Sums


@recipe(Occlusion)
def occlusion(method: Occlusion) -> Recipe:
    at = Groups(method.groups, method.windows, method.strides)
    return Recipe(at, layer_is_source=True, multiplied=True)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: every group that differs from its baseline is evaluated, once for all targets."""

    def planned() -> int:
        return sum(2 + len(groups) for groups in touched(asked[0]))

    yield Stage(lambda: 0, planned, lambda: effects_of(model, asked, memory))


def effects_of(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Evaluations:
    """The effects of all groups on each target, spread over their elements."""
    features, found = features_of(asked[0]), touched(asked[0])

    def absent(k: int, number: int) -> Numbers:
        return np.array([found[k][number]], np.intp)

    values = yield from values_at(model, asked, list(map(len, found)), absent, memory)
    high, low = (np.stack(ends, axis=1) for ends in list(zip(*values, strict=True))[:2])
    effects = np.zeros((len(asked), len(found), features.count))
    for k, (at_x, _, without) in enumerate(values):
        effects[:, k, found[k]] = at_x[:, None] - without
    return [
        Sums({name: parts.spread(effect) for name, parts in features.of.items()}, {}, *ends)
        for effect, *ends in zip(effects, high, low, strict=True)
    ]
