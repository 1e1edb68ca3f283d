"""The models that can be looked into."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.server.web.desk import Desk
from onnx_attribution.server.web.question import Question, query


def routes(desk: Desk) -> list[BaseRoute]:
    async def home(request: Request) -> Response:
        models = await desk.client.models()
        if len(models) == 1:
            return RedirectResponse(f"/explain?{query([Question(model=models[0].name)])}", 303)
        return desk.screen.page("home.html.j2", title="Models", models=models)

    return [Route("/", desk.screen.whole(home))]
