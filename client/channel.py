"""How a client reaches its server: encryption, certificates and the token of each call."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto.wire import serialised

__all__ = ["CHANNEL_OPTIONS", "Link", "Tls"]

TOKEN = re.compile(r"[!-~]+")
TIMEOUT, MODEL = "x-attribution-timeout", "multiplexed_model_id"
"""Metadata of each call: its seconds, and whom to give it to where models are spread over replicas."""
Metadata = tuple[tuple[str, str], ...]

# Streams are left out: grpcio's retries keep a broken stream open past its deadline.
_SERVICE = {
    "loadBalancingConfig": [{"round_robin": {}}],  # over all addresses of a name, as dns:///servers:8081
    "methodConfig": [
        {
            "name": [
                {"service": service.full_name, "method": method.name}
                for service in pb.DESCRIPTOR.services_by_name.values()
                for method in service.methods
                if not method.server_streaming
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE)),
    ("grpc.max_send_message_length", -1),  # the server states the limit
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True)
class Tls:
    """Encryption. Each is a file in PEM form, read when the client is made.

    `roots`: whose certificates a server may have; those that come with grpc if None. `certificate` and `key`: the
    client's own, where the server asks for one. `name`: what the server's certificate is for, if not its address.
    """

    roots: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises: InvalidArgument, for files that cannot be read, or one without the other."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("a client's certificate and its key are given together, or neither is")
        return grpc.ssl_channel_credentials(_read(self.roots), _read(self.key), _read(self.certificate))

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        return (("grpc.ssl_target_name_override", self.name),) if self.name else ()


@dataclass(frozen=True)
class Link:
    """A way to a server.

    Raises: InvalidArgument, for a token that would be sent to another machine unencrypted, and as `Tls` does.
    """

    address: str
    tls: Tls | bool = False
    token: str | None = None
    credentials: grpc.ChannelCredentials | None = None
    """In place of `tls`, those that grpc makes."""
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        if self.tls and self.credentials is not None:
            raise InvalidArgument("give tls or credentials, not both")
        if self.token is not None and not (isinstance(self.token, str) and TOKEN.fullmatch(self.token)):
            raise InvalidArgument("a token is text without spaces, of plain letters, digits and signs")
        is_open = not self.tls and self.credentials is None and not _is_near(self.address)
        if self.token is not None and is_open and not self.allow_insecure:
            raise InvalidArgument(
                f"the token would go to {self.address} unencrypted, where others can read it; give tls=, or "
                "allow_insecure=True where the way is safe"
            )

    def channel(self, kind: Any, options: tuple[tuple[str, int | str], ...]) -> Any:
        """A channel of `grpc` or `grpc.aio`."""
        tls = Tls() if self.tls is True else self.tls
        if tls:
            return kind.secure_channel(self.address, tls.credentials(), (*options, *tls.options))
        if self.credentials is not None:
            return kind.secure_channel(self.address, self.credentials, options)
        return kind.insecure_channel(self.address, options)

    def stub(self, kind: Callable[[Any], Any], channel: Any) -> Any:
        """A stub whose calls carry the token, the seconds that they have and, where it is given, the `model`: proxies
        pass on what they know nothing of. Messages may be written already."""
        stub = kind(_Sending(channel))
        own = () if self.token is None else (("authorization", f"Bearer {self.token}"),)
        for name, call in list(vars(stub).items()):
            setattr(stub, name, partial(_told, call, own))
        return stub


def _told(
    call: Any, own: Metadata, *message: Any, timeout: float | None = None, model: str = "", **options: Any
) -> Any:
    metadata = own
    if timeout is not None:
        metadata += ((TIMEOUT, f"{timeout:.6g}"),)
    if model and model.isascii() and model.isprintable():
        metadata += ((MODEL, model),)
    return call(*message, timeout=timeout, metadata=metadata or None, **options)


class _Sending:
    """A channel whose calls also take the bytes of a message."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        make = getattr(self._channel, kind)

        def call(path: str, **options: Any) -> Any:
            return make(path, **{**options, "request_serializer": serialised})

        return call


def _read(file: str | os.PathLike[str] | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"cannot read {str(file)!r}: {error.strerror}") from None


def _is_near(address: str) -> bool:
    """Whether an address is one of this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(dns|ipv4|ipv6):(/*[^/]*/)?", "", address).rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
