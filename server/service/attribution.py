"""Predictions and attributions: messages to calls of the engine and back. Decides nothing else."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.methods import DOUBLED_STEPS, FIXED_STEPS, MethodInfo
from onnx_attribution.parameters import parameters_of
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.proto import events, method_messages, requests, tensors, words
from onnx_attribution.server.service.audit import Audit
from onnx_attribution.server.service.pages import page
from onnx_attribution.server.service.status import Scrub
from onnx_attribution.server.service.threads import Stop, Work, no_result
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import (
    Accepted,
    Array,
    Attribution,
    AttributionRequest,
    Completed,
    Event,
    LayerInfo,
    ModelInfo,
    Revision,
    StopReason,
)

__all__ = ["AttributionService", "Engine"]

MIB = 1 << 20
Item = TypeVar("Item")


class Engine(Protocol):
    """What the services need of the engine: blocking, thread-safe; `stream` may be advanced by several threads."""

    def models(self) -> list[ModelInfo]: ...
    def info(self, model: str) -> ModelInfo: ...
    def warm_up(self, model: str) -> ModelInfo: ...
    def methods(self) -> list[MethodInfo]: ...
    def layers(self, model: str, pattern: str = "") -> list[LayerInfo]: ...
    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]: ...
    def stream(
        self,
        request: AttributionRequest,
        *,
        stop: Callable[[], StopReason | Literal["cancelled"] | None] | None = None,
        revisions: bool = True,
    ) -> Iterator[Event]: ...


class AttributionService(rpc.AttributionServiceServicer):
    """Predict, Attribute and StreamAttribute over an engine."""

    def __init__(self, engine: Engine, work: Work, settings: Settings, scrub: Scrub) -> None:
        self._engine = engine
        self._work = work
        self._settings = settings
        self._scrub = scrub

    async def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        def predict() -> pb.PredictResponse:
            inputs = requests.from_tensors(request.inputs, "inputs")
            self._limit_samples(request.model, inputs)
            outputs = self._engine.predict(request.model, inputs, tuple(request.outputs))
            self._limit_bytes(outputs.values(), "ask for fewer samples or outputs")
            return pb.PredictResponse(outputs=[tensors.encode(*item) for item in outputs.items()])

        with self._work.admit():
            return await self._work.run(predict, self._seconds(context, self._settings.unary_seconds))

    async def Attribute(self, request: pb.AttributeRequest, context: Any) -> pb.AttributeResponse:
        response = pb.AttributeResponse()
        revisions: dict[int, Revision] = {}

        def prepare(event: Event) -> Event:
            if isinstance(event, Revision):
                self._limit_revision(event)
                revisions[event.number] = event
            if isinstance(event, Completed) and event.best_revision in revisions:
                best = revisions[event.best_revision].attribution
                response.summary.CopyFrom(events.to_summary(best))
                response.attributions.extend(
                    tensors.encode(layer.name, layer.values) for layer in best.layers.values()
                )
            return event

        with self._work.admit():
            async for event in self._events(request, context, self._settings.unary_seconds, prepare, False):
                match event:
                    case Accepted():
                        response.accepted.CopyFrom(events.to_accepted(event))
                    case Completed():
                        response.stop_reason = words.STOP_REASONS.number(event.stop_reason)
        return response

    async def StreamAttribute(
        self, request: pb.AttributeRequest, context: Any
    ) -> AsyncIterator[pb.StreamAttributeResponse]:
        def prepare(event: Event) -> tuple[pb.StreamAttributeResponse, int, list[bytes]]:
            if not isinstance(event, Revision):
                return events.to_event(event), 0, []
            layers = event.attribution.layers.values()
            return events.to_event(event), event.number, [tensors.to_bytes(layer.values) for layer in layers]

        with self._work.admit(Reason.TOO_MANY_STREAMS):
            seconds = self._settings.stream_seconds
            async for message, number, arrays in self._events(request, context, seconds, prepare):
                yield message
                for layer, raw in enumerate(arrays):
                    for offset, data, last in tensors.split(raw):
                        chunk = pb.Chunk(revision=number, layer=layer, offset=offset, data=data, last=last)
                        yield pb.StreamAttributeResponse(chunk=chunk)

    async def Audit(
        self, request_iterator: AsyncIterator[pb.AuditRequest], context: Any
    ) -> AsyncIterator[pb.AuditResponse]:
        with self._work.admit(Reason.TOO_MANY_AUDITS):
            audit = Audit(self._work, self._settings, self._answer, self._digest, self._scrub)
            answers = audit.answers(request_iterator)
            try:
                async for answer in answers:
                    yield answer
            finally:
                await answers.aclose()  # type: ignore[attr-defined]  # now, not when it is collected

    def _digest(self, model: str) -> str:
        return self._engine.info(model).digest

    async def ListMethods(self, request: pb.ListMethodsRequest, context: Any) -> pb.ListMethodsResponse:
        methods, token = page(self._engine.methods(), request.page_size or 100, 1000, request.page_token, "")
        return pb.ListMethodsResponse(methods=map(method_messages.to_info, methods), next_page_token=token)

    async def _events(
        self,
        message: pb.AttributeRequest,
        context: Any,
        default_seconds: float,
        prepare: Callable[[Event], Item],
        every: bool = True,
    ) -> AsyncIterator[Item]:
        """The engine's events; ends after the first one where the request is only validated."""
        stop = Stop(self._seconds(context, default_seconds), self._work.draining)
        context.add_done_callback(lambda _: stop.cancel())
        accepted = False

        def start() -> Iterator[Event]:
            return self._started(message, stop, every)

        def checked(event: Event) -> Item:
            nonlocal accepted
            accepted |= isinstance(event, Accepted)
            if isinstance(event, Completed) and not stop.has_result:
                raise no_result(stop, event.stop_reason)
            return prepare(event)

        produced = self._work.events(start, stop, checked)
        try:
            async for item in produced:
                yield item
                if message.validate_only and accepted:
                    return
        finally:
            await produced.aclose()  # type: ignore[attr-defined]  # now, not when it is collected

    def _started(self, message: pb.AttributeRequest, stop: Stop, every: bool) -> Iterator[Event]:
        """The engine's events about a message, once it is read and within the limits."""
        request = requests.from_request(message)
        request = self._limit_steps(request)
        self._limit_samples(request.model, request.inputs, len(request.each_target))
        request = dataclasses.replace(request, request_id=request.request_id or uuid.uuid4().hex)
        return self._engine.stream(request, stop=stop, revisions=every and not message.last_only)

    def _answer(self, message: pb.AttributeRequest, stop: Stop) -> tuple[Attribution, StopReason]:
        """The best revision of a message, within what one message holds, and why there is no better one."""
        revisions: dict[int, Attribution] = {}
        for event in self._started(message, stop, every=False):
            if isinstance(event, Revision):
                self._limit_revision(event)
                revisions[event.number] = event.attribution
                stop.has_result = True
            elif isinstance(event, Completed) and event.best_revision in revisions:
                return revisions[event.best_revision], event.stop_reason
        raise no_result(stop)

    def _limit_revision(self, revision: Revision) -> None:
        values = (layer.values for layer in revision.attribution.layers.values())
        self._limit_bytes(values, "use StreamAttribute, or ask for sums_only, fewer samples or layers")

    def _seconds(self, context: Any, default: float) -> float:
        """The time a call has: the client's, or the default where it states none."""
        remaining: float | None = context.time_remaining()
        if remaining is None or remaining > NO_DEADLINE:
            return default
        limit = self._settings.max_seconds
        if remaining > limit:
            message = f"the deadline is {remaining:.0f} s away; at most {limit:g} s are allowed"
            raise InvalidArgument(message, reason=Reason.DEADLINE_TOO_LONG, limit=f"{limit:g}")
        return remaining

    def _limit_steps(self, request: AttributionRequest) -> AttributionRequest:
        """The request with no more steps than the limit where it leaves them open. Raises: InvalidArgument."""
        found, limit, method = requests.Violations(), self._settings.max_steps, request.method
        for one in parameters_of(type(method)):
            if one.accuracy and one.kind == "integer":
                place, value = f"{method.name}.{one.name}", getattr(method, one.name)
                found.require(value is None or value <= limit, place, f"must be at most {limit}")
                open_until = {"steps": FIXED_STEPS, "max_steps": DOUBLED_STEPS}.get(one.name, 0)
                if value is None and limit < open_until:
                    request = request.changed(**{one.name: limit})
        found.raise_if_any()
        return request

    def _limit_samples(self, model: str, inputs: Mapping[str, Array], targets: int = 1) -> None:
        limit = self._settings.max_samples
        for info in self._engine.info(model).inputs:
            array = inputs.get(info.name)
            if array is None or info.batch_axis is None or array.ndim <= info.batch_axis:
                continue  # the engine says what is wrong with it
            samples = array.shape[info.batch_axis]
            if samples * targets > limit:
                each = f", each for {targets} targets" * (targets > 1)
                raise InvalidArgument(
                    f"input {info.name!r} holds {samples} samples{each}; at most {limit} may be asked for at once",
                    reason=Reason.REQUEST_TOO_LARGE, limit=limit, actual=samples * targets,
                )  # fmt: skip

    def _limit_bytes(self, arrays: Iterator[Array] | Any, hint: str) -> None:
        limit, actual = int(self._settings.max_response_mib * MIB), sum(array.nbytes for array in arrays)
        if actual > limit:
            message = f"the result is {actual} bytes, and one message holds at most {limit}; {hint}"
            raise InvalidArgument(message, reason=Reason.RESULT_TOO_LARGE, limit=limit, actual=actual)


# Without a deadline, grpcio reports the time until the end of its clock.
NO_DEADLINE = 10 * 365 * 86400.0
