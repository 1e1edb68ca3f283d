"""The form of a question, with places for its answers; and what the model itself says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable
from onnx_attribution.server.web import words
from onnx_attribution.server.web.desk import Asked, Desk, sides
from onnx_attribution.server.web.question import Question
from onnx_attribution.server.web.uploads import MOST_BYTES
from onnx_attribution.values import Array


def routes(desk: Desk) -> list[BaseRoute]:
    async def explain(request: Request) -> Response:
        return await _explain(desk, request)

    async def prediction(request: Request) -> Response:
        questions, which = sides(request)
        asked = await desk.asked(questions[which].changed(target="", minus="", own_label="", layer=""))
        found = words.prediction(asked.info, await scores(desk, asked))
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
    choices = desk.inputs.choices(first, info)
    if not first.input and choices:
        fitting = await desk.inputs.fitting(first, info, choices)
        questions = [one.changed(input=fitting) for one in questions]
        first = questions[0]
    infos = [info, *[await desk.client.model(one.model) for one in questions[1:]]]
    layers = [await _layers(desk, one.name) for one in infos]
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
        typed=desk.reading.typed(info),
        files_for=desk.inputs.files_for,
        baseline=desk.baseline,
        most=MOST_BYTES,
    )


async def _layers(desk: Desk, model: str) -> list[str]:
    """The layers that can be chosen; none of a model without scores."""
    with suppress(InvalidArgument, NotDifferentiable):
        return [one.name for one in await desk.client.layers(model)]
    return []


async def scores(desk: Desk, asked: Asked) -> Mapping[str, Array]:
    """The outputs; where none of them is of floats, with the tensor of scores before them, if there is one."""
    model, inputs = asked.request.model, asked.request.inputs
    outputs = await desk.client.predict(model, inputs)
    layers = await _layers(desk, model)
    if layers and not any(array.dtype.kind == "f" for array in outputs.values()):
        outputs = {**await desk.client.predict(model, inputs, layers[-1:]), **outputs}
    return outputs
