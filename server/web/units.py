"""What the units of a layer contribute over a data set, and the samples that show it best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.client.audit.stream import Asked
from onnx_attribution.client.messages import options_of
from onnx_attribution.client.render import page
from onnx_attribution.client.render.inputs import shown_of
from onnx_attribution.client.render.maps import range_of
from onnx_attribution.client.render.scene import HeatPanel
from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.web.words import moved_to_front
from onnx_attribution.values import AttributionRequest, LayerAttribution, ModelInfo, Target

EXAMPLES = 9
"""Samples of a unit that are shown."""
LISTED = 64
"""Units of a layer that are listed."""


@dataclass(frozen=True)
class Sums:
    """`[samples, units]`: what each unit of a layer contributes to the target of each sample; NaN where there is no
    answer."""

    layer: str
    values: NDArray[np.float64]

    @property
    def unanswered(self) -> int:
        return int(np.isnan(self.values).all(axis=1).sum())

    def strongest(self) -> list[dict[str, Any]]:
        """The units by their mean absolute contribution."""
        means = np.nanmean(np.abs(self.values), axis=0)
        signed = np.nanmean(self.values, axis=0)
        whole = float(means.sum()) or math.nan
        order = np.argsort(-means, kind="stable")[:LISTED]
        return [
            {
                "number": int(k),
                "mean": float(signed[k]),
                "size": float(means[k]),
                "share": float(means[k]) / whole,
            }
            for k in order
        ]

    def of(self, unit: int) -> NDArray[np.float64]:
        """Raises: InvalidArgument: there is no such unit."""
        if not 0 <= unit < self.values.shape[1]:
            raise InvalidArgument(
                f"layer {self.layer!r} has no unit {unit}; they are 0 to {self.values.shape[1] - 1}"
            )
        return self.values[:, unit]

    def examples(self, unit: int) -> list[int]:
        """The samples to which the unit contributes most, the largest first."""
        values = self.of(unit)
        order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
        return [int(k) for k in order[:EXAMPLES] if np.isfinite(values[k])]


async def sums_over(
    client: AsyncClient,
    request: AttributionRequest,
    layer: str,
    data: Dataset,
    targets: Sequence[Target | None],
) -> Sums:
    """The sums over the positions of each unit, of all samples that have a target, over one stream.

    Raises:
        AttributionError: no sample can be explained.
    """
    found: dict[int, NDArray[np.float64]] = {}
    failure: AttributionError | None = None
    options = options_of(request.changed(layers=(layer,), channel_sums="auto"))
    places = [k for k, target in enumerate(targets) if target is not None]
    items = [Asked(data.items[k].inputs, targets[k] or Target()) for k in places]
    async for one in client.audit(request.model, items, **options):
        if one.attribution is None:
            failure = failure or one.error
            continue
        (answer,) = one.attribution.layers.values()
        found[places[one.sequence]] = np.asarray(answer.values[0], np.float64).reshape(-1)
    if not found:
        raise failure or InvalidArgument("the data set holds no samples that have a target")
    missing = np.full_like(next(iter(found.values())), np.nan)
    return Sums(layer, np.stack([found.get(k, missing) for k in range(len(data))]))


def picture_of(info: ModelInfo, inputs: Mapping[str, Any], layer: LayerAttribution | None, unit: int) -> str:
    """A sample with what one unit of a layer contributes where; "" where the sample is no picture."""
    image = shown_of(info, inputs).image(0)
    if image is None:
        return ""
    values = None if layer is None else moved_to_front(np.asarray(layer.values[0], np.float64))[unit]
    if values is None or values.ndim != 2:
        return page.picture(page.pixels_of(image), "the sample")
    limit = range_of(values).limit
    return page.picture(page.pixels_of(image), "the sample") + page.panel(
        HeatPanel(f"what unit {unit} contributes", values, limit, image, values.shape, True)
    )
