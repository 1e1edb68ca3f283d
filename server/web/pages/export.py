"""All that the page shows of a question, as one file that needs nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from onnx_attribution.client.messages import options_of
from onnx_attribution.server.web import words
from onnx_attribution.server.web.desk import Desk
from onnx_attribution.server.web.pages.answer import SAVED, shown_answer
from onnx_attribution.server.web.pages.explain import scores
from onnx_attribution.server.web.pages.spine import saved_spine
from onnx_attribution.server.web.question import Question


def routes(desk: Desk) -> list[BaseRoute]:
    async def export(request: Request) -> Response:
        sides: list[dict[str, Any]] = []
        questions = Question.both(request.query_params)
        for which, question in enumerate(questions):
            asked = await desk.asked(question)
            model, inputs = asked.request.model, asked.request.inputs
            answer = await desk.client.attribute(model, inputs, **options_of(asked.request))
            outputs = words.prediction(asked.info, await scores(desk, asked))
            sides.append(
                {
                    "answer": await asyncio.to_thread(shown_answer, desk, asked, answer, SAVED, linked=False),
                    "spine": await saved_spine(desk, questions, which),
                    "prediction": desk.screen.render("prediction.html.j2", found=outputs, questions=None),
                    "model": asked.info,
                    "question": question,
                }
            )
        model = sides[0]["model"].name
        text = desk.screen.render(
            "export.html.j2", title=model, css=desk.screen.css, sides=sides, baseline=desk.baseline
        )
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in model)[:60]
        return HTMLResponse(text, headers={"content-disposition": f'attachment; filename="{name}.html"'})

    return [Route("/export", desk.screen.whole(export))]
