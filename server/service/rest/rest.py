"""KServe's protocols over HTTP: bytes to the messages of the gRPC services, and their answers back. No web server yet.

Each path stands for a call of gRPC, whose servicer answers: limits, admission and errors are the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.rpc import code_pb2, error_details_pb2

from onnx_attribution.errors import Overloaded, Reason
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import events, requests, tensors, words
from onnx_attribution.proto import open_inference_pb2 as oip
from onnx_attribution.server.service.access import Access
from onnx_attribution.server.service.attribution import AttributionService, Engine
from onnx_attribution.server.service.calls import (
    Call,
    Listeners,
    current,
    observed,
    read_request,
    read_response,
)
from onnx_attribution.server.service.inference import InferenceService, reference
from onnx_attribution.server.service.rest import v1, v2
from onnx_attribution.server.service.rest.arrays import parsed, written
from onnx_attribution.server.service.status import RETRY_SECONDS, Scrub, to_status
from onnx_attribution.server.service.threads import Work
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import ModelInfo

__all__ = ["Answer", "Asked", "Rest"]

Result = TypeVar("Result")

INFERENCE = f"/{oip.DESCRIPTOR.services_by_name['GRPCInferenceService'].full_name}/"
OURS = f"/{pb.DESCRIPTOR.package}."
# The mapping of google.rpc.Code.
STATUSES = {
    "CANCELLED": 499, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404, "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
    "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
}  # fmt: skip
MAX_NAME = 128
HEADERS = {
    401: {"www-authenticate": "Bearer"},
    429: {"retry-after": str(RETRY_SECONDS)},
    503: {"retry-after": str(RETRY_SECONDS)},
}
REASONS = {Reason.MESSAGE_TOO_LARGE: 413}


async def _nothing() -> bytes:
    return b""


@dataclass(frozen=True)
class Asked:
    """A request. Names of headers are in lower case, and the path has no escapes.

    `read` reads the body, once it is known that the call may be made and that there is room; `peer` is an address
    as gRPC writes it.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[], Awaitable[bytes]] = _nothing
    peer: str = ""


@dataclass(frozen=True)
class Answer:
    """Its answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Answer:
        """A value as JSON."""
        return cls(status, written(value), {"content-type": "application/json", **headers})


Handler = Callable[..., Awaitable[Answer]]


class _Sender:
    """What `Access` needs of a context of gRPC, of a request over HTTP, which has no certificate."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return list(self._asked.headers.items())

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def peer(self) -> str:
        return self._asked.peer


