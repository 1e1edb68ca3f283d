"""gRPC statuses to the errors of `onnx_attribution.errors`: the caller catches the same classes as in-process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from onnx_attribution import errors

__all__ = ["from_rpc_error", "translated"]

CLASSES: Mapping[grpc.StatusCode, type[errors.AttributionError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.ModelError,
    grpc.StatusCode.UNAVAILABLE: errors.NotReady,
    grpc.StatusCode.ABORTED: errors.NotReady,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
}
# Where one code stands for two classes, the reason decides.
BY_REASON: Mapping[str, type[errors.AttributionError]] = {
    "NOT_DIFFERENTIABLE": errors.NotDifferentiable,
    "NO_PATH": errors.NotDifferentiable,
    "MESSAGE_TOO_LARGE": errors.MessageTooLarge,
    "RUNTIME_FAILURE": errors.ModelError,
}
# What to say where the status comes from the library, not from our server.
HINTS: Mapping[type[errors.AttributionError], str] = {
    errors.NotReady: "no server answers there; is it running, at this address, and is the port reachable?",
    errors.Unsupported: "the server does not know this call; is it an onnx-attribution server, and of this version?",
    errors.DeadlineExceeded: "the call took longer than its timeout; allow more by timeout=",
    errors.MessageTooLarge: "send fewer samples at once, or raise the server's max_request_mib",
}


@contextmanager
def translated() -> Iterator[None]:
    """What gRPC raises inside leaves as one of our errors."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None
    except (ValueError, grpc.aio.UsageError) as error:
        if "closed" not in str(error).lower():
            raise
        raise errors.NotReady("the client is closed", reason="CLIENT_CLOSED") from None


def from_rpc_error(error: grpc.RpcError) -> errors.AttributionError:
    """The error of a failed call, sync or asyncio, with the reason and details that the server sent."""
    code, text = error.code(), error.details() or ""
    info, violations = _details(error)
    kind = BY_REASON.get(info.reason) or CLASSES.get(code, errors.ServerBug)
    if kind is errors.Overloaded and "larger than max" in text:
        kind = errors.MessageTooLarge
    if not info.reason and kind in HINTS:
        text = f"{text}; {HINTS[kind]}" if text else HINTS[kind]
    translated_error = kind(text, reason=info.reason or None, violations=violations, code=code.name)
    translated_error.metadata = dict(info.metadata)
    return translated_error


def _details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo, dict[str, str]]:
    info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            with suppress(DecodeError):
                for detail in status_pb2.Status.FromString(value).details:
                    detail.Unpack(info) or detail.Unpack(violations)
    return info, {one.field: one.description for one in violations.field_violations}
