"""Predictions, interventions and attributions: messages to calls of the engine and back. Decides nothing else."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from onnx_attribution.errors import AttributionError, Reason
from onnx_attribution.interventions import Intervened, Intervention
from onnx_attribution.methods import MethodInfo
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import attribution_pb2_grpc as rpc
from onnx_attribution.proto import events, interventions, method_messages, requests, tensors, wire, words
from onnx_attribution.server.service.audit import Audit
from onnx_attribution.server.service.limits import Limits
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
    Progress,
    Revision,
    Selection,
    StopReason,
    Target,
)

__all__ = ["AttributionService", "Engine", "refusal"]

Item = TypeVar("Item")
FULL = {
    f"/{pb.DESCRIPTOR.package}.AttributionService/Predict": Reason.QUEUE_FULL,
    f"/{pb.DESCRIPTOR.package}.AttributionService/Intervene": Reason.QUEUE_FULL,
    f"/{pb.DESCRIPTOR.package}.AttributionService/Attribute": Reason.QUEUE_FULL,
    f"/{pb.DESCRIPTOR.package}.AttributionService/StreamAttribute": Reason.TOO_MANY_STREAMS,
    "/inference.GRPCInferenceService/ModelInfer": Reason.QUEUE_FULL,
}
"""With what the calls of one message are refused where there is no room for them."""
PROGRESS_SECONDS = 1.0  # between those of a stream whose client waits for the end only


class Engine(Protocol):
    """What the services need of the engine: blocking, thread-safe; `stream` may be advanced by several threads."""

    def models(self) -> list[ModelInfo]: ...
    def info(self, model: str) -> ModelInfo: ...
    def look(self, model: str) -> ModelInfo: ...
    def warm_up(self, model: str) -> ModelInfo: ...
    def methods(self) -> list[MethodInfo]: ...
    def layers(self, model: str, pattern: str = "", target: str = "") -> list[LayerInfo]: ...
    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]: ...
    def intervene(
        self,
        model: str,
        inputs: Mapping[str, Array],
        interventions: Intervention | Sequence[Intervention],
        *,
        target: Target | Selection = None,
        outputs: Sequence[str] = (),
        donors: Mapping[str, Array] | None = None,
    ) -> Intervened: ...
    def stream(
        self,
        request: AttributionRequest,
        *,
        stop: Callable[[], StopReason | Literal["cancelled"] | None] | None = None,
        revisions: bool = True,
    ) -> Iterator[Event]: ...


def refusal(work: Work, method: str) -> AttributionError | None:
    """What a call would be refused with now, by its path `/package.Service/Method`."""
    return work.refusal(FULL[method]) if method in FULL else None


class AttributionService(rpc.AttributionServiceServicer):
    """The calls of AttributionService over an engine."""

    def __init__(self, engine: Engine, work: Work, settings: Settings, scrub: Scrub) -> None:
        self._engine = engine
        self._work = work
        self._settings = settings
        self._limits = Limits(engine, settings)
        self._scrub = scrub

    async def Predict(self, request: pb.PredictRequest, context: Any) -> bytes:
        def predict() -> bytes:
            inputs = requests.from_tensors(request.inputs, "inputs")
            self._limits.samples(request.model, inputs)
            outputs = self._engine.predict(request.model, inputs, tuple(request.outputs))
            self._limits.bytes(outputs.values(), "ask for fewer samples or outputs")
            number = pb.PredictResponse.OUTPUTS_FIELD_NUMBER
            fields = (part for item in outputs.items() for part in wire.tensor(number, *item))
            return wire.joined(pb.PredictResponse(), fields)

        with self._work.admit():
            return await self._work.run(predict, self._limits.seconds(context, self._settings.unary_seconds))

    async def Intervene(self, request: pb.InterveneRequest, context: Any) -> pb.InterveneResponse:
        def intervene() -> pb.InterveneResponse:
            asked = interventions.from_request(request)
            for inputs in (asked.inputs, asked.donors):
                self._limits.samples(asked.model, inputs)
            answer = self._engine.intervene(
                asked.model,
                asked.inputs,
                asked.interventions,
                target=asked.target,
                outputs=asked.outputs,
                donors=asked.donors or None,
            )
            arrays = [
                answer.values,
                answer.largest,
                *answer.outputs.values(),
                *answer.outputs_before.values(),
            ]
            self._limits.bytes(arrays, "ask for fewer samples, interventions or outputs")
            return interventions.to_answer(answer)

        with self._work.admit():
            seconds = self._limits.seconds(context, self._settings.stream_seconds)
            return await self._work.run(intervene, seconds)

    async def Attribute(self, request: pb.AttributeRequest, context: Any) -> pb.AttributeResponse:
        response, best = pb.AttributeResponse(), _Best(self._limit_revision)

        def prepare(event: Event) -> Event:
            if (found := best.after(event)) is not None:
                response.summary.CopyFrom(events.to_summary(found))
                response.attributions.extend(
                    tensors.encode(layer.name, layer.values) for layer in found.layers.values()
                )
            return event

        with self._work.admit():
            async for event in self._events(
                request, context, self._settings.unary_seconds, prepare, sends=False
            ):
                match event:
                    case Accepted():
                        response.accepted.CopyFrom(events.to_accepted(event))
                    case Completed():
                        response.stop_reason = words.STOP_REASONS.number(event.stop_reason)
        return response

    async def StreamAttribute(
        self, request: pb.AttributeRequest, context: Any
    ) -> AsyncIterator[pb.StreamAttributeResponse | bytes]:
        told = time.monotonic()

        def prepare(event: Event) -> tuple[pb.StreamAttributeResponse, int, list[bytes]] | None:
            nonlocal told
            now = time.monotonic()
            if isinstance(event, Progress) and request.last_only and now - told < PROGRESS_SECONDS:
                return None
            told = now
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
                        yield wire.chunk(number, layer, offset, data, last)

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
        every = await self._work.run(self._engine.methods, self._settings.unary_seconds, compute=False)
        found, token = page(every, method_messages.to_info, request, (100, 1000))
        return pb.ListMethodsResponse(methods=found, next_page_token=token)

    async def _events(
        self,
        message: pb.AttributeRequest,
        context: Any,
        default_seconds: float,
        prepare: Callable[[Event], Item | None],
        sends: bool = True,
    ) -> AsyncIterator[Item]:
        """The engine's events; ends after the first one where the request is only validated.

        Unless it `sends` them, they are needed at the end only.
        """
        stop = Stop(self._limits.seconds(context, default_seconds), self._work.draining)
        context.add_done_callback(lambda _: stop.cancel())
        accepted = False
        every = sends and not message.last_only

        def start() -> Iterator[Event]:
            return self._started(message, stop, every)

        def ends_turn(event: Event) -> bool:
            """No revision is computed before the client has taken the one before."""
            return message.validate_only or (every and isinstance(event, Revision))

        def checked(event: Event) -> Item | None:
            nonlocal accepted
            accepted |= isinstance(event, Accepted)
            if isinstance(event, Completed) and not stop.has_result:
                raise no_result(stop, event.stop_reason)
            return prepare(event)

        produced = self._work.events(start, stop, checked, ends_turn=ends_turn, quiet=not sends)
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
        request = self._limits.steps(request)
        self._limits.samples(request.model, request.inputs, len(request.each_target))
        request = dataclasses.replace(request, request_id=request.request_id or uuid.uuid4().hex)
        return self._engine.stream(request, stop=stop, revisions=every)

    def _answer(self, message: pb.AttributeRequest, stop: Stop) -> tuple[Attribution, StopReason]:
        """The best revision of a message, within what one message holds, and why there is no better one."""
        best = _Best(self._limit_revision)
        for event in self._started(message, stop, every=False):
            stop.has_result |= isinstance(event, Revision)
            if (found := best.after(event)) is not None and isinstance(event, Completed):
                return found, event.stop_reason
        raise no_result(stop)

    def _limit_revision(self, found: Attribution) -> None:
        values = (layer.values for layer in found.layers.values())
        self._limits.bytes(values, "use StreamAttribute, or ask for sums_only, fewer samples or layers")


class _Best:
    """The best revision of an answer, found when it completes; each goes through `check` before."""

    def __init__(self, check: Callable[[Attribution], None]) -> None:
        self._check = check
        self._revisions: dict[int, Attribution] = {}

    def after(self, event: Event) -> Attribution | None:
        """The best revision, if this event completes the answer and there is one."""
        if isinstance(event, Revision):
            self._check(event.attribution)
            self._revisions[event.number] = event.attribution
        return self._revisions.get(event.best_revision) if isinstance(event, Completed) else None
