"""How a command reaches a server that is not open to all."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_attribution.client.channel import Link, Tls
from onnx_attribution.client.client import Client
from onnx_attribution.errors import InvalidArgument

SYSTEM = "system"


@dataclass(frozen=True)
class Login:
    """The authority that is trusted, the certificate to connect with, its key, and the token of each call."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = None

    def link(self, address: str) -> Link:
        """Raises: InvalidArgument, for what does not belong together, or cannot be read."""
        if self.ca is None and (self.certificate or self.key):
            raise InvalidArgument(
                f"--certificate and --key are for encrypted connections: give --ca, too (or --ca {SYSTEM})"
            )
        roots = None if self.ca == SYSTEM else self.ca
        return Link(address, self.ca is not None and Tls(roots, self.certificate, self.key), self.token)

    def client(self, address: str) -> Client:
        """Raises: as `link`."""
        link = self.link(address)
        return Client(address, tls=link.tls, token=link.token)
