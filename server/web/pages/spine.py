"""The layers from the input to the target, and what of the target's change passes each."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.client.messages import options_of
from onnx_attribution.errors import AttributionError, InvalidArgument, Reason
from onnx_attribution.server.web.desk import Asked, Desk
from onnx_attribution.server.web.live import Events, State, revisions, streamed
from onnx_attribution.server.web.question import Question
from onnx_attribution.server.web.spine import rows_of
from onnx_attribution.values import EVERY_KIND, EVERY_TENSOR, Attribution, AttributionRequest

OF_LAYERS = ("neuron_ig", "deeplift_rescale")
"""Methods that say of all layers at once what passes them."""
FEW = 64
"""Layers of a model that are all shown, where none is of the kinds that are shown of others."""


def routes(desk: Desk) -> list[BaseRoute]:
    async def spine(request: Request) -> Response:
        return streamed(desk, request, _events)

    return [Route("/spine", spine)]


async def _events(desk: Desk, questions: Sequence[Question], which: int) -> Events:
    asked = await desk.asked(questions[which].changed(layer=""))
    known = desk.spines.get(asked.info, asked.question)
    if known is not None:
        yield "final", {"html": await _html(desk, known, questions, which), "number": 0}
        return

    if asked.about.layer_is_source:
        yield "final", {"html": _without(desk, questions, which), "number": 0}
        return

    async def shown(answer: Attribution, state: State) -> str:
        if state["final"]:
            desk.spines.keep(asked.info, asked.question, answer)
        return await _html(desk, answer, questions, which)

    try:
        async for event in revisions(desk, _through(asked, EVERY_KIND), shown):
            yield event
    except InvalidArgument as error:
        if not await _has_few(desk, asked, error):
            raise
        async for event in revisions(desk, _through(asked, EVERY_TENSOR), shown):
            yield event


def _without(desk: Desk, questions: Sequence[Question], which: int) -> str:
    """In the place of the layers, of methods that say nothing of them: those that do."""
    return desk.screen.render("no_spine.html.j2", questions=questions, which=which, instead=OF_LAYERS)


async def saved_spine(desk: Desk, questions: Sequence[Question], which: int) -> str:
    """The layers as HTML, without links; a refusal stands in its place."""
    try:
        asked = await desk.asked(questions[which].changed(layer=""))
        if asked.about.layer_is_source:
            return _without(desk, (), 0)
        answer = desk.spines.get(asked.info, asked.question)
        for kind in [] if answer else [EVERY_KIND, EVERY_TENSOR]:
            request = _through(asked, kind)
            try:
                answer = await desk.client.attribute(request.model, request.inputs, **options_of(request))
                desk.spines.keep(asked.info, asked.question, answer)
                break
            except InvalidArgument as error:
                if kind == EVERY_TENSOR or not await _has_few(desk, asked, error):
                    raise
        assert answer is not None
    except AttributionError as error:
        return desk.screen.refusal(error)
    return await _html(desk, answer, questions, which, linked=False)


def _through(asked: Asked, kind: str) -> AttributionRequest:
    return asked.request.changed(layers=(*asked.info.sources, kind))


async def _has_few(desk: Desk, asked: Asked, error: InvalidArgument) -> bool:
    """Whether a model has no layer of the kinds that are shown, and so few that all of them can be."""
    if error.reason != Reason.LAYER_INVALID:
        return False
    return 0 < len(await desk.client.layers(asked.info.name)) <= FEW


async def _html(
    desk: Desk, answer: Attribution, questions: Sequence[Question], which: int, *, linked: bool = True
) -> str:
    layers = await desk.client.layers(questions[which].model, target=answer.target.tensor)
    return desk.screen.render(
        "spine.html.j2", spine=rows_of(answer, layers), questions=questions, which=which, linked=linked
    )
