"""Who may make which call, and how many at once. Asked before a request is looked at, let alone a model for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any
from urllib.parse import unquote

from onnx_attribution.errors import Overloaded, PermissionDenied, Reason, Unauthenticated
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.service.followed import Followed
from onnx_attribution.server.service.tokens import Caller, Role, Tokens, read_tokens
from onnx_attribution.server.settings import Settings, is_loopback

__all__ = ["EXEMPT", "ROLES", "Access", "Caller", "Role", "current_caller", "role_of"]

EXEMPT = ("/grpc.health.v1.", "/grpc.reflection.")
"""Services that everybody may call: probes and tools have no credentials."""

_SERVICES = f"/{pb.DESCRIPTOR.package}"
ROLES: Mapping[str, Role] = {
    f"{_SERVICES}.AttributionService/Predict": Role.ATTRIBUTE,
    f"{_SERVICES}.AttributionService/Attribute": Role.ATTRIBUTE,
    f"{_SERVICES}.AttributionService/StreamAttribute": Role.ATTRIBUTE,
    f"{_SERVICES}.AttributionService/Audit": Role.ATTRIBUTE,
    f"{_SERVICES}.AttributionService/Intervene": Role.ATTRIBUTE,
    f"{_SERVICES}.AttributionService/ListMethods": Role.READ,
    f"{_SERVICES}.ModelService/ListModels": Role.READ,
    f"{_SERVICES}.ModelService/GetModel": Role.READ,
    f"{_SERVICES}.ModelService/ListLayers": Role.READ,
    f"{_SERVICES}.ModelService/LoadModel": Role.ADMIN,
    f"{_SERVICES}.ModelService/UnloadModel": Role.ADMIN,
    f"{_SERVICES}.ModelService/UploadModel": Role.ADMIN,
    f"{_SERVICES}.ServerService/GetServerInfo": Role.READ,
    "/inference.GRPCInferenceService/ServerMetadata": Role.READ,
    "/inference.GRPCInferenceService/ModelReady": Role.READ,
    "/inference.GRPCInferenceService/ModelMetadata": Role.READ,
    "/inference.GRPCInferenceService/ModelInfer": Role.ATTRIBUTE,
}
"""The role that each call needs; what is not here needs that of an administrator."""
_PROBES = ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Who makes the call that is being answered; None outside of calls, and in those that everybody may make."""
    return _caller.get()


def role_of(method: str) -> Role | None:
    """The role that a call needs, by its path `/package.Service/Method`; None where everybody may make it."""
    if method.startswith(EXEMPT) or method in _PROBES:
        return None
    return ROLES.get(method, Role.ADMIN)


class Access:
    """What callers may do: by their token, else by their certificate, and where no token file is set as `default`.

    Raises: InvalidArgument, for a token file that cannot be read.
    """

    def __init__(self, tokens: Callable[[], Tokens] | None, default: Role, most: int = 0) -> None:
        self._tokens, self._default, self._most = tokens, default, most
        self._running: Counter[str] = Counter()
        self._lock = Lock()

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """As it is set. Without a token file, who comes from other machines is no administrator unless that is said."""
        near = Role.ADMIN if is_loopback(settings.host) else Role.ATTRIBUTE
        default = near if settings.default_role is None else Role(settings.default_role)
        file = settings.token_file
        tokens = None if file is None else Followed([file], lambda: read_tokens(file))
        return cls(tokens, default, settings.max_per_caller)

    @contextmanager
    def call(self, method: str, context: Any) -> Iterator[None]:
        """The time of a gRPC call: that of its caller, who is `current_caller` inside.

        Raises: as `caller`, `require` and `room`.
        """
        role = role_of(method)
        if role is None:
            yield
            return
        headers = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        names = context.auth_context().get("x509_common_name", ())
        caller = self.caller(headers, context.peer(), [name.decode("utf-8", "replace") for name in names])
        self.require(caller, role)
        _caller.set(caller)
        if role is Role.READ:
            yield
            return
        with self.room(caller):
            yield

    def caller(self, headers: Sequence[str], peer: str, certificate: Iterable[str] = ()) -> Caller:
        """Who it is that sends these `authorization` headers from this address with a certificate of these names.

        Raises: Unauthenticated, without a word on what is wrong.
        """
        name = next(iter(certificate), "")
        if self._tokens is None:
            return Caller(name or _address(peer), self._default)
        tokens = self._tokens()
        if headers:
            scheme, _, token = headers[0].partition(" ")
            found = tokens.of_token(token.strip()) if scheme.lower() == "bearer" else None
            if found is None or len(headers) > 1:
                raise Unauthenticated("the credentials are not accepted")
            return found
        found = tokens.of_certificate(name) if name else None
        if found is None:
            raise Unauthenticated("the call needs credentials", reason=Reason.CREDENTIALS_MISSING)
        return found

    def require(self, caller: Caller, role: Role) -> None:
        """Raises: PermissionDenied, if the caller's role does not do."""
        if not caller.role.covers(role):
            raise PermissionDenied(f"the call needs the role {role}, and the caller's is {caller.role}")

    @contextmanager
    def room(self, caller: Caller) -> Iterator[None]:
        """One of the calls that a caller may have running. Raises: Overloaded, for the reason RATE_LIMITED."""
        with self._lock:
            if self._most and self._running[caller.name] >= self._most:
                raise Overloaded(
                    f"{self._most} calls of this caller are running, as many as one caller may have",
                    reason=Reason.RATE_LIMITED, limit=self._most, caller=caller.name,
                )  # fmt: skip
            self._running[caller.name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[caller.name] -= 1
                if not self._running[caller.name]:
                    del self._running[caller.name]


def _address(peer: str) -> str:
    """`ipv4:10.0.0.1:4711` without the port, which is another one for each connection."""
    host, colon, port = unquote(peer).rpartition(":")
    return host if colon and port.isdigit() else peer
