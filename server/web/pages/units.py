"""The units of a layer over a data set, and one of them with the samples that show it best."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.client.messages import options_of
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.web.desk import Desk, Kept
from onnx_attribution.server.web.inputs import DATA
from onnx_attribution.server.web.question import Question, query
from onnx_attribution.server.web.units import Sums, picture_of, sums_over
from onnx_attribution.values import ModelInfo, Target


def routes(desk: Desk) -> list[BaseRoute]:
    kept = Kept[Sums]()

    async def units(request: Request) -> Response:
        """The units of a layer over the data set, the strongest first."""
        question = Question.of(request.query_params)
        _, _, sums = await _over_data(desk, kept, question)
        return desk.screen.page(
            "units.html.j2",
            title=f"{question.layer} of {question.model}",
            question=question,
            units=sums.strongest(),
            all=sums.values.shape[1],
            samples=len(sums.values),
            unanswered=sums.unanswered,
            names=desk.names.of(question.layer),
        )

    async def unit(request: Request) -> Response:
        """One unit: the samples of the data set to which it contributes most, and where in them."""
        question = Question.of(request.query_params)
        text = request.query_params.get("unit", "")
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        return await _unit(desk, kept, question, number)

    return [Route("/units", desk.screen.whole(units)), Route("/unit", desk.screen.whole(unit))]


async def _unit(desk: Desk, kept: Kept[Sums], question: Question, unit: int) -> Response:
    info, data, sums = await _over_data(desk, kept, question)
    values, examples = sums.of(unit), []
    for k in sums.examples(unit):
        item = data.items[k]
        asked = await desk.asked(question.changed(input=DATA, row=str(k)))
        model, inputs = asked.request.model, asked.request.inputs
        answer = await desk.client.attribute(model, inputs, **options_of(asked.request))
        (layer,) = answer.layers.values()
        examples.append(
            {
                "id": item.id,
                "label": item.label,
                "value": values[k],
                "picture": await asyncio.to_thread(picture_of, info, item.inputs, layer, unit),
                "query": query([asked.question]),
                "target": answer.target.labels[0] if answer.target.labels else answer.target.index[0],
            }
        )
    known = [one for one in desk.names.all if (one.layer, one.unit) == (question.layer, unit)]
    return desk.screen.page(
        "unit.html.j2",
        title=f"unit {unit} of {question.layer}",
        question=question,
        unit=unit,
        told=next((one for one in sums.strongest() if one["number"] == unit), None),
        named=known[0] if known else None,
        examples=examples,
        samples=len(sums.values),
        last=sums.values.shape[1] - 1,
    )


async def _over_data(desk: Desk, kept: Kept[Sums], question: Question) -> tuple[ModelInfo, Dataset, Sums]:
    """What the units of a layer contribute over the data set."""
    info = await desk.client.model(question.model)
    data = await asyncio.to_thread(desk.reading.data, info)
    if data is None:
        raise InvalidArgument("the page has no data set: start it with --data DIR|FILE")
    if not question.layer:
        raise InvalidArgument("choose a layer first")
    base = question.changed(input=DATA, row="0")
    sums = kept.get(info, base)
    if sums is None:
        targets = await _targets(desk, base, info, data)
        first = next((k for k, target in enumerate(targets) if target is not None), 0)
        asked = await desk.asked(base.changed(row=str(first)))
        sums = kept.keep(
            info, base, await sums_over(desk.client, asked.request, question.layer, data, targets)
        )
    return info, data, sums


async def _targets(desk: Desk, question: Question, info: ModelInfo, data: Dataset) -> list[Target | None]:
    """The target of each sample; None for those that have none of their own, where each has."""
    found: list[Target | None] = []
    known: dict[tuple[str, str], Target | None] = {}
    for k in range(len(data)):
        each = question.changed(row=str(k))
        try:
            own = each.about(await desk.inputs.given(each, info))
        except InvalidArgument:
            found.append(None)
            continue
        key = own.target, own.minus
        if key not in known:
            known[key] = (await desk.asked(each)).request.target
        found.append(known[key])
    return found
