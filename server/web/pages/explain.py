"""The form of a question, with places for its answers; and what the model itself says."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.errors import AttributionError
from onnx_attribution.server.web import words
from onnx_attribution.server.web.desk import Desk, sides
from onnx_attribution.server.web.question import Question
from onnx_attribution.server.web.uploads import MOST_BYTES


def routes(desk: Desk) -> list[BaseRoute]:
    async def explain(request: Request) -> Response:
        return await _explain(desk, request)

    async def prediction(request: Request) -> Response:
        questions, which = sides(request)
        asked = await desk.asked(questions[which].changed(target="", minus="", own_label="", layer=""))
        outputs = await desk.client.predict(asked.request.model, asked.request.inputs)
        found = words.prediction(asked.info, outputs)
        return HTMLResponse(
            desk.screen.render("prediction.html.j2", found=found, questions=questions, which=which)
        )

    return [
        Route("/explain", desk.screen.whole(explain)),
        Route("/prediction", desk.screen.piece(prediction)),
    ]


async def _explain(desk: Desk, request: Request) -> Response:
    questions = Question.both(request.query_params)
    first = questions[0]
    if not first.model:
        return RedirectResponse("/", 303)
    models = [one.name for one in await desk.client.models()]
    info = await desk.client.model(first.model)
    choices = desk.inputs.choices(first)
    if not first.input and choices:
        fitting = await desk.inputs.fitting(first, info, choices)
        questions = [one.changed(input=fitting) for one in questions]
        first = questions[0]
    infos = [info, *[await desk.client.model(one.model) for one in questions[1:]]]
    layers = [[each.name for each in await desk.client.layers(one.name)] for one in infos]
    samples, refused = 1, None
    if first.input:
        try:
            samples = (await desk.inputs.given(first, info)).samples
        except AttributionError as error:
            refused = desk.screen.refusal(error)
    return desk.screen.page(
        "explain.html.j2",
        title=first.model,
        models=models,
        info=info,
        methods=await desk.client.methods(),
        layers=layers,
        questions=questions,
        choices=choices,
        samples=samples,
        refused=refused,
        has_netron=desk.reading.has_netron,
        has_data=desk.reading.has_data,
        files_for=desk.inputs.files_for,
        baseline=desk.baseline,
        most=MOST_BYTES,
    )
