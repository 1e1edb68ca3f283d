"""gRPC statuses to the errors of `onnx_attribution.errors`: the caller catches the same classes as in-process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from onnx_attribution import errors

__all__ = ["LOST", "from_rpc_error", "from_status", "translated"]

LOST = "INTERNAL"
"""What a call ends with, without a reason, where the process behind a proxy is gone."""
CLASSES: Mapping[str, type[errors.AttributionError]] = {
    "OUT_OF_RANGE": errors.InvalidArgument,
    "ABORTED": errors.NotReady,
    **{kind.status: kind for kind in reversed(errors.KINDS)},
}
# What to say where the status comes from the library, not from our server.
HINTS: Mapping[type[errors.AttributionError], str] = {
    errors.NotReady: "no server answers there; is it running, at this address, and is the port reachable?",
    errors.Unsupported: "the server does not know this call; is it an onnx-attribution server, and of this version?",
    errors.DeadlineExceeded: "the call took longer than its timeout; allow more by timeout=",
    errors.MessageTooLarge: "send fewer samples at once, or raise the server's max_request_mib",
}
# What to say of a connection that fails, by what grpc says of it; the first that fits.
CONNECTION_HINTS: Mapping[str, str] = {
    "WRONG_VERSION_NUMBER": "the server does not encrypt; leave tls= out",
    "certificate has expired": "that is the server's certificate, which has to be renewed there",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is of none of the roots; give those of its authority: "
    "tls=Tls(roots=...)",
    "Hostname Verification": "the server's certificate is for another name; tls=Tls(name=...) says which",
    "Socket closed": "the server closed the connection: it has ended, or wants encryption (tls=), or a client "
    "certificate of its authority that has not expired (tls=Tls(certificate=..., key=...))",
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
        raise errors.NotReady("the client is closed", reason=errors.Reason.CLIENT_CLOSED) from None


def from_rpc_error(error: grpc.RpcError) -> errors.AttributionError:
    """The error of a failed call, sync or asyncio, with the reason and details that the server sent."""
    details = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    status = status_pb2.Status()
    for value in details:
        with suppress(DecodeError):
            status.ParseFromString(value)
    return _error(error.code().name, error.details() or "", status)


def from_status(status: status_pb2.Status) -> errors.AttributionError:
    """The error of a part of a stream, which came as a message."""
    return _error(code_pb2.Code.Name(status.code), status.message, status)


def _error(code: str, text: str, status: status_pb2.Status) -> errors.AttributionError:
    info, violations, precondition = _details(status)
    if code == LOST and not info.reason:  # not of our server, but of what stands before it or runs it
        return errors.NotReady("the call was lost: the process that answered it has ended", code=code)
    reason = errors.Reason(info.reason) if info.reason else None
    kind = _kind(code, reason, precondition)
    if kind is errors.Overloaded and "larger than max" in text:
        kind = errors.MessageTooLarge
    if reason is None and kind in HINTS:
        told = (hint for sign, hint in CONNECTION_HINTS.items() if kind is errors.NotReady and sign in text)
        hint = next(told, HINTS[kind])
        text = f"{text}; {hint}" if text else hint
    translated_error = kind(text, reason=reason, violations=violations, code=code)
    translated_error.metadata = dict(info.metadata)
    return translated_error


def _kind(code: str, reason: errors.Reason | None, precondition: str) -> type[errors.AttributionError]:
    """The class of a status. Where two have one, the reason decides, or what the status says of an unknown one."""
    names = (*reason.errors, precondition) if reason else (precondition,)
    for kind in errors.KINDS:
        if kind.__name__ in names and code == ((reason and reason.status) or kind.status):
            return kind
    return CLASSES.get(code, errors.ServerBug)


def _details(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, dict[str, str], str]:
    """The reason with its metadata, what is wrong by field, and the class that a failed precondition names."""
    info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    precondition = error_details_pb2.PreconditionFailure()
    with suppress(DecodeError):
        for detail in status.details:
            detail.Unpack(info) or detail.Unpack(violations) or detail.Unpack(precondition)
    fields = {one.field: one.description for one in violations.field_violations}
    return info, fields, next((one.type for one in precondition.violations), "")
