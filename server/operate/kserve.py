"""KServe's protocols on the HTTP port: what `Rest` answers, behind routes of Starlette."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.errors import Cancelled, DeadlineExceeded, InvalidArgument, MessageTooLarge
from onnx_attribution.server.service.rest.rest import Asked, Rest
from onnx_attribution.server.settings import Settings

__all__ = ["routes"]

MIB = 1 << 20
PATHS = ("/", "/v1/{rest:path}", "/v2", "/v2/{rest:path}")


def routes(rest: Rest, settings: Settings) -> list[BaseRoute]:
    """All paths of both versions of the protocol."""
    most, seconds = settings.max_request_mib * MIB, settings.unary_seconds

    async def answered(request: Request) -> Response:
        is_read = asyncio.Event()

        async def read() -> bytes:
            try:
                async with asyncio.timeout(seconds):
                    return await _body(request, most)
            except TimeoutError:
                raise DeadlineExceeded(f"the body did not come within {seconds:g} s") from None
            except ClientDisconnect:
                raise Cancelled("the caller is gone") from None
            finally:
                is_read.set()

        async def gone() -> None:
            await is_read.wait()
            while (await request.receive())["type"] != "http.disconnect":
                pass

        headers = {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
        asked = Asked(request.method, request.scope["path"], headers, read, _peer(request))
        answering, leaving = asyncio.create_task(rest.answer(asked)), asyncio.create_task(gone())
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return Response(status_code=499)  # to nobody
            answer = answering.result()
            return Response(answer.body, answer.status, dict(answer.headers))
        finally:
            answering.cancel()
            leaving.cancel()

    return [Route(path, answered, methods=["GET", "POST"]) for path in PATHS]


def _peer(request: Request) -> str:
    """The caller's address as gRPC writes it."""
    if request.client is None:
        return ""
    host, port = request.client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


async def _body(request: Request, most: int) -> bytes:
    """The body as it was before it was compressed. Raises: MessageTooLarge, InvalidArgument.

    Of one that is too large, some more is read: most callers listen for an answer only when they have sent all.
    """
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > 2 * most:
        raise _too_large(most)
    expand = _expander(request.headers.get("content-encoding", "identity"), most)
    found, received, is_too_large = bytearray(), 0, False
    async for chunk in request.stream():
        received += len(chunk)
        if not is_too_large:
            found += expand(chunk)
            is_too_large = max(len(found), received) > most
        elif received > 2 * most:
            break
        if is_too_large:
            found.clear()
    if is_too_large:
        raise _too_large(most)
    return bytes(found)


def _expander(encoding: str, most: int) -> Callable[[bytes], bytes]:
    """What undoes a compression, chunk by chunk, of little more than `most` bytes."""
    if encoding.lower() == "identity":
        return lambda chunk: chunk
    if encoding.lower() not in ("gzip", "deflate"):
        raise InvalidArgument(f"a body is compressed by gzip or deflate, not by {encoding[:40]!r}")
    machine = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of both forms, by their head

    def expand(chunk: bytes) -> bytes:
        try:
            return machine.decompress(chunk, most + 1)
        except zlib.error:
            raise InvalidArgument(f"the body is not compressed by {encoding}") from None

    return expand


def _too_large(most: int) -> MessageTooLarge:
    return MessageTooLarge(f"the body has more than {most // MIB} MiB", limit=most)
