"""Where the channels of a layer lie: the axis whose elements are units, while all others are their positions."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["axis_of_sample", "usual_axis"]


def usual_axis(rank: int) -> int:
    """The axis of the channels in an array of `rank` axes, the samples in front, of which nothing else is known.

    The first behind the samples where there are four axes or more, as in `[N, C, H, W]`; the last where there are
    fewer, as in `[N, T, D]` and `[N, K]`.
    """
    return 1 if rank > 3 else rank - 1


def axis_of_sample(
    sizes: Sequence[int], shape: Sequence[int | str | None] | None = None, axis: int | None = None
) -> int:
    """The axis of the channels of one sample of these sizes, of a layer with this shape and its channels on this axis;
    the usual one where that is not known.

    The shape has one axis more, that of the samples, where these share a run: it is the first one without which the
    sizes fit.
    """
    if shape is not None and axis is not None:
        if len(shape) == len(sizes):
            return axis
        if len(shape) == len(sizes) + 1:
            for front in range(len(shape)):
                rest = [size for k, size in enumerate(shape) if k != front]
                if front != axis and all(
                    not isinstance(a, int) or a == b for a, b in zip(rest, sizes, strict=True)
                ):
                    return axis - (front < axis)
    return usual_axis(len(sizes) + 1) - 1
