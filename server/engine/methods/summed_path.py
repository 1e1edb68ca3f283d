"""Paths of layers that are too large for their rows to be kept: programs add up the segments between them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from onnx_attribution.server.engine.methods.adaptive_path import TOGETHER, Paths
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Path
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.rows.adaptive_sums import AdaptiveSums
from onnx_attribution.server.engine.rows.inside import Inside
from onnx_attribution.values import Array

SEGMENTS = 128
"""Segments of a path at most, where nobody says how many: each is evaluated several times."""


class SummedPaths(Paths):
    """Paths of which nothing is kept but sums."""

    shares = False

    def __init__(self, model: LoadedModel, resolved: Resolved, memory: int) -> None:
        at = resolved.recipe.at
        assert isinstance(at, Path)
        named = resolved.request.method.parameters().get("max_steps") is not None
        most = max(at.max_steps if named else min(at.max_steps, SEGMENTS), 2) + 1
        super().__init__(model, resolved, memory)
        for one in self.samples:
            one.limit = most
        self._inside = Inside(model, resolved, memory)

    @property
    def kept(self) -> int:
        return 0

    def _adaptive(self, number: int, ray: bool) -> AdaptiveSums:
        layers = self._resolved.choice.layers
        return AdaptiveSums(
            tolerance=self._at.tolerance or 0.0,
            layers=(*layers, TOGETHER) if self._joint else layers,
        )

    def refine(self, numbers: Sequence[int]) -> Generator[int, object, object]:
        said: object = None
        for number in numbers:
            said = (yield from self._refine_one(number)) or said
        return said

    def _refine_one(self, number: int) -> Generator[int, object, object]:
        one, said = self.samples[number], None
        adaptive = one.adaptive
        assert isinstance(adaptive, AdaptiveSums)
        wanted = one.wanted().tolist()
        planned = list(adaptive.runs(self._inside.limit, wanted))
        adaptive.begin()
        for run, found in self._inside(number, planned):
            for place, alpha in enumerate(run.alphas):
                if alpha in (0.0, 1.0):
                    one.ends[alpha] = float(found["target/value"][place])
            adaptive.take(run, self._with_joint(found))
            said = (yield len(run.alphas)) or said
        if not one.rows:
            self._tell_change(one)
        adaptive.end(wanted)
        one.rows = adaptive.rows
        return said

    def _with_joint(self, found: Mapping[str, Array]) -> Mapping[str, Array]:
        """With all layers as one where only together they are a cut."""
        if not self._joint:
            return found
        layers = self._resolved.choice.layers
        whole = {
            f"{kind}/{TOGETHER}": np.concatenate(
                [found[f"{kind}/{n}"].reshape(1, -1) for n in layers], axis=1
            )
            for kind in ("sum", "square")
        }
        scores = {
            f"{kind}/{TOGETHER}": np.sum([found[f"{kind}/{n}"] for n in layers], axis=0)
            for kind in ("varies", "size")
        }
        return {**found, **whole, **scores}
