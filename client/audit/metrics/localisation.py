"""Whether a map lies where it is known that the reason lies: a mask for each sample, of the shape of its map.

A mask without a true element, and a map without a positive one, have no place: NaN. Nor has a map of one magnitude
where its largest elements are asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.metric import Metric, declared
from onnx_attribution.errors import InvalidArgument

Masks = NDArray[np.bool_]

POINTING_GAME = declared(
    Metric(
        "pointing_game",
        "higher",
        "localisation",
        "1 where an element of the largest |a| is in the mask, else 0",
        "arXiv 1608.00507",
        chance="floor",
        quantus="PointingGame",
    )
)
ATTRIBUTION_LOCALISATION = declared(
    Metric(
        "attribution_localisation",
        "higher",
        "localisation",
        "the sum of positive a in the mask / the sum of positive a",
        "arXiv 1910.09840",
        chance="floor",
        quantus="AttributionLocalisation",
    )
)
RELEVANCE_MASS_ACCURACY = declared(
    Metric(
        "relevance_mass_accuracy",
        "higher",
        "localisation",
        "the sum of |a| in the mask / the sum of |a|",
        "arXiv 2003.07258",
        chance="floor",
        quantus="RelevanceMassAccuracy",
    )
)
RELEVANCE_RANK_ACCURACY = declared(
    Metric(
        "relevance_rank_accuracy",
        "higher",
        "localisation",
        "of the k largest |a| the share in the mask, k the size of the mask",
        "arXiv 2003.07258",
        chance="floor",
        quantus="RelevanceRankAccuracy",
    )
)
INTERSECTION_OVER_UNION = declared(
    Metric(
        "intersection_over_union",
        "higher",
        "localisation",
        "|T and S| / |T or S| for the mask S and the k largest |a|, T, k the size of the mask",
        "the Jaccard index of relevance_rank_accuracy's sets",
        chance="floor",
    )
)


def pointing_game(values: Floats, masks: Masks) -> Floats:
    """POINTING_GAME."""
    found, inside = _flat(values, masks)
    top = found.max(axis=1, keepdims=True)
    hit = ((found == top) & inside).any(axis=1)
    return np.where(inside.any(axis=1) & (top[:, 0] > found.min(axis=1)), hit, np.nan)


def attribution_localisation(values: Floats, masks: Masks) -> Floats:
    """ATTRIBUTION_LOCALISATION."""
    return _share(np.maximum(values, 0.0), masks)


def relevance_mass_accuracy(values: Floats, masks: Masks) -> Floats:
    """RELEVANCE_MASS_ACCURACY."""
    return _share(np.abs(values), masks)


def relevance_rank_accuracy(values: Floats, masks: Masks) -> Floats:
    """RELEVANCE_RANK_ACCURACY; of equal magnitudes of which not all are among the largest, each counts as the share of
    them that is."""
    return _top(values, masks)[0]


def intersection_over_union(values: Floats, masks: Masks) -> Floats:
    """INTERSECTION_OVER_UNION."""
    share, sizes = _top(values, masks)
    return np.where(sizes > 0, share / (2 - share), np.nan)


def _top(values: Floats, masks: Masks) -> tuple[Floats, Floats]:
    found, inside = _flat(values, masks)
    sizes = inside.sum(axis=1)
    share = np.full(len(found), np.nan)
    for k, size in enumerate(sizes):
        if size and found[k].max() > found[k].min():
            least = np.sort(found[k])[-size]
            above, equal = found[k] > least, found[k] == least
            tied = (size - above.sum()) * inside[k, equal].mean()
            share[k] = (inside[k, above].sum() + tied) / size
    return share, sizes.astype(np.float64)


def _share(values: Floats, masks: Masks) -> Floats:
    found, inside = _flat(values, masks)
    total = found.sum(axis=1)
    missing = (total == 0) | ~inside.any(axis=1)
    return np.where(missing, np.nan, (found * inside).sum(axis=1) / np.where(total == 0, 1.0, total))


def _flat(values: Floats, masks: Masks) -> tuple[Floats, Masks]:
    """Magnitudes and masks as `[samples, elements]`."""
    values, masks = np.asarray(values, np.float64), np.asarray(masks)
    if masks.dtype != bool:
        raise InvalidArgument(f"masks hold truth values, not {masks.dtype}", parameter="masks")
    if values.shape != masks.shape:
        raise InvalidArgument(
            f"masks have the shape {list(masks.shape)}, the maps {list(values.shape)}", parameter="masks"
        )
    return np.abs(values).reshape(len(values), -1), masks.reshape(len(masks), -1)
