"""The addresses of the page, and what each answers."""

from __future__ import annotations

import asyncio
import html as markup
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from onnx_attribution.client.aio import AsyncClient
from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.client.niwt.unit_names import UnitNames
from onnx_attribution.client.render import page
from onnx_attribution.client.render.templates import templates
from onnx_attribution.errors import AttributionError, InvalidArgument, NotFound
from onnx_attribution.server.web import words
from onnx_attribution.server.web.question import Given, Question, Reading, moved, query
from onnx_attribution.server.web.units import Sums, options_of, picture_of, sums_over
from onnx_attribution.server.web.uploads import MOST_BYTES, Uploads
from onnx_attribution.values import (
    EVERY_KIND,
    Array,
    Attribution,
    AttributionRequest,
    Completed,
    ModelInfo,
    Progress,
    Revision,
    TensorInfo,
)

STATIC = Path(__file__).parent / "static"
KEPT = 16
"""Answers about all layers of a question, which stay while people go from layer to layer."""
EXAMPLE, DATA, BESIDE = "example", "data", "beside:"
TRIED = 8
"""Files beside the model that are read until one of them fits."""
PROGRESS_SECONDS = 0.2
SAVED = {"final": True, "number": None, "why": ""}

Kept = TypeVar("Kept")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Asked:
    """A question with all that is known of it."""

    question: Question
    info: ModelInfo
    arrays: Mapping[str, Array]
    request: AttributionRequest
    command: str
    notes: tuple[str, ...]


