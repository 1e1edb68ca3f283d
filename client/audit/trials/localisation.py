"""Whether maps lie where the reason is known to lie, on samples that have a mask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats, from_json
from onnx_attribution.client.audit.metrics import localisation
from onnx_attribution.client.audit.metrics.metric import Metric
from onnx_attribution.client.audit.records import plain as number
from onnx_attribution.client.audit.run import Audit, Step
from onnx_attribution.client.audit.trials.places import positions_of, scores_at, source_of, unit_of
from onnx_attribution.client.audit.verdict import Finding, findings
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array

TRIED: tuple[tuple[Metric, Callable[[Floats, NDArray[np.bool_]], Floats]], ...] = (
    (localisation.POINTING_GAME, localisation.pointing_game),
    (localisation.ATTRIBUTION_LOCALISATION, localisation.attribution_localisation),
    (localisation.RELEVANCE_MASS_ACCURACY, localisation.relevance_mass_accuracy),
    (localisation.RELEVANCE_RANK_ACCURACY, localisation.relevance_rank_accuracy),
    (localisation.INTERSECTION_OVER_UNION, localisation.intersection_over_union),
)
DRAWS = 8
"""Random maps of each sample: the same numbers at other places."""


class Localisation:
    """The metrics of localisation, of maps that have the positions of the source: its own, or of a hidden layer in
    blocks over them. Where masks have no channels, those of a map are summed."""

    name = "localisation"

    def planned(self, audit: Audit) -> int:
        return len(audit.data)

    def seconds(self, audit: Audit) -> float:
        del audit
        return 0.0  # nothing is asked

    def steps(self, audit: Audit) -> Iterator[Step]:
        if all(one.mask is None for one in audit.data.items):
            raise InvalidArgument("no sample has a mask: --masks FILE, or an array 'masks' in the data")
        source = source_of(audit)
        for k, item in enumerate(audit.data.items):
            yield Step(f"located-{k:06d}", f"mask of {item.id}", partial(self._step, audit, k, source))

    def _step(self, audit: Audit, k: int, source: str) -> tuple[Mapping[str, Any], Mapping[str, Array]]:
        item = audit.data.items[k]
        if item.mask is None:
            return {"methods": {}}, {}
        unit = unit_of(audit, k, source)
        axes = positions_of(unit, is_input=source in item.inputs)
        mask, has_channels = _placed(item.mask, unit, axes, item.id)
        told: dict[str, Any] = {}
        for name in audit.answered(k):
            placed = scores_at(audit.maps(k, name), {source: unit}, {source: axes})
            if placed is None:
                continue
            found = placed[source]
            if not has_channels:
                found = found.sum(axis=tuple(axis for axis in range(len(unit)) if axis not in axes))
            rng = np.random.default_rng(audit.settings.seed + k)
            chance = np.stack([rng.permutation(found.ravel()).reshape(found.shape) for _ in range(DRAWS)])
            many = np.broadcast_to(mask, chance.shape)
            told[name] = {
                metric.name: [
                    number(float(function(found[None], mask[None])[0])),
                    number(float(function(chance, many).mean())),
                ]
                for metric, function in TRIED
            }
        return {"methods": told}, {}

    def findings(self, audit: Audit) -> list[Finding]:
        items = [audit.state.numbers(f"located-{k:06d}")["methods"] for k in range(len(audit.data))]
        items = [one for one in items if one]
        found: list[Finding] = []
        for metric, _ in TRIED:
            own, chance = (
                {
                    name: from_json([one[name][metric.name][at] if name in one else None for one in items])
                    for name in audit.everywhere
                }
                for at in (0, 1)
            )
            own = {name: values for name, values in own.items() if np.isfinite(values).any()}
            if own:
                random = {name: chance[name] for name in own}
                found += findings(metric, own, random, seed=audit.settings.seed)
        return found

    def found(self, audit: Audit) -> dict[str, Any] | None:
        masks = [one.mask for one in audit.data.items if one.mask is not None]
        return {
            "source": source_of(audit),
            "samples": len(masks),
            "share": float(np.mean([mask.mean() for mask in masks])),
            "random_maps": DRAWS,
        }


def check_masks(audit: Audit) -> None:
    """Raises: InvalidArgument: a mask has not the shape of its sample or of its positions, as far as that is known
    before the samples are explained."""
    source = (*(audit.settings.source or audit.info.sources), "")[0]
    if source not in {one.name for one in audit.info.inputs}:
        return
    for k, item in enumerate(audit.data.items):
        if item.mask is not None:
            unit = unit_of(audit, k, source)
            _placed(item.mask, unit, positions_of(unit), item.id)


def _placed(
    mask: NDArray[np.bool_], unit: tuple[int, ...], axes: tuple[int, ...], name: str
) -> tuple[NDArray[np.bool_], bool]:
    """A mask in the shape of a sample, or of its positions; and whether it is that of a sample.

    Raises:
        InvalidArgument: it has neither shape.
    """
    positions = tuple(unit[axis] for axis in axes)
    if mask.shape == tuple(unit):
        return mask, True
    lone = tuple(size if axis in axes else 1 for axis, size in enumerate(unit))
    if mask.shape in (positions, lone):
        return mask.reshape(positions), False
    raise InvalidArgument(
        f"the mask of {name!r} has the shape {list(mask.shape)}; it is {list(unit)} as the sample, or "
        f"{list(positions)} as its positions",
        parameter="masks",
    )
