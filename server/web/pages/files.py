"""Files that are sent to the page, that it opens elsewhere, and that it is made of; `html` of an answer refuses."""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.web.desk import Desk
from onnx_attribution.server.web.question import Question
from onnx_attribution.server.web.uploads import MOST_BYTES

log = structlog.get_logger(__name__)


def routes(desk: Desk) -> list[BaseRoute]:
    async def upload(request: Request) -> Response:
        try:
            return JSONResponse(await _uploaded(desk, request))
        except AttributionError as error:
            return JSONResponse({"html": desk.screen.refusal(error)})

    async def netron(request: Request) -> Response:
        """Opens the model in Netron, and says where."""
        try:
            return JSONResponse({"url": await asyncio.to_thread(desk.reading.netron)})
        except AttributionError as error:
            return JSONResponse({"html": desk.screen.refusal(error)})

    async def style(request: Request) -> Response:
        return Response(desk.screen.css, media_type="text/css")

    async def script(request: Request) -> Response:
        return Response(desk.screen.script, media_type="text/javascript")

    return [
        Route("/upload", upload, methods=["POST"]),
        Route("/netron", netron, methods=["POST"]),
        Route("/page.css", style),
        Route("/page.js", script),
    ]


async def _uploaded(desk: Desk, request: Request) -> dict[str, object]:
    """Keeps a file, the body of the request: its key; of inputs what the group lacks, or how many samples it has."""
    given = request.query_params
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise InvalidArgument(f"{given.get('name', '')!r} is larger than {MOST_BYTES >> 20} MiB")
    name, beside = given.get("name", "file"), given.get("with", "")
    key = desk.uploads.add(name, bytes(data), input=given.get("input", ""), beside=beside)
    if given.get("field", "input") != "input":
        return {"key": key}
    info = await desk.client.model(given.get("model", ""))
    have = {one for one, _ in desk.uploads.files(key)}
    missing = [one.name for one in info.inputs if have != {""} and one.name not in have]
    if missing:
        return {"key": key, "missing": missing}
    question = Question(model=info.name, input=key)
    found = await desk.inputs.given(question, info)
    first = await asyncio.to_thread(desk.reading.sample, info, found, 0)
    try:
        await desk.client.predict(info.name, first)
    except InvalidArgument:  # it does not fit
        raise
    except AttributionError as error:  # which an answer will say, too
        log.info("not tried", model=info.name, why=error.message)
    return {"key": key, "samples": found.samples}
