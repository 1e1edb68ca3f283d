"""What is known of the classes of a head: their descriptions, importance, weights, and the features of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.niwt.choose import Known
from onnx_attribution.client.niwt.classes import Classes
from onnx_attribution.client.niwt.domain_map import mean_of_units
from onnx_attribution.client.niwt.features import Dependence, Features
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance
from onnx_attribution.values import Array, ModelInfo

if TYPE_CHECKING:
    from onnx_attribution.graph_tools.programs.head import Head
    from onnx_attribution.server.engine import Engine

LEAST = 4
"""Classes of which one can be held out."""


def features_of(
    engine: Engine, model: str, head: Head, samples: Sequence[Mapping[str, Array]], info: ModelInfo
) -> tuple[NDArray[np.float64], Features]:
    """The features of each sample, the mean over positions, and what tensor they are."""
    count = head.weight.shape[1]
    features = Features(head.features, count, head.feature_axis, head.rank)
    found, positions = [], 1
    for sample in samples:
        values = engine.predict(model, sample, [head.features])[head.features]
        if info.batch == "single" and values.ndim == head.rank + 1:
            values = values[0]
        positions = values.size // count
        found.append(features.mean(values).mean(axis=0))
        if not np.isfinite(found[-1]).all():
            raise InvalidArgument(
                f"at image {len(found) - 1} of --images the features {head.features!r} are not finite; leave it out"
            )
    return np.stack(found), Features(head.features, count, head.feature_axis, head.rank, positions)


def known_of(
    head: Head,
    record: Importance,
    table: Classes,
    depends: Dependence,
    phi: NDArray[np.float64],
    notes: list[str],
) -> Known:
    """What is known of the classes that have a description, weights and images."""
    seen = [index for index in table.seen if index is not None]
    measured = [int(one) for one in record.classes]
    if beyond := [one for one in measured if one >= head.classes]:
        raise InvalidArgument(
            f"the importance is of class {beyond[0]}, and the head {head.node!r} has {head.classes} classes"
        )
    indices = sorted(set(seen) & set(measured))
    if len(indices) < LEAST:
        raise InvalidArgument(
            f"{table.file} and the importance have {len(indices)} classes in common; what is chosen is chosen on "
            f"classes held out of them, for which {LEAST} at least are needed"
        )
    for without, what in (
        (set(measured) - set(seen), "description"),
        (set(seen) - set(measured), "importance"),
    ):
        if without:
            numbers = ", ".join(map(str, sorted(without)[:5])) + ", ..." * (len(without) > 5)
            notes.append(f"{len(without)} classes have no {what} and teach nothing: {numbers}")
    if (units := depends.M.shape[1]) != record.alpha.shape[1]:
        raise InvalidArgument(
            f"the importance is of {record.alpha.shape[1]} units, and the layer {record.layer!r} has {units}; measure "
            "it anew with `onnx-attribution importance`"
        )
    logits = phi @ head.weight[indices].T + head.bias[indices]
    labels = logits.argmax(axis=1)
    M_labels = np.full(len(depends.M), -1)
    if depends.kind == "varying":
        M_labels = labels[list(depends.images)]
    return Known(
        table.described(indices),
        mean_of_units(record.alpha.astype(np.float64), record.labels, indices),
        head.weight[indices],
        head.bias[indices],
        depends.M,
        M_labels,
        phi,
        labels,
    )


def shown_of(known: Known, notes: list[str]) -> Known:
    """The classes that the network sees in the images: only of these it can be tried what holding them out does.

    Raises:
        InvalidArgument: there are too few.
    """
    rows, labels = np.unique(known.labels, return_inverse=True)
    if len(rows) < LEAST:
        raise InvalidArgument(
            f"the network takes the images for {len(rows)} of the {len(known.weights)} classes that are known; what is "
            f"chosen is chosen on classes held out of them, for which {LEAST} at least are needed: give images of more"
        )
    if len(rows) == len(known.weights):
        return known
    notes.append(
        f"the network takes the images for {len(rows)} of the {len(known.weights)} known classes; only those are held "
        "out to choose by: images of all would be better"
    )
    place = np.full(len(known.weights) + 1, -1)
    place[rows] = np.arange(len(rows))
    return replace(
        known,
        attributes=known.attributes[rows],
        importance=known.importance[rows],
        weights=known.weights[rows],
        offsets=known.offsets[rows],
        M_labels=place[known.M_labels],
        labels=labels,
    )
