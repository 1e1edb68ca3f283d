"""What every page looks like: the templates, the style, and refusals in words."""

from __future__ import annotations

import asyncio
import html as markup
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from onnx_attribution.client.render import page
from onnx_attribution.client.render.templates import templates
from onnx_attribution.errors import AttributionError, NotDifferentiable, Reason
from onnx_attribution.server.web import words
from onnx_attribution.server.web.question import Question, moved, query

STATIC = Path(__file__).parent / "static"

WITHOUT_DERIVATIVES = ("occlusion", "kernel_shap")
"""Methods that are offered where derivatives are zero or not known."""

Answer = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger(__name__)


class Screen:
    """Makes pages of templates. `hidden` is the folder of uploads, which no refusal names."""

    def __init__(self, hidden: Path) -> None:
        self._hidden = str(hidden)
        self._templates = templates("onnx_attribution.server.web")
        self._templates.globals.update(query=query, moved=moved)
        self.css = (STATIC / "page.css").read_text(encoding="utf-8") + page.css()
        self.script = (STATIC / "page.js").read_text(encoding="utf-8")

    def render(self, template: str, **given: Any) -> str:
        """A template as text."""
        text: str = self._templates.get_template(template).render(**given)
        return text

    def page(self, template: str, status: int = 200, **given: Any) -> Response:
        """A template as an answer."""
        return HTMLResponse(self.render(template, **given), status)

    def refusal(self, error: Exception, questions: Sequence[Question] = (), which: int = 0) -> str:
        """What is wrong and what would work, as HTML, with links to questions that have an answer; what nobody expected
        goes to the log."""
        if not isinstance(error, AttributionError):
            log.error("page", exc_info=error)
        methods = WITHOUT_DERIVATIVES if questions and isinstance(error, NotDifferentiable) else ()
        is_open = bool(questions) and not questions[which].target and not questions[which].own_label
        return self.render(
            "refusal.html.j2",
            refused=words.refusal(error, self._hidden),
            choose=is_open and isinstance(error, AttributionError) and error.reason == Reason.TARGET_INVALID,
            instead={name: query(moved(questions, which, method=name, parameter="")) for name in methods},
        )

    def whole(self, answer: Answer) -> Answer:
        """The answer, or a page that says what is wrong."""

        def refused(request: Request, text: str) -> Response:
            back = markup.escape(request.query_params.get("model", ""))
            return self.page("refused.html.j2", 400, title="Not possible", refused=text, back=back)

        return self._guarded(answer, refused)

    def piece(self, answer: Answer) -> Answer:
        """The answer, or what is wrong in its place on a page."""
        return self._guarded(answer, lambda request, text: HTMLResponse(text))

    def _guarded(self, answer: Answer, refused: Callable[[Request, str], Response]) -> Answer:
        async def guarded(request: Request) -> Response:
            try:
                return await _while_there(request, answer)
            except asyncio.CancelledError:  # the page ends
                return Response(status_code=503)
            except Exception as error:
                return refused(request, self.refusal(error))

        return guarded


async def _while_there(request: Request, answer: Answer) -> Response:
    """The answer, which is given up, with all that is computed for it, once nobody waits for it."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asked, left = asyncio.ensure_future(answer(request)), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([asked, left], return_when=asyncio.FIRST_COMPLETED)
        return await asked if asked.done() else Response(status_code=499)
    finally:
        for task in (asked, left):
            task.cancel()
        await asyncio.gather(asked, left, return_exceptions=True)