class _Context:
    """What the servicers need of a context of gRPC."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._callbacks: list[Callable[[Any], None]] = []

    def time_remaining(self) -> float | None:
        return self._seconds

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    @contextmanager
    def open(self) -> Iterator[_Context]:
        try:
            yield self
        finally:
            for callback in self._callbacks:
                callback(self)


class Rest:
    """Answers to requests. `access` lets them in, and `listeners` are told of each, as of the call of gRPC."""

    def __init__(
        self,
        attributions: AttributionService,
        inference: InferenceService,
        engine: Engine,
        work: Work,
        settings: Settings,
        scrub: Scrub,
        access: Access,
        listeners: Listeners | None = None,
    ) -> None:
        self._attributions, self._inference = attributions, inference
        self._engine, self._work, self._settings = engine, work, settings
        self._scrub, self._access, self._listeners = scrub, access, listeners or Listeners(())
        self._open = 0
        model = r"(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+))?"
        self._routes: list[tuple[str, re.Pattern[str], str, Handler]] = [
            (method, re.compile(pattern), call, handler)
            for method, pattern, call, handler in (
                ("GET", r"/", INFERENCE + "ServerLive", self._alive),
                ("GET", r"/v1/models", OURS + "ModelService/ListModels", self._models),
                ("GET", rf"/v1/models/{model}", INFERENCE + "ModelReady", self._v1_model),
                ("POST", rf"/v1/models/{model}:predict", INFERENCE + "ModelInfer", self._predict),
                (
                    "POST",
                    rf"/v1/models/{model}:explain",
                    OURS + "AttributionService/Attribute",
                    self._explain,
                ),
                ("GET", r"/v2/?", INFERENCE + "ServerMetadata", self._server),
                ("GET", r"/v2/health/live", INFERENCE + "ServerLive", self._live),
                ("GET", r"/v2/health/ready", INFERENCE + "ServerReady", self._ready),
                ("GET", r"/v2/models", OURS + "ModelService/ListModels", self._models),
                ("GET", rf"/v2/models/{model}", INFERENCE + "ModelMetadata", self._v2_model),
                ("GET", rf"/v2/models/{model}/ready", INFERENCE + "ModelReady", self._v2_ready),
                ("POST", rf"/v2/models/{model}/infer", INFERENCE + "ModelInfer", self._infer),
            )
        ]

    @contextmanager
    def _room(self) -> Iterator[None]:
        """The time of a request with a body. Raises: Overloaded, if there are too many."""
        if self._open >= self._settings.max_unary:
            raise Overloaded(
                f"{self._open} requests are being answered, as many as may", limit=self._settings.max_unary
            )
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def answer(self, asked: Asked) -> Answer:
        """The answer, whatever happens."""
        other = []
        for method, pattern, path, handler in self._routes:
            match = pattern.fullmatch(asked.path)
            if match and method == asked.method:
                places = {name: place or "" for name, place in match.groupdict().items()}
                service, _, name = path.removeprefix("/").partition("/")
                call = Call(service, name, "http", tuple(asked.headers.items()))
                call.model = places.get("model", "")[:MAX_NAME]
                with observed(self._listeners, call):
                    return await self._answered(call, path, asked, handler, places)
            if match:
                other.append(method)
        if other:
            return Answer.of({"error": f"{asked.path} takes {', '.join(other)}"}, 405, allow=", ".join(other))
        return Answer.of({"error": f"no {asked.method} {asked.path[:200]} here"}, 404)

    async def _answered(
        self, call: Call, path: str, asked: Asked, handler: Handler, places: Mapping[str, str]
    ) -> Answer:
        try:
            with (
                self._access.call(path, _Sender(asked)),
                self._room() if asked.method == "POST" else nullcontext(),
            ):
                return await handler(asked, **places)
        except Exception as error:
            status = to_status(error, self._scrub)
            info = error_details_pb2.ErrorInfo()
            call.code = code_pb2.Code.Name(status.code)
            call.reason = next((str(info.reason) for one in status.details if one.Unpack(info)), "")
            number = REASONS.get(Reason(call.reason)) or STATUSES.get(call.code, 500)
            return Answer.of(
                {"error": status.message, "reason": call.reason}, number, **HEADERS.get(number, {})
            )

    async def _alive(self, asked: Asked) -> Answer:
        return Answer.of({"status": "alive"})

    async def _live(self, asked: Asked) -> Answer:
        return Answer.of({"live": True})

    async def _ready(self, asked: Asked) -> Answer:
        found = await self._inference.ServerReady(oip.ServerReadyRequest(), _Context())
        return Answer.of({"ready": found.ready}, 200 if found.ready else 503)

    async def _server(self, asked: Asked) -> Answer:
        found = await self._inference.ServerMetadata(oip.ServerMetadataRequest(), _Context())
        return Answer.of({"name": found.name, "version": found.version, "extensions": list(found.extensions)})

    async def _models(self, asked: Asked) -> Answer:
        found = await self._question(self._engine.models)
        return Answer.of({"models": sorted({info.name for info in found})})

    async def _v1_model(self, asked: Asked, model: str, version: str) -> Answer:
        return await self._readiness(model, version)

    async def _v2_ready(self, asked: Asked, model: str, version: str) -> Answer:
        return await self._readiness(model, version)

    async def _readiness(self, model: str, version: str) -> Answer:
        found = await self._inference.ModelReady(
            oip.ModelReadyRequest(name=model, version=version), _Context()
        )
        if not found.ready and not await self._is_known(model, version):
            await self._info(model, version)  # says that there is none, and names close ones
        return Answer.of({"name": model, "ready": found.ready}, 200 if found.ready else 503)

    async def _v2_model(self, asked: Asked, model: str, version: str) -> Answer:
        request = oip.ModelMetadataRequest(name=model, version=version)
        return Answer.of(v2.metadata(await self._inference.ModelMetadata(request, _Context())))

    async def _infer(self, asked: Asked, model: str, version: str) -> Answer:
        body = await asked.read()
        request, form = await asyncio.to_thread(v2.infer_request, model, version, asked.headers, body)
        if call := current():
            read_request(call, request)
        response = await self._inference.ModelInfer(request, _Context())
        headers, body = await asyncio.to_thread(v2.infer_body, response, form)
        return Answer(200, body, {"content-type": "application/json", **headers})

    async def _predict(self, asked: Asked, model: str, version: str) -> Answer:
        given = await asyncio.to_thread(parsed, await asked.read())
        info = await self._info(model, version)

        def request() -> oip.ModelInferRequest:
            message = oip.ModelInferRequest(model_name=model, model_version=str(info.version))
            for name, array in v1.arrays_of(given, info).items():
                tensor = tensors.encode(name, array)
                message.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
                message.raw_input_contents.append(tensor.raw)
            return message

        message = await asyncio.to_thread(request)
        if call := current():
            read_request(call, message)
        response = await self._inference.ModelInfer(message, _Context())

        def answer() -> Answer:
            pairs = zip(response.outputs, response.raw_output_contents, strict=True)
            found = {
                one.name: tensors.decode(
                    pb.Tensor(name=one.name, datatype=one.datatype, shape=one.shape, raw=raw)
                )
                for one, raw in pairs
            }
            return Answer.of({**v1.predictions(found), "model_version": response.model_version})

        return await asyncio.to_thread(answer)

    async def _explain(self, asked: Asked, model: str, version: str) -> Answer:
        given = await asyncio.to_thread(parsed, await asked.read())
        info = await self._info(model, version)

        def request() -> pb.AttributeRequest:
            asks = v1.request_of(reference(info.name, str(info.version)), given, info)
            return requests.to_request(asks)

        message = await asyncio.to_thread(request)
        if call := current():
            read_request(call, message)
        with _Context(v1.seconds_of(given)).open() as context:
            response = await self._attributions.Attribute(message, context)
        if call:
            read_response(call, response)

        def answer() -> Answer:
            arrays = [tensors.decode(one) for one in response.attributions]
            found = events.from_summary(response.summary, arrays)
            reason = words.STOP_REASONS.word(response.stop_reason)
            body = v1.explanation(model, found, reason)
            return Answer.of({**body, "model_version": str(info.version)})

        return await asyncio.to_thread(answer)

    async def _info(self, model: str, version: str) -> ModelInfo:
        return await self._question(lambda: self._engine.info(reference(model, version)))

    async def _is_known(self, model: str, version: str) -> bool:
        return any(
            info.name == model and version in ("", str(info.version))
            for info in await self._question(self._engine.models)
        )

    async def _question(self, function: Callable[[], Result]) -> Result:
        return await self._work.run(function, self._settings.unary_seconds, compute=False)