class Pages:
    """What the page shows. `names` are those of units; `close` removes the files that were given."""

    def __init__(self, client: AsyncClient, reading: Reading, names: UnitNames | None = None) -> None:
        self._client = client
        self._reading = reading
        self._names = names or UnitNames()
        self._uploads = Uploads()
        self._spines: dict[tuple[str, Question], Attribution] = {}
        self._sums: dict[tuple[str, Question], Sums] = {}
        self._templates = templates("onnx_attribution.server.web")
        self._css = (STATIC / "page.css").read_text(encoding="utf-8") + page.css()
        self._templates.globals.update(query=query, moved=moved)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self._guarded(self._home)),
            Route("/explain", self._guarded(self._explain)),
            Route("/stream", self._stream),
            Route("/spine", self._guarded(self._spine, whole=False)),
            Route("/prediction", self._guarded(self._prediction, whole=False)),
            Route("/units", self._guarded(self._units)),
            Route("/unit", self._guarded(self._unit)),
            Route("/export", self._guarded(self._export)),
            Route("/netron", self._netron, methods=["POST"]),
            Route("/upload", self._upload, methods=["POST"]),
            Route("/page.css", self._style),
            Route("/page.js", self._script),
        ]

    def close(self) -> None:
        self._uploads.close()

    # --- pages

    async def _home(self, request: Request) -> Response:
        models = await self._client.models()
        if len(models) == 1:
            return RedirectResponse(f"/explain?{query([Question(model=models[0].name)])}", 303)
        return self._page("home.html.j2", title="Models", models=models)

    async def _explain(self, request: Request) -> Response:
        questions = Question.both(request.query_params)
        first = questions[0]
        if not first.model:
            return RedirectResponse("/", 303)
        models = [one.name for one in await self._client.models()]
        info = await self._client.model(first.model)
        choices = self._choices(first)
        if not first.input and choices:
            fitting = await self._fitting(first, info, choices)
            questions = [one.changed(input=fitting) for one in questions]
            first = questions[0]
        infos = [info, *[await self._client.model(one.model) for one in questions[1:]]]
        layers = [[each.name for each in await self._client.layers(one.name)] for one in infos]
        samples, refused = 1, None
        if first.input:
            try:
                samples = (await self._given(first, info)).samples
            except AttributionError as error:
                refused = self._refusal(error)
        return self._page(
            "explain.html.j2",
            title=first.model,
            models=models,
            info=info,
            methods=await self._client.methods(),
            layers=layers,
            questions=questions,
            choices=choices,
            samples=samples,
            refused=refused,
            has_netron=self._reading.has_netron,
        )

    async def _export(self, request: Request) -> Response:
        """One file that needs nothing else, with what the page shows of the questions."""
        sides: list[dict[str, Any]] = []
        questions = Question.both(request.query_params)
        for which, question in enumerate(questions):
            asked = await self._asked(question)
            model, inputs = asked.request.model, asked.request.inputs
            answer = await self._client.attribute(model, inputs, **options_of(asked.request))
            outputs = words.prediction(asked.info, await self._client.predict(model, inputs))
            sides.append(
                {
                    "answer": await asyncio.to_thread(self._answer, asked, answer, SAVED, linked=False),
                    "spine": await self._spine_of(questions, which, linked=False),
                    "prediction": self._render("prediction.html.j2", found=outputs, questions=None),
                    "model": asked.info,
                    "question": question,
                }
            )
        model = sides[0]["model"].name
        text = self._render("export.html.j2", title=model, css=self._css, sides=sides)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in model)[:60]
        return HTMLResponse(text, headers={"content-disposition": f'attachment; filename="{name}.html"'})

    async def _units(self, request: Request) -> Response:
        """The units of a layer over the data set, the strongest first."""
        question = Question.of(request.query_params)
        _, _, sums = await self._over_data(question)
        return self._page(
            "units.html.j2",
            title=f"{question.layer} of {question.model}",
            question=question,
            units=sums.strongest(),
            all=sums.values.shape[1],
            samples=len(sums.values),
            unanswered=sums.unanswered,
            names=self._names.of(question.layer),
        )

    async def _unit(self, request: Request) -> Response:
        """One unit: the samples of the data set to which it contributes most, and where in them."""
        question = Question.of(request.query_params)
        text = request.query_params.get("unit", "")
        unit = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        info, data, sums = await self._over_data(question)
        values, examples = sums.of(unit), []
        for k in sums.examples(unit):
            item = data.items[k]
            asked = await self._asked(question.changed(input=DATA, row=str(k)))
            model, inputs = asked.request.model, asked.request.inputs
            answer = await self._client.attribute(model, inputs, **options_of(asked.request))
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
        known = [one for one in self._names.all if (one.layer, one.unit) == (question.layer, unit)]
        return self._page(
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

    # --- pieces of a page

    async def _stream(self, request: Request) -> Response:
        """The revisions of an answer as they come: each as HTML, the last one marked."""

        async def events() -> AsyncIterator[str]:
            try:
                questions, which = self._sides(request)
                async for kind, told in self._events(questions[which]):
                    yield f"event: {kind}\ndata: {json.dumps(told)}\n\n"
            except asyncio.CancelledError:  # nobody is there any more
                return
            except AttributionError as error:
                yield f"event: refused\ndata: {json.dumps({'html': self._refusal(error)})}\n\n"
            except Exception as error:
                log.error("page", exc_info=error)
                yield f"event: refused\ndata: {json.dumps({'html': self._refusal(error)})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _events(self, question: Question) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        asked = await self._asked(question)
        revisions: dict[int, Attribution] = {}
        shown = 0.0
        async with self._client.stream(
            asked.request.model, asked.request.inputs, **options_of(asked.request)
        ) as stream:
            async for event in stream:
                match event:
                    case Progress():
                        if time.monotonic() - shown > PROGRESS_SECONDS:
                            shown = time.monotonic()
                            yield "progress", {"done": event.done, "planned": event.planned}
                    case Revision():
                        revisions[event.number] = event.attribution
                        state: dict[str, Any] = {"final": False, "number": event.number, "why": ""}
                        text = await asyncio.to_thread(self._answer, asked, event.attribution, state)
                        yield "revision", {"html": text, "number": event.number}
                    case Completed():
                        best = event.best_revision
                        state = {"final": True, "number": best, "why": event.stop_reason.replace("_", " ")}
                        text = await asyncio.to_thread(self._answer, asked, revisions[best], state)
                        yield "final", {"html": text, "number": best}

    async def _spine(self, request: Request) -> Response:
        return HTMLResponse(await self._spine_of(*self._sides(request)))

    async def _prediction(self, request: Request) -> Response:
        questions, which = self._sides(request)
        asked = await self._asked(questions[which].changed(target="", layer=""))
        outputs = await self._client.predict(asked.request.model, asked.request.inputs)
        found = words.prediction(asked.info, outputs)
        return HTMLResponse(self._render("prediction.html.j2", found=found, questions=questions, which=which))

    async def _upload(self, request: Request) -> Response:
        """Keeps a file; the body is the file itself."""
        given = request.query_params
        try:
            data = bytearray()
            async for part in request.stream():
                data += part
                if len(data) > MOST_BYTES:
                    raise InvalidArgument(f"{given.get('name', '')!r} is larger than {MOST_BYTES >> 20} MiB")
            name, beside = given.get("name", "file"), given.get("with", "")
            key = self._uploads.add(name, bytes(data), input=given.get("input", ""), beside=beside)
            info = await self._client.model(given.get("model", ""))
            have = {one for one, _ in self._uploads.files(key)}
            missing = [one.name for one in info.inputs if have != {""} and one.name not in have]
            if missing:
                return JSONResponse({"key": key, "missing": missing})
            found = await self._given(Question(model=info.name, input=key), info)
        except AttributionError as error:
            return JSONResponse({"html": self._refusal(error)}, 400)
        return JSONResponse({"key": key, "samples": found.samples})

    async def _netron(self, request: Request) -> Response:
        """Opens the model in Netron, and says where."""
        try:
            return JSONResponse({"url": await asyncio.to_thread(self._reading.netron)})
        except AttributionError as error:
            return JSONResponse({"html": self._refusal(error)}, 400)

    async def _style(self, request: Request) -> Response:
        return Response(self._css, media_type="text/css")

    async def _script(self, request: Request) -> Response:
        return Response((STATIC / "page.js").read_text(encoding="utf-8"), media_type="text/javascript")

    # --- what is behind them

    def _sides(self, request: Request) -> tuple[list[Question], int]:
        """The questions of an address, and which of them is meant."""
        questions = Question.both(request.query_params)
        return questions, len(questions) - 1 if request.query_params.get("side") == "1" else 0

    def _choices(self, question: Question) -> dict[str, str]:
        """What may be taken as an input, by its key: in words."""
        found = {}
        if self._reading.example(question.model) is not None:
            found[EXAMPLE] = "the model's example"
        if self._reading.has_data:
            found[DATA] = "the data set"
        found |= {f"{BESIDE}{name}": name for name in self._reading.beside(question.model)}
        if question.input and question.input not in found:
            try:
                files = self._uploads.files(question.input)
            except NotFound:
                return found
            found[question.input] = ", ".join(file.name for _, file in files)
        return found

    async def _fitting(self, question: Question, info: ModelInfo, choices: Mapping[str, str]) -> str:
        """The first of the choices that can be used, or the first."""
        for key in list(choices)[:TRIED]:
            with suppress(AttributionError, KeyError):
                given = await self._given(question.changed(input=key), info)
                if all(_fits(given.arrays[one.name], one) for one in info.inputs):
                    return key
        return next(iter(choices))

    async def _given(self, question: Question, info: ModelInfo) -> Given:
        """The arrays of the input. Raises: AttributionError: there are none, or they cannot be used."""
        if not question.input:
            raise InvalidArgument("choose a file with the input that is to be explained")
        if question.input == EXAMPLE:
            example = await asyncio.to_thread(self._reading.example, question.model)
            if example is None:
                raise NotFound("the model has no example; choose a file")
            return example
        if question.input == DATA:
            return await asyncio.to_thread(self._reading.item, info, question.number)
        if question.input.startswith(BESIDE):
            name = question.input.removeprefix(BESIDE)
            known = self._reading.beside(question.model)
            if name not in known:
                raise NotFound(f"there is no file {name!r} beside the model")
            files: tuple[tuple[str, Path], ...] = (("", known[name]),)
        else:
            files = self._uploads.files(question.input)
        return await asyncio.to_thread(self._reading.arrays, info, files)

    async def _asked(self, question: Question) -> Asked:
        """The request of a question. Raises: AttributionError: it cannot be answered."""
        info = await self._client.model(question.model)
        given = await self._given(question, info)
        methods = {one.name: one for one in await self._client.methods()}
        if question.method not in methods:
            raise InvalidArgument(f"the server has no method {question.method!r}; choose one of the list")
        arrays, samples = given.arrays, 1 if given.is_row else given.samples
        if samples > 1:
            arrays = self._reading.row(info, arrays, question.number)
        request = self._reading.request(question, info, methods[question.method], arrays)
        place = self._reading.place(question.model)
        command = question.command(place, given.options, samples)
        return Asked(question, info, arrays, request, command, tuple(given.notes))

    async def _over_data(self, question: Question) -> tuple[ModelInfo, Dataset, Sums]:
        """What the units of a layer contribute over the data set."""
        info = await self._client.model(question.model)
        data = await asyncio.to_thread(self._reading.data, info)
        if data is None:
            raise InvalidArgument("the page has no data set: start it with --data DIR|FILE")
        if not question.layer:
            raise InvalidArgument("choose a layer first")
        asked = await self._asked(question.changed(input=DATA, row="0"))
        key = (info.digest, asked.question)
        sums = self._sums.get(key)
        if sums is None:
            sums = await sums_over(self._client, asked.request, question.layer, data)
            _keep(self._sums, key, sums)
        return info, data, sums

    def _answer(
        self, asked: Asked, answer: Attribution, state: Mapping[str, Any], *, linked: bool = True
    ) -> str:
        told = words.told(answer, asked.info, asked.arrays, asked.question.baseline, self._names)
        told["warnings"] = (*told["warnings"], *asked.notes)
        return self._render(
            "answer.html.j2",
            told=told,
            state=state,
            question=asked.question,
            command=asked.command,
            has_data=linked and self._reading.has_data,
        )

    async def _spine_of(self, questions: Sequence[Question], which: int, *, linked: bool = True) -> str:
        """The layers of a model with what passes each; a refusal stands in its place."""
        question = questions[which]
        try:
            asked = await self._asked(question.changed(layer=""))
            key = (asked.info.digest, asked.question)
            answer = self._spines.get(key)
            if answer is None:
                every = asked.request.changed(layers=(*asked.info.sources, EVERY_KIND))
                answer = await self._client.attribute(every.model, every.inputs, **options_of(every))
                _keep(self._spines, key, answer)
            layers = await self._client.layers(question.model)
        except AttributionError as error:
            return self._refusal(error)
        return self._render(
            "spine.html.j2",
            spine=words.spine(answer, layers),
            questions=questions,
            which=which,
            linked=linked,
        )

    def _refusal(self, error: Exception) -> str:
        found = words.refusal(error, str(self._uploads.folder))
        return self._render("refusal.html.j2", refused=found)

    def _render(self, name: str, **given: Any) -> str:
        text: str = self._templates.get_template(name).render(**given)
        return text

    def _page(self, name: str, status: int = 200, **given: Any) -> Response:
        return HTMLResponse(self._render(name, **given), status)

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]], *, whole: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """The answer, or a refusal in words: as a page, or as a piece of one."""

        async def guarded(request: Request) -> Response:
            try:
                return await _while_there(request, answer)
            except asyncio.CancelledError:  # the page ends
                return Response(status_code=503)
            except AttributionError as error:
                text = self._refusal(error)
            except Exception as error:
                log.error("page", exc_info=error)
                text = self._refusal(error)
            if not whole:
                return HTMLResponse(text)
            back = markup.escape(request.query_params.get("model", ""))
            return self._page("refused.html.j2", 400, title="Not possible", refused=text, back=back)

        return guarded


async def _while_there(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
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


def _fits(array: Array, one: TensorInfo) -> bool:
    """Whether an array has the shape of an input, but for its samples."""
    return one.shape is None or (
        array.ndim == len(one.shape)
        and all(
            axis == one.batch_axis or not isinstance(size, int) or size == array.shape[axis]
            for axis, size in enumerate(one.shape)
        )
    )


def _keep(kept: dict[tuple[str, Question], Kept], key: tuple[str, Question], value: Kept) -> None:
    """Keeps what was computed; the oldest gives way."""
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = value
