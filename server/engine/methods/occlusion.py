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
from onnx_attribution.server.engine.methods.coalitions import (
    NONE,
    Row,
    every_group,
    features_of,
    touched,
    values_at,
)
from onnx_attribution.server.engine.methods.stages import Evaluations, Stage
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Groups, Recipe, recipe
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.evaluate import Sums


@recipe(Occlusion)
def occlusion(method: Occlusion) -> Recipe:
    return Recipe(Groups(method.groups, method.windows, method.strides), layer_is_source=True)


def stages(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Iterator[Stage]:
    """One stage: every group is evaluated, once for all targets."""
    yield Stage(lambda: 0, lambda: len(rows_of(asked[0])), lambda: effects_of(model, asked, memory))


def rows_of(resolved: Resolved) -> list[Row]:
    """What is evaluated of each sample: both ends, and every group that differs from its baseline."""
    every = every_group(resolved)
    return [
        (k, absent)
        for k, groups in enumerate(touched(resolved))
        for absent in (NONE, every, *(np.array([group], np.intp) for group in groups))
    ]


def effects_of(model: LoadedModel, asked: Sequence[Resolved], memory: int) -> Evaluations:
    """The effects of all groups on each target, spread over their elements."""
    features, found = features_of(asked[0]), touched(asked[0])
    values = yield from values_at(model, asked, rows_of(asked[0]), memory)
    high, low = np.empty((2, len(asked), len(found)))
    effects = np.zeros((len(asked), len(found), features.count))
    start = 0
    for k, groups in enumerate(found):
        high[:, k], low[:, k] = values[:, start], values[:, start + 1]
        own = values[:, start + 2 : start + 2 + len(groups)]
        effects[:, k, groups] = values[:, [start]] - own
        start += 2 + len(groups)
    return [
        Sums({name: parts.spread(effect) for name, parts in features.of.items()}, {}, *ends)
        for effect, *ends in zip(effects, high, low, strict=True)
    ]
