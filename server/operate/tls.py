"""The server's certificate, and that of those who may connect: read again when the files change."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import structlog

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.service.followed import Followed
from onnx_attribution.server.settings import Settings

__all__ = ["server_credentials"]

log = structlog.get_logger(__name__)


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What connections are encrypted with; None where no certificate is set. Each new connection sees new files.

    Raises: InvalidArgument, for files that cannot be used.
    """
    certificate, key, roots = settings.certificate, settings.key, settings.client_ca
    if certificate is None or key is None:
        return None
    if key.exists() and key.stat().st_mode & 0o077:
        log.warning("other users may read the key", file=key.name)
    files = [file for file in (certificate, key, roots) if file is not None]
    followed = Followed(files, lambda: _read(certificate, key, roots))

    def changed() -> grpc.ServerCertificateConfiguration | None:
        found, is_new = followed.look()
        return found if is_new else None

    return grpc.dynamic_ssl_server_credentials(followed(), changed, roots is not None)


def _read(certificate: Path, key: Path, roots: Path | None) -> grpc.ServerCertificateConfiguration:
    """Raises: InvalidArgument, if the key is not the certificate's, or one of the files is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        chain, secret = certificate.read_bytes(), key.read_bytes()
        trusted = None if roots is None else roots.read_bytes()
        context.load_cert_chain(certificate, key, password=lambda: "")  # no question on the terminal
        if roots is not None:
            context.load_verify_locations(roots)
    except OSError as error:  # SSLError among them
        why = error.strerror or getattr(error, "reason", None) or "they are none"
        names = ", ".join(repr(file.name) for file in (certificate, key, roots) if file is not None)
        raise InvalidArgument(
            f"the files {names} cannot be used as certificate, key and certificates of clients: {why}"
        ) from None
    return grpc.ssl_server_certificate_configuration([(secret, chain)], trusted)
