"""Failures to gRPC statuses: one function, one interceptor. Nothing but errors of ours reaches a caller."""

from __future__ import annotations

import re
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from onnx_attribution import errors
from onnx_attribution.proto.wire import serialised
from onnx_attribution.server.service.access import EXEMPT, Access

__all__ = ["DOMAIN", "ErrorInterceptor", "Scrub", "scrubber", "to_status"]

Scrub = Callable[[str], str]

DOMAIN = "onnx-attribution"
CODES = {code.value[0]: code for code in grpc.StatusCode}
RETRY_SECONDS = 1
LARGE = 64 << 10  # bytes of a message that take time to read
PUSHBACK_MS = 250  # until gRPC itself tries again, which may be at another server
# The status travels in the trailing metadata, which gRPC limits to 8 KiB by default.
MAX_MESSAGE, MAX_WORD, MAX_ENTRIES = 1500, 200, 8

log = structlog.get_logger(__name__)


def to_status(error: BaseException, scrub: Scrub) -> status_pb2.Status:
    """The status of a failure: that of its reason or class, else INTERNAL with an incident id."""
    if not isinstance(error, errors.AttributionError) or error.status == errors.ServerBug.status:
        return _internal(error)
    code = grpc.StatusCode[error.reason.status or error.status]
    metadata = {key: scrub(text)[:MAX_WORD] for key, text in list(error.metadata.items())[:MAX_ENTRIES]}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    text = scrub(error.message)[:MAX_MESSAGE]
    return _status(code, text, info, *_details(code, error, text, scrub))


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no types
    """Outermost: aborts a call with the status of what its handler raised, or before it `access`.

    A large message that `refusal` has an error for, by its method, is not even read.
    """

    def __init__(
        self,
        scrub: Scrub,
        access: Access,
        refusal: Callable[[str], errors.AttributionError | None] = lambda _: None,
    ) -> None:
        self._scrub = scrub
        self._access = access
        self._refusal = refusal

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method.startswith(EXEMPT):
            return handler  # an unknown method; or health and reflection, which report their own errors
        parse = handler.request_deserializer

        def parsed(data: bytes) -> Any:
            """The message, or its refusal: what is raised here becomes a status that is not ours."""
            if len(data) > LARGE and (refusal := self._refusal(method)) is not None:
                return refusal
            try:
                return parse(data)
            except Exception:
                return errors.InvalidArgument("the request is no message of this call, or nested too deep")

        codec = {"request_deserializer": parsed, "response_serializer": serialised}
        several = handler.request_streaming
        if handler.response_streaming:
            stream = handler.stream_stream if several else handler.unary_stream

            async def guarded_stream(request: Any, context: Any) -> AsyncIterator[Any]:
                responses = None
                try:
                    with self._access.call(method, context):
                        responses = stream(
                            _checked_stream(request) if several else _checked(request), context
                        )
                        async for response in responses:
                            yield response
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    await self._abort(error, context)
                finally:
                    if responses is not None:
                        await responses.aclose()

            if several:
                return grpc.stream_stream_rpc_method_handler(guarded_stream, **codec)
            return grpc.unary_stream_rpc_method_handler(guarded_stream, **codec)
        unary = handler.stream_unary if several else handler.unary_unary

        async def guarded(request: Any, context: Any) -> Any:
            try:
                with self._access.call(method, context):
                    return await unary(_checked_stream(request) if several else _checked(request), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await self._abort(error, context)

        if several:
            return grpc.stream_unary_rpc_method_handler(guarded, **codec)
        return grpc.unary_unary_rpc_method_handler(guarded, **codec)

    async def _abort(self, error: Exception, context: Any) -> NoReturn:
        status = to_status(error, self._scrub)
        code = CODES[status.code]
        trailing: tuple[tuple[str, str | bytes], ...] = (
            ("grpc-status-details-bin", status.SerializeToString()),
        )
        if isinstance(error, errors.AttributionError) and error.reason == errors.Reason.DRAINING:
            trailing += (("grpc-retry-pushback-ms", str(PUSHBACK_MS)),)
        # Not abort_with_status: tracing wrappers record no code for it.
        await context.abort(code, status.message, trailing)
        raise AssertionError("abort returned")


def _checked(request: Any) -> Any:
    """The message. Raises: AttributionError, if there is one in its place."""
    if isinstance(request, errors.AttributionError):
        raise request
    return request


async def _checked_stream(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _checked(message)


def _internal(error: BaseException) -> status_pb2.Status:
    incident = uuid.uuid4().hex[:12]
    log.error("internal error", incident=incident, exc_info=error)
    info = error_details_pb2.ErrorInfo(
        reason=errors.Reason.INTERNAL, domain=DOMAIN, metadata={"incident": incident}
    )
    text = f"the server failed; its log knows this as incident {incident}"
    return _status(grpc.StatusCode.INTERNAL, text, info)


def _status(code: grpc.StatusCode, text: str, *parts: Any) -> status_pb2.Status:
    details = []
    for part in parts:
        packed = any_pb2.Any()
        packed.Pack(part)
        details.append(packed)
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=text, details=details)


def _details(
    code: grpc.StatusCode, error: errors.AttributionError, text: str, scrub: Scrub
) -> list[Any]:  # messages, which have no types
    """What the API guidelines want beside the reason, by code."""
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            violations = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=field[:MAX_WORD], description=scrub(description)[:MAX_WORD]
                )
                for field, description in list(error.violations.items())[:MAX_ENTRIES]
            ]
            return [error_details_pb2.BadRequest(field_violations=violations)] if violations else []
        case grpc.StatusCode.NOT_FOUND:
            kind = error.reason.removesuffix("_NOT_FOUND").lower()
            name = next(iter(error.metadata.values()), "")[:MAX_WORD]
            return [error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name)]
        case grpc.StatusCode.FAILED_PRECONDITION:
            kind = next((kind.__name__ for kind in errors.KINDS if isinstance(error, kind)), "")
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=kind, description=text[:MAX_WORD]
            )
            return [error_details_pb2.PreconditionFailure(violations=[violation])]
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.RESOURCE_EXHAUSTED:
            delay = duration_pb2.Duration(seconds=RETRY_SECONDS)
            retry = error_details_pb2.RetryInfo(retry_delay=delay)
            if "limit" not in error.metadata:
                return [retry]
            exceeded = error_details_pb2.QuotaFailure.Violation(
                subject=error.metadata.get("caller", "server")[:MAX_WORD], description=text[:MAX_WORD]
            )
            return [retry, error_details_pb2.QuotaFailure(violations=[exceeded])]
    return []


def scrubber(hidden: Iterable[Path] = ()) -> Scrub:
    """What cuts the folders `hidden` and those of the installation off the paths in a text.

    Tensor names look like paths too, so only known folders can be cut, and as absolute paths: a relative one may be a
    word. What reads files there has to be given absolute paths.
    """
    installed = (
        Path(__file__).resolve().parents[1],
        Path(sys.prefix),
        Path(tempfile.gettempdir()),
        Path.home(),
    )
    each = (root.absolute() for root in (*hidden, Path.cwd(), *installed))
    roots = {str(path) for root in each for path in (root, root.resolve())}
    ordered = sorted((root.rstrip("/") for root in roots if len(root) > 1), key=len, reverse=True)
    known = re.compile("|".join(f"{re.escape(root)}(?:/|(?![\\w.-]))" for root in ordered))
    built = re.compile(r"/(?:onnxruntime_src|workspace|build|home|__w)/\S*?([\w.]+:\d+)")

    def scrub(text: str) -> str:
        text = text.split("Traceback (most recent call last)")[0]
        return built.sub(r"\1", known.sub("", text))

    return scrub
