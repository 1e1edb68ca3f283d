"""Which segments of a path to split, and where: what varies most, or as much as the tolerance is likely to need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_attribution.server.engine.rows.stored import Floats

COMPARABLE = 0.3
"""Segments are split that vary at least so much as the worst one does."""
NARROW = 2.0**-100
"""The width of a segment at alpha = 0 that is not split: beyond, float32 has no numbers."""
AIM = 0.8
"""Where few rounds are wanted, the error to come is to be this share of what is tolerated."""
FALL = 1.125
"""The power of the number of parts by which the error of a segment becomes less."""
PARTS, GROWN, ANYWAY = 16, 0.5, 24
"""Into how many parts a segment is split at once, and at most how many rows come to each that is there, or in all."""

_TRIED = (1.5 * 1.15 ** np.arange(18))[:, None]


def all_at_once(score: Floats, excess: float) -> dict[int, int]:
    """The numbers of the segments to split, and into how many parts each, so that the error, now `excess` times what is
    tolerated, is likely to be tolerated after it.

    Errors add up as squares. Over a segment in n parts the error is less by n where one kink makes it, and by n^(3/2)
    where many do; with n^p the fewest rows are had with parts in proportion to the score^(2 / (2 p + 1)).
    """
    wanted = AIM / max(excess, 2 * AIM)
    share = (score / max(score.max(), 1e-300)) ** (2 / (2 * FALL + 1))
    finer = np.clip((_TRIED * share + 0.5).astype(np.int64), 1, PARTS)  # [tried, segments]
    errors, added = np.linalg.norm(score / finer**FALL, axis=1), finer.sum(axis=1) - len(score)
    enough, few = errors <= wanted * np.linalg.norm(score), added <= max(GROWN * len(score), ANYWAY)
    number = int(np.argmax(enough)) if enough.any() else len(finer) - 1
    found = finer[max(min(number, int(few.sum()) - 1), 0)]
    return {k: int(found[k]) for k in np.flatnonzero(found > 1).tolist()}


def largest(score: Floats, count: int) -> dict[int, int]:
    """The numbers of the largest scores, at most `count` and none much less than the largest, each to be halved."""
    order = np.argsort(score, kind="stable")[::-1][:count]
    return {int(k): 2 for k in order if score[k] > 0 and score[k] >= COMPARABLE * score[order[0]]}


def between(low: float, high: float, rounds: int, parts: int) -> Sequence[float]:
    """Where to split a segment: into equal parts; towards an end geometrically, further from round to round."""
    steps = [4.0 ** -(2**j) for j in range(min(rounds, 4))]
    if low == 0 and steps:
        return [high * step for step in steps if high * step > NARROW]
    if high == 1 and steps:
        return [1 - (1 - low) * step for step in steps if (1 - low) * step > 2.0**-22]
    if 0 < 8 * low < high:
        return [low * (high / low) ** (k / parts) for k in range(1, parts)]
    return [low + (high - low) * k / parts for k in range(1, parts)]
