"""A data set over one stream: what both clients know of it. No input or output of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from onnx_attribution.client import messages
from onnx_attribution.client.errors import from_status
from onnx_attribution.client.events import Retrying
from onnx_attribution.errors import AttributionError, InvalidArgument, NotReady, ServerBug
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import events, requests, tensors
from onnx_attribution.values import Attribution, Target

__all__ = ["Asked", "AuditProgress", "Audited", "Log"]

RESTART_SECONDS = 30.0
"""How long an audit that has had answers waits for a server that is gone: it may be starting again."""


@dataclass(frozen=True, eq=False)
class Asked:
    """An item with a target of its own, in place of that of the audit: one or several samples."""

    inputs: messages.Inputs
    target: Target


@dataclass(frozen=True)
class Audited:
    """The answer to one item, by its place in the data set: an attribution, or what is wrong with the item."""

    sequence: int
    attribution: Attribution | None = None
    error: AttributionError | None = None


@dataclass(frozen=True)
class AuditProgress:
    """How far an audit is: items answered, those of them with an error, and seconds by the server's clock."""

    answered: int
    errors: int
    seconds: float


class Log:
    """The items of one audit that are sent and not answered: what a new stream has to be given once more."""

    def __init__(self, model: str, options: Mapping[str, Any], window: int) -> None:
        self.model = model
        self._request = messages.to_request(model, {}, **options)
        self._window = window
        self.unanswered: dict[int, pb.AuditItem] = {}
        self.answered = self.errors = 0
        self.next = 0
        self.is_over = False
        self._retrying = Retrying()

    def delay(self, error: NotReady) -> float:
        """Seconds to wait before the next stream. Raises: NotReady, the given one, if there is to be none."""
        return self._retrying.delay(error, RESTART_SECONDS if self.answered else 0.0)

    def opening(self) -> pb.AuditRequest:
        """The first message of a stream."""
        first = min(self.unanswered, default=self.next)
        opening = pb.AuditOpen(request=self._request, window=self._window, resume_from=first)
        return pb.AuditRequest(open=opening)

    def item(self, inputs: Mapping[str, ArrayLike], target: Target | None = None) -> pb.AuditRequest:
        """The message of the next item. Raises: InvalidArgument for what has no form on the wire."""
        encoded = [tensors.encode(name, array) for name, array in messages.arrays(inputs).items()]
        own = None if target is None else requests.to_target(target)
        item = pb.AuditItem(sequence=self.next, inputs=encoded, target=own)
        self.unanswered[self.next] = item
        self.next += 1
        return pb.AuditRequest(item=item)

    def again(self) -> Iterator[pb.AuditRequest]:
        """The messages of the items that are not answered yet."""
        for _, item in sorted(self.unanswered.items()):
            yield pb.AuditRequest(item=item)

    def answer(self, message: pb.AuditResponse) -> Audited | None:
        """The answer that a message is, if it is one. Raises: ServerBug for an answer that nobody asked for."""
        match message.WhichOneof("message"):
            case "summary":
                self.is_over = True
                return None
            case "result":
                found = self._result(message.result)
            case "error":
                self.errors += 1
                found = Audited(message.error.sequence, error=from_status(message.error.status))
            case _:
                return None
        if self.unanswered.pop(found.sequence, None) is None:
            raise ServerBug(f"the server answered item {found.sequence}, which was not asked")
        self.answered += 1
        self._retrying.heard()
        return found

    def _result(self, message: pb.AuditResult) -> Audited:
        try:
            arrays = [tensors.decode(tensor) for tensor in message.attributions]
            return Audited(message.sequence, events.from_summary(message.summary, arrays))
        except (InvalidArgument, ValueError) as error:
            raise ServerBug(f"the server's answer to item {message.sequence} is broken: {error}") from error

    def progress(self, seconds: float) -> AuditProgress:
        """What is answered so far."""
        return AuditProgress(self.answered, self.errors, seconds)
