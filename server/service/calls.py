"""What is known of each call, for whoever counts, logs or traces it: one interceptor outside of all others.

It looks at the messages that pass, so that the services need not tell it anything. Inputs are never kept.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from onnx_attribution.proto import attribution_pb2 as pb

__all__ = [
    "Call",
    "CallInterceptor",
    "Listener",
    "Listeners",
    "current",
    "observed",
    "read_request",
    "read_response",
]

KINDS = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
MAX_WORD = 128  # characters of what a caller names
METHODS = pb.AttributeRequest.DESCRIPTOR.oneofs_by_name["method"].name

log = structlog.get_logger(__name__)
_current: ContextVar[Call | None] = ContextVar("call", default=None)


@dataclass(eq=False)
class Call:
    """One call: what it asks for when that is known, and how it ended. Times are those of `time.monotonic`."""

    service: str
    name: str
    kind: str = "unary"
    metadata: Sequence[tuple[str, str | bytes]] = ()
    began: float = field(default_factory=time.monotonic)

    model: str = ""
    method: str = ""
    request_id: str = ""
    has_tolerance: bool = False

    accepted: float | None = None
    first_revision: float | None = None
    summary: pb.AttributionSummary | None = None
    stop_reason: int = 0

    waited: float = 0.0
    """Seconds for which it waited for a thread."""
    code: str = "OK"
    reason: str = ""
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took, or has taken."""
        return (self.ended or time.monotonic()) - self.began


class Listener(Protocol):
    """Told on the event loop; returns at once. What it raises is logged and keeps no call from its answer."""

    def began(self, call: Call) -> None:
        """Nothing of the request is known yet."""

    def received(self, call: Call, message: Any) -> None:
        """A message of the caller."""

    def sent(self, call: Call, message: Any) -> None:
        """A message to the caller."""

    def ended(self, call: Call) -> None:
        """However it ended: answered, refused, failed, cancelled."""


def current() -> Call | None:
    """The call that this task, or what made it, answers."""
    return _current.get()


class Listeners:
    """Several listeners as one."""

    def __init__(self, each: Sequence[Listener]) -> None:
        self._each = tuple(each)

    def tell(self, event: str, *what: Any) -> None:
        for listener in self._each:
            try:
                getattr(listener, event)(*what)
            except Exception:
                log.exception("a listener failed", listener=type(listener).__name__)


