"""Sums over the positions of channels: where these lie, in a program and on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.channels import usual_axis
from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.emit import shape_of
from onnx_attribution.graph_tools.network import RowAxis
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest

Floats = NDArray[np.float64]
Axes = Mapping[str, int | None]
"""By layer the axis of its channels with that of the samples in front; None: the usual one of its rank."""


def channel_axes(
    model: LoadedModel,
    request: AttributionRequest,
    layers: Sequence[str],
    places: Mapping[str, RowAxis | None],
) -> dict[str, int | None]:
    """The axes of the channels of layers of which sums are asked for; empty where none are.

    Raises:
        InvalidArgument: sums_only as well, or an axis that a layer does not have.
    """
    told = request.channel_sums
    if told is None:
        return {}
    if request.sums_only:
        raise InvalidArgument("give sums_only or channel_sums, not both", option="channel_sums")
    found: dict[str, int | None] = {}
    for layer in layers:
        place, shape = places[layer], shape_of(model.tensors[layer])
        if told == "auto":
            own = model.channel_axis(layer)
            found[layer] = None if own is None else in_front(own, place)
            continue
        rank = None if shape is None else len(shape) + (place is None or place.factor != 1)
        if rank is not None and not (1 <= told < rank or 1 <= told + rank < rank):
            raise no_channels(layer, told, rank)
        found[layer] = told if rank is None else told % rank
    return found


def no_channels(layer: str, told: int, rank: int) -> InvalidArgument:
    """The refusal of an axis that is not there."""
    return InvalidArgument(
        f"channel_sums: the layer {layer!r} has {rank} axes with its samples in front, and no axis of channels {told}; "
        + (f"it may be 1 to {rank - 1}, or -1 for the last" if rank > 1 else "it has one number a sample"),
        reason=Reason.LAYER_INVALID, layer=layer,
    )  # fmt: skip


def in_front(own: int, place: RowAxis | None) -> int | None:
    """Where an axis of a tensor lies once its rows are in front; None for that of the rows."""
    if place is None:
        return own + 1
    if own == place.axis:
        return None
    before = own + 1 if own < place.axis else own
    return before if place.factor == 1 else before + 1


def own_axis(front: int, place: RowAxis | None) -> int | None:
    """The inverse of `in_front`; None for the neighbouring elements of a row, which have no axis of their own."""
    if place is None:
        return front - 1
    if place.factor != 1:
        front -= 1
    return None if front < 1 else front - 1 if front <= place.axis else front


def by_channel(values: Floats, axis: int | None, layer: str) -> Floats:
    """`[samples, channels]` of `[samples, *unit]`; what has two axes is so already.

    Raises:
        InvalidArgument: there is no such axis.
    """
    if values.ndim < 3:
        return values.reshape(len(values), -1)
    axis = usual_axis(values.ndim) if axis is None else axis
    if not -values.ndim < axis < values.ndim or axis == 0:
        raise no_channels(layer, axis, values.ndim)
    others = tuple(k for k in range(1, values.ndim) if k != axis % values.ndim)
    return np.asarray(values.sum(axis=others, dtype=np.float64))
