"""The layers from the input to the target, and what of the target's change passes each."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.client.messages import options_of
from onnx_attribution.errors import AttributionError
from onnx_attribution.server.web.desk import Desk, sides
from onnx_attribution.server.web.question import Question
from onnx_attribution.server.web.spine import rows_of
from onnx_attribution.values import EVERY_KIND


def routes(desk: Desk) -> list[BaseRoute]:
    async def spine(request: Request) -> Response:
        return HTMLResponse(await shown_spine(desk, *sides(request)))

    return [Route("/spine", desk.screen.piece(spine))]


async def shown_spine(desk: Desk, questions: Sequence[Question], which: int, *, linked: bool = True) -> str:
    """The layers as HTML; a refusal stands in its place."""
    question = questions[which]
    try:
        asked = await desk.asked(question.changed(layer=""))
        answer = desk.spines.get(asked.info, asked.question)
        if answer is None:
            every = asked.request.changed(layers=(*asked.info.sources, EVERY_KIND))
            answer = await desk.client.attribute(every.model, every.inputs, **options_of(every))
            desk.spines.keep(asked.info, asked.question, answer)
        layers = await desk.client.layers(question.model, target=answer.target.tensor)
    except AttributionError as error:
        return desk.screen.refusal(error)
    return desk.screen.render(
        "spine.html.j2",
        spine=rows_of(answer, layers),
        questions=questions,
        which=which,
        linked=linked,
    )