@contextmanager
def observed(listeners: Listeners, call: Call) -> Iterator[Call]:
    """The block answers the call; it sets `code` and `reason` where it fails without an exception.

    The listeners are told of its end when the answer has left: nobody waits for what is counted.
    """
    _current.set(call)
    listeners.tell("began", call)
    try:
        yield call
    except (asyncio.CancelledError, GeneratorExit):
        call.code = "CANCELLED" if call.code == "OK" else call.code
        raise
    except BaseException:
        call.code = "UNKNOWN" if call.code == "OK" else call.code
        raise
    finally:
        call.ended = time.monotonic()
        asyncio.get_running_loop().call_soon(listeners.tell, "ended", call)


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
    """Outermost: tells the listeners of every call that has a handler."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._handlers: dict[str, Any] = {}  # of methods that there are

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[method] = self._observing(method, handler)
        return self._handlers[method]

    def _observing(self, method: str, handler: Any) -> Any:
        service, _, name = method.removeprefix("/").partition("/")
        kind = KINDS[handler.request_streaming, handler.response_streaming]
        make = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "server_stream": grpc.unary_stream_rpc_method_handler,
            "client_stream": grpc.stream_unary_rpc_method_handler,
            "bidi_stream": grpc.stream_stream_rpc_method_handler,
        }[kind]
        inner = {
            "unary": handler.unary_unary,
            "server_stream": handler.unary_stream,
            "client_stream": handler.stream_unary,
            "bidi_stream": handler.stream_stream,
        }[kind]

        def begun(context: Any) -> Call:
            return Call(service, name, kind, tuple(context.invocation_metadata() or ()))

        async def answered(given: Any, context: Any) -> Any:
            with observed(self._listeners, begun(context)) as call, _code_of(call, context):
                response = await inner(self._received(call, given, handler.request_streaming), context)
                self._sent(call, response)
                return response

        async def streamed(given: Any, context: Any) -> AsyncIterator[Any]:
            with observed(self._listeners, begun(context)) as call, _code_of(call, context):
                found = inner(
                    self._received(call, given, handler.request_streaming),
                    _Written(context, call, self._sent),
                )
                if inspect.isawaitable(found):  # writes its messages to the context
                    await found
                    return
                try:
                    async for response in found:
                        self._sent(call, response)
                        yield response
                finally:
                    await found.aclose()

        behaviour = streamed if handler.response_streaming else answered
        return make(
            behaviour,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _received(self, call: Call, given: Any, is_stream: bool) -> Any:
        if is_stream:
            return self._each_received(call, given)
        read_request(call, given)
        self._listeners.tell("received", call, given)
        return given

    async def _each_received(self, call: Call, given: Any) -> AsyncIterator[Any]:
        async for message in given:
            read_request(call, message)
            self._listeners.tell("received", call, message)
            yield message

    def _sent(self, call: Call, message: Any) -> None:
        read_response(call, message)
        self._listeners.tell("sent", call, message)


class _Written:
    """The context of a call, for handlers that write their messages to it."""

    def __init__(self, context: Any, call: Call, sent: Callable[[Call, Any], None]) -> None:
        self._context, self._call, self._sent = context, call, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        self._sent(self._call, message)
        await self._context.write(message)


@contextmanager
def _code_of(call: Call, context: Any) -> Iterator[None]:
    """Takes over what the call ended with."""
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        remaining = context.time_remaining()
        call.code = "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
        raise
    finally:
        code = context.code()
        if code is not None and call.code == "OK":
            call.code = code.name if isinstance(code, grpc.StatusCode) else _code_name(code)
        if call.code not in ("OK", "CANCELLED"):
            call.reason = _reason(context.trailing_metadata() or ())


def _code_name(number: Any) -> str:
    """grpcio keeps the number of a code that it was given."""
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), "UNKNOWN")


def _reason(trailing: Sequence[tuple[str, Any]]) -> str:
    """The reason that the details of the status name."""
    for key, value in trailing:
        if key == "grpc-status-details-bin":
            try:
                details = status_pb2.Status.FromString(value).details
            except DecodeError:
                return ""
            info = error_details_pb2.ErrorInfo()
            return next((str(info.reason) for one in details if one.Unpack(info)), "")
    return ""


def read_request(call: Call, message: Any) -> None:
    """Takes what the message says of what is asked for: its own fields, or those of the request that it opens with."""
    fields = getattr(getattr(message, "DESCRIPTOR", None), "fields_by_name", ())
    if "open" in fields and message.HasField("open"):
        message = message.open.request
        fields = message.DESCRIPTOR.fields_by_name
    if "model" in fields and isinstance(message.model, str):
        call.model = message.model.removeprefix("models/").partition("/versions/")[0][:MAX_WORD]
    if "request_id" in fields:
        call.request_id = message.request_id[:MAX_WORD]
    if "model_name" in fields:  # of the Open Inference Protocol
        call.model, call.request_id = message.model_name[:MAX_WORD], message.id[:MAX_WORD]
    if isinstance(message, pb.PredictRequest) or "model_name" in fields:
        call.method = "predict"
    if isinstance(message, pb.InterveneRequest):
        call.method = "intervene"
    if isinstance(message, pb.AttributeRequest):
        call.method = message.WhichOneof(METHODS) or ""
        parameters: Any = getattr(message, call.method) if call.method else None
        known = parameters.DESCRIPTOR.fields_by_name if call.method else ()
        call.has_tolerance = "tolerance" in known and parameters.HasField("tolerance")


def read_response(call: Call, message: Any) -> None:
    """Takes what the message says of how far the answer is."""
    fields = getattr(getattr(message, "DESCRIPTOR", None), "fields_by_name", ())
    if "accepted" in fields and message.HasField("accepted"):
        call.accepted = call.accepted or time.monotonic()
        call.request_id = call.request_id or message.accepted.request_id[:MAX_WORD]
    for name in ("revision", "result"):
        if name in fields and message.HasField(name):
            read_response(call, getattr(message, name))
    if "completed" in fields and message.HasField("completed"):
        call.stop_reason = message.completed.stop_reason
    if "stop_reason" in fields:
        call.stop_reason = message.stop_reason
    summary = getattr(message, "summary", None)
    if isinstance(summary, pb.AttributionSummary) and message.HasField("summary"):
        call.first_revision = call.first_revision or time.monotonic()
        call.summary = summary
