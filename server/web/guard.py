"""Who may see the page: who knows its key, from this machine; and what a browser may do with it."""

from __future__ import annotations

import asyncio
import hmac
import html
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
HEADERS = {
    # Pictures are made with the answer, and lie in it as data; all else comes from here.
    "content-security-policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
KEY = "key"


class Guard:
    """Answers only those who came by the address with the key, and are of this machine: other users of it are not.

    A request's Host must be this machine's own name, so that no page elsewhere reaches it by a name of its own
    (DNS rebinding); what is sent, or asked for by another page, must come from a page of this one.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refused(scope)
        try:
            await (refused or self._app)(scope, receive, with_headers)
        except asyncio.CancelledError:  # the page ends while an answer is on its way
            with suppress(RuntimeError):  # it was whole already
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host.rpartition(":")[0] not in HOSTS:
            return PlainTextResponse("this page is for 127.0.0.1 and localhost only\n", 421)
        own = f"http://{host}"
        asked = scope["method"] in ("GET", "HEAD")
        if headers.get("origin", "null" if not asked else own) != own:
            return PlainTextResponse("only this page itself may send here\n", 403)
        site, mode = headers.get("sec-fetch-site", "same-origin"), headers.get("sec-fetch-mode", "")
        if site not in ("same-origin", "none") and not (asked and mode == "navigate"):
            return PlainTextResponse("only this page itself may ask here\n", 403)
        name = f"page-{scope['server'][1]}"
        fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(fields).get(KEY)
        if given is not None and hmac.compare_digest(given.encode(), self._key.encode()):
            rest = urlencode([(one, text) for one, text in fields if one != KEY])
            # A page of its own, and no redirect: after one, a browser that came from elsewhere keeps the cookie back.
            onward = html.escape(f"/{scope['path'].lstrip('/')}" + f"?{rest}" * bool(rest))
            response = HTMLResponse(
                f'<!doctype html><link rel="icon" href="data:,"><meta http-equiv="refresh" content="0;url={onward}">'
            )
            response.set_cookie(name, self._key, httponly=True, samesite="strict")
            return response
        if not hmac.compare_digest(_cookie(headers, name).encode(), self._key.encode()):
            return PlainTextResponse("open the address that onnx-attribution page printed\n", 403)
        return None


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
