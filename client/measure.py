"""An importance over the stream of an audit: what both clients know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx_attribution.client.audit.stream import Asked, Audited
from onnx_attribution.importance import ANSWER_BYTES, ITEM_BYTES, Batch, Measuring
from onnx_attribution.values import Attribution, AttributionRequest

__all__ = ["Sent", "told"]

SAMPLES, MIB = 256.0, 64.0
"""Limits of a server that does not say them."""


def told(request: AttributionRequest) -> dict[str, Any]:
    """What a client is told of the request about one sample."""
    names = ("method", "layers", "source", "target", "channel_sums")
    return {name: getattr(request, name) for name in names}


class Sent:
    """The batches of a run as items, each within the limits of a server, and which of them an answer is about."""

    def __init__(self, run: Measuring, limits: Mapping[str, float]) -> None:
        self._run, self._sent = run, dict[int, Batch]()
        most = limits.get("max_samples") or SAMPLES
        mib = limits.get("max_request_mib") or MIB
        self._size = run.size(min(mib * (1 << 19), ITEM_BYTES), int(most), ANSWER_BYTES)

    def __iter__(self) -> Iterator[Asked]:
        for number, batch in enumerate(self._run.batches(self._size)):
            self._sent[number] = batch
            yield Asked(batch.inputs, batch.target)

    def answered(self, answer: Audited) -> tuple[Batch, Attribution]:
        """The batch of an answer, and its attribution. Raises: AttributionError: it has none."""
        batch = self._sent.pop(answer.sequence)
        if answer.attribution is None:
            assert answer.error is not None
            raise self._run.refused(batch, answer.error) from answer.error
        return batch, answer.attribution
