"""Where the channels of a layer lie: the axis whose elements are units, while all others are their positions."""

from __future__ import annotations

__all__ = ["usual_axis"]


def usual_axis(rank: int) -> int:
    """The axis of the channels in an array of `rank` axes, the samples in front, of which nothing else is known.

    The first behind the samples where there are four axes or more, as in `[N, C, H, W]`; the last where there are
    fewer, as in `[N, T, D]` and `[N, K]`.
    """
    return 1 if rank > 3 else rank - 1
