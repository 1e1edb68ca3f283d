"""The errors that callers see, the same in the library, over gRPC and on the command line.

AttributionError
├── InvalidArgument     an input, target, baseline, layer or parameter cannot be used as given
├── NotFound            no model, layer or tensor of that name
├── ModelError          the file cannot be read, checked or run
├── NotDifferentiable   no derivative leads from the layer to the target
├── NotReady            the model or the server is not available now
├── Overloaded          a queue or a memory limit is full
├── DeadlineExceeded    the time ran out before there was a result
├── Cancelled           the caller gave up
├── Unauthenticated     no or bad credentials
├── PermissionDenied    the role does not allow the call
├── Unsupported         the server does not know this method or field
├── MessageTooLarge     a message is over the limit of the channel
└── ServerBug           an unexpected failure, named by its incident id only

docs/errors.md lists them with their gRPC statuses and reasons; `python -m onnx_attribution.errors` prints that page.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from onnx_attribution.reasons import Reason

__all__ = [
    "AttributionError",
    "Cancelled",
    "DeadlineExceeded",
    "InvalidArgument",
    "MessageTooLarge",
    "ModelError",
    "NotDifferentiable",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PermissionDenied",
    "Reason",
    "ServerBug",
    "Unauthenticated",
    "Unsupported",
]


class AttributionError(Exception):
    """Base of every expected failure: a message, a machine-readable reason and its details.

    `metadata` repeats what the message names; `violations` says per field of the request what is wrong with it; `code`
    is the gRPC status, if the error came over the wire. `status` is the one that the server sends for the class.
    """

    status: ClassVar[str] = "INTERNAL"
    default_reason: ClassVar[Reason] = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        violations: Mapping[str, str] | None = None,
        code: str = "",
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.violations: Mapping[str, str] = dict(violations or {})
        self.code = code
        self.metadata: Mapping[str, str] = {key: str(value) for key, value in metadata.items()}

    def __reduce__(self) -> tuple[Any, ...]:  # the constructor of a subclass may need more than the message
        return _bare, (type(self), self.args), self.__dict__

    def reworded(self, message: str) -> Self:
        """The same error in other words."""
        error = copy.copy(self)
        error.message, error.args = message, (message,)
        return error


def _bare(kind: type[AttributionError], args: tuple[object, ...]) -> AttributionError:
    """An error whose state is still to come, as pickle and copy make it."""
    return kind.__new__(kind, *args)


class InvalidArgument(AttributionError):
    """An input, target, baseline, layer or parameter cannot be used as given."""

    status = "INVALID_ARGUMENT"
    default_reason = Reason.PARAMETER_INVALID


class NotFound(AttributionError):
    """No model, layer or tensor of that name; the message lists the close ones."""

    status = "NOT_FOUND"
    default_reason = Reason.NODE_NOT_FOUND


class ModelError(AttributionError):
    """The file cannot be read, or onnxruntime cannot run it."""

    status = "FAILED_PRECONDITION"
    default_reason = Reason.MODEL_LOAD_FAILED


class NotDifferentiable(AttributionError):
    """No derivative leads from the layer to the target; the message names the node that stands in the way."""

    status = "FAILED_PRECONDITION"

    def __init__(self, message: str, *, reason: Reason, **details: Any) -> None:
        super().__init__(message, reason=reason, **details)  # there is no reason that would do for all


class NotReady(AttributionError):
    """The model or the server is not available now; trying again may help."""

    status = "UNAVAILABLE"
    default_reason = Reason.SERVER_UNREACHABLE


class Overloaded(AttributionError):
    """A queue or a memory limit is full."""

    status = "RESOURCE_EXHAUSTED"
    default_reason = Reason.QUEUE_FULL


class DeadlineExceeded(AttributionError):
    """The time ran out before there was a result."""

    status = "DEADLINE_EXCEEDED"
    default_reason = Reason.DEADLINE_TOO_SHORT


class Cancelled(AttributionError):
    """The caller gave up."""

    status = "CANCELLED"
    default_reason = Reason.CANCELLED


class Unauthenticated(AttributionError):
    """No or bad credentials."""

    status = "UNAUTHENTICATED"
    default_reason = Reason.CREDENTIALS_INVALID


class PermissionDenied(AttributionError):
    """The role does not allow the call."""

    status = "PERMISSION_DENIED"
    default_reason = Reason.PERMISSION_DENIED


class Unsupported(AttributionError):
    """The server does not know this method or field."""

    status = "UNIMPLEMENTED"
    default_reason = Reason.METHOD_UNSUPPORTED


class MessageTooLarge(AttributionError):
    """A message is over the limit of the channel."""

    status = "RESOURCE_EXHAUSTED"
    default_reason = Reason.MESSAGE_TOO_LARGE


class ServerBug(AttributionError):
    """An unexpected failure of the server; `metadata["incident"]` finds it in the server's log."""


KINDS: tuple[type[AttributionError], ...] = (
    InvalidArgument,
    NotFound,
    ModelError,
    NotDifferentiable,
    NotReady,
    Overloaded,
    DeadlineExceeded,
    Cancelled,
    Unauthenticated,
    PermissionDenied,
    Unsupported,
    MessageTooLarge,
    ServerBug,
)
"""Every kind of error; where two have one gRPC status, the likelier first."""


_HEAD = """# Errors and reasons

<!-- Generated by `python -m onnx_attribution.errors > docs/errors.md`. -->

The library, the client and the command line raise the same errors, all of them in `onnx_attribution.errors`. Each has a
message, which may change, and a `reason`, one of the words below, which does not. Over gRPC the word is the `reason` of
`google.rpc.ErrorInfo`, of the domain `onnx-attribution`; a client keeps a word that it does not know.
"""


def _page() -> Iterator[str]:
    """The lines of docs/errors.md."""
    yield _HEAD.rstrip()
    for kind in KINDS:
        yield ""
        yield f"## {kind.__name__}"
        yield ""
        yield f"gRPC status {kind.status}. {(kind.__doc__ or '').strip()}"
        yield from _table([one for one in Reason if kind.__name__ in one.errors])
    yield ""
    yield "## What `check` finds besides"
    yield ""
    yield "`onnx-attribution check` gives each refusal the reason of its error, or one of these."
    yield from _table([one for one in Reason if one.errors == ("check",)])


def _table(reasons: list[Reason]) -> Iterator[str]:
    yield ""
    yield "| reason | what it means | what to do |"
    yield "|---|---|---|"
    for one in reasons:
        status = f" (gRPC status {one.status})" if one.status else ""
        yield f"| `{one}` | {one.meaning}{status} | {one.instead} |"


if __name__ == "__main__":
    print("\n".join(_page()))
