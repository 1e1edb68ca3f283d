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
"""

from __future__ import annotations

from collections.abc import Mapping

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
    "ServerBug",
    "Unauthenticated",
    "Unsupported",
]


class AttributionError(Exception):
    """Base of every expected failure: a message, a machine-readable reason and its details.

    `reason` is one of a closed set of UPPER_SNAKE words; `metadata` repeats what the message names; `violations`
    says per field of the request what is wrong with it; `code` is the gRPC status, if the error came over the wire.
    """

    default_reason = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Mapping[str, str] | None = None,
        code: str = "",
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.violations: Mapping[str, str] = dict(violations or {})
        self.code = code
        self.metadata: Mapping[str, str] = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(AttributionError):
    """An input, target, baseline, layer or parameter cannot be used as given."""

    default_reason = "PARAMETER_INVALID"


class NotFound(AttributionError):
    """No model, layer or tensor of that name; the message lists the close ones."""

    default_reason = "NODE_NOT_FOUND"


class ModelError(AttributionError):
    """The file cannot be read, or onnxruntime cannot run it."""

    default_reason = "MODEL_LOAD_FAILED"


class NotDifferentiable(AttributionError):
    """No derivative leads from the layer to the target; the message names the node that stands in the way."""

    default_reason = "NOT_DIFFERENTIABLE"


class NotReady(AttributionError):
    """The model or the server is not available now; trying again may help."""

    default_reason = "MODEL_NOT_READY"


class Overloaded(AttributionError):
    """A queue or a memory limit is full."""

    default_reason = "QUEUE_FULL"


class DeadlineExceeded(AttributionError):
    """The time ran out before there was a result."""

    default_reason = "DEADLINE_TOO_SHORT"


class Cancelled(AttributionError):
    """The caller gave up."""

    default_reason = "CANCELLED"


class Unauthenticated(AttributionError):
    """No or bad credentials."""

    default_reason = "CREDENTIALS_INVALID"


class PermissionDenied(AttributionError):
    """The role does not allow the call."""

    default_reason = "PERMISSION_DENIED"


class Unsupported(AttributionError):
    """The server does not know this method or field."""

    default_reason = "METHOD_UNSUPPORTED"


class MessageTooLarge(AttributionError):
    """A message is over the limit of the channel."""

    default_reason = "MESSAGE_TOO_LARGE"


class ServerBug(AttributionError):
    """An unexpected failure of the server; `metadata["incident"]` finds it in the server's log."""

    default_reason = "INTERNAL"
