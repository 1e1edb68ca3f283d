"""The client for asyncio: the calls of `client.py`, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import ArrayLike

from onnx_attribution.client import calls, events, messages
from onnx_attribution.client.audit.stream import Asked, Audited, AuditProgress, Log
from onnx_attribution.client.calls import Answer, Call, Listing
from onnx_attribution.client.connected import Connected
from onnx_attribution.client.errors import LOST, translated
from onnx_attribution.client.events import Report
from onnx_attribution.client.measure import Sent, told
from onnx_attribution.client.messages import STREAM_SECONDS, UNARY_SECONDS, Inputs, seconds
from onnx_attribution.client.streams import AsyncStream
from onnx_attribution.errors import InvalidArgument, NotReady, ServerBug
from onnx_attribution.importance import Importance, Measuring
from onnx_attribution.interventions import Intervened, Intervention
from onnx_attribution.methods import MethodInfo
from onnx_attribution.values import (
    Array,
    Attribution,
    ChannelSums,
    LayerInfo,
    ModelInfo,
    Selection,
    ServerInfo,
    Target,
)

__all__ = ["AsyncClient"]


class AsyncClient(Connected):
    """Attributions from a server. Make it where an event loop runs; otherwise all is as in `Client`.

    async with AsyncClient("127.0.0.1:8081") as client:
        result = await client.attribute("digits", image, layers=["conv2"], target=7)
    """

    _grpc = grpc.aio

    async def attribute(
        self,
        model: str,
        inputs: Inputs,
        *,
        timeout: float | None = None,
        progress: Report | bool | None = None,
        **options: Any,
    ) -> Attribution:
        """The best attribution, of any size. `progress` is called with what arrives; True shows a bar.

        `options` are those of `onnx_attribution.values.AttributionRequest`, the parameters of its method included.
        """
        with events.reporting(progress) as report:
            found = events.Collected(report)
            async with self.stream(
                model, inputs, timeout=timeout, revisions=bool(progress), **options
            ) as stream:
                async for event in stream:
                    found.add(event)
        return found.best()

    def stream(
        self,
        model: str,
        inputs: Inputs,
        *,
        timeout: float | None = None,
        revisions: bool = True,
        **options: Any,
    ) -> AsyncStream:
        """The events of an attribution as they arrive; leaving the `async with` block cancels the call.

        Without `revisions` those are left out of which it is known that a better one follows.
        """

        end = time.monotonic() + seconds(timeout, STREAM_SECONDS)

        async def begin() -> Any:
            request = messages.to_stream(
                model, await self._named(model, inputs, timeout), not revisions, **options
            )
            with translated():
                return self._stubs["AttributionService"].StreamAttribute(
                    request, timeout=end - time.monotonic(), model=model
                )

        return AsyncStream(begin)

    async def audit(
        self,
        model: str,
        items: Iterable[Inputs | Asked] | AsyncIterable[Inputs | Asked],
        *,
        window: int = 0,
        progress: Callable[[AuditProgress], None] | None = None,
        **options: Any,
    ) -> AsyncIterator[Audited]:
        """The attributions of a data set over one stream, in the order in which they are done; see `Client.audit`."""
        log, began = Log(model, options, window), time.monotonic()
        left = _each(items)
        report = progress or (lambda _: None)
        while not log.is_over:
            room, failure = asyncio.Semaphore(0), list[BaseException]()
            call = self._stubs["AttributionService"].Audit(model=model)
            sending = asyncio.create_task(self._send(call, log, left, room, failure))
            try:
                with translated():
                    while (message := await call.read()) is not grpc.aio.EOF:
                        for _ in range(message.opened.window):
                            room.release()
                        if (answer := log.answer(message)) is not None:
                            room.release()
                            report(log.progress(time.monotonic() - began))
                            yield answer
                        if failure:
                            break
                    else:
                        await call.code()
                        if not log.is_over:
                            await call.read()  # raises what the call ended with
            except NotReady as error:
                if failure:
                    raise
                await asyncio.sleep(log.delay(error))
                continue
            finally:
                sending.cancel()
                call.cancel()
            if failure:
                raise failure[0]
            if not log.is_over:
                raise ServerBug("the server ended the audit without its summary")

    async def _send(
        self,
        call: Any,
        log: Log,
        items: AsyncIterator[Inputs | Asked],
        room: asyncio.Semaphore,
        failure: list[BaseException],
    ) -> None:
        """What is sent on one stream: the opening, what is unanswered, then items while there is room."""
        try:
            await call.write(log.opening())
            for message in list(log.again()):
                await room.acquire()
                await call.write(message)
            while True:
                await room.acquire()
                try:
                    one = await anext(items)
                    own = one.target if isinstance(one, Asked) else None
                    inputs = one.inputs if isinstance(one, Asked) else one
                    message = log.item(await self._named(log.model, inputs, None), own)
                except StopAsyncIteration:
                    break
                except Exception as error:  # the caller's iterable: told to the caller
                    failure.append(error)
                    break
                await call.write(message)
            await call.done_writing()
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            pass  # reading says why the stream has ended

    async def importance(
        self,
        model: str,
        inputs: Inputs,
        labels: ArrayLike,
        *,
        layer: str,
        target: str | None = None,
        logit: bool | None = None,
        channels: ChannelSums = "auto",
        source: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> Importance:
        """How much each unit of a layer matters to the class of each sample; see `Client.importance`."""
        options: dict[str, Any] = {"layer": layer, "target": target, "logit": logit, "channels": channels}
        given = messages.arrays(inputs) if isinstance(inputs, Mapping) else np.asanyarray(inputs)
        info = await self.model(model)
        run = Measuring(model, info, given, labels, source=source, progress=progress, **options)
        if (known := run.scores) is not None:
            run.classes(known, (await self.predict(model, run.sample, [known]))[known])
        *others, last = run.logits()
        found: Attribution | None = None
        for one in others:
            with suppress(InvalidArgument):
                found = await self.attribute(model, run.sample, **told(run.first(one)))
        found = found or await self.attribute(model, run.sample, **told(run.first(last)))
        if known is None:
            name = found.target.tensor
            run.classes(name, (await self.predict(model, run.sample, [name]))[name])
        run.settle(found)
        batches = Sent(run, (await self.server()).limits)
        async for answer in self.audit(model, batches, **run.options):
            run.add(*batches.answered(answer))
        return run.record()

    async def predict(
        self, model: str, inputs: Inputs, outputs: Sequence[str] = (), *, timeout: float | None = None
    ) -> dict[str, Array]:
        """The model's outputs by name."""
        named = await self._named(model, inputs, timeout)
        return await self._ask(calls.predict(model, named, outputs), timeout)

    async def intervene(
        self,
        model: str,
        inputs: Inputs,
        interventions: Intervention | Sequence[Intervention],
        *,
        target: Target | Selection = None,
        outputs: Sequence[str] = (),
        donors: Inputs | None = None,
        timeout: float | None = None,
    ) -> Intervened:
        """The target with and without each intervention: activations that are removed, set, scaled or patched.

        `outputs` are further tensors to be answered; `donors` inputs from which patches and means are taken, by
        default `inputs` themselves.
        """
        named = await self._named(model, inputs, timeout)
        others = None if donors is None else await self._named(model, donors, timeout)
        asked = calls.intervene(model, named, interventions, target, outputs, others)
        return await self._ask(asked, timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """What is served."""
        return await self._list(calls.models(), timeout)

    async def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """All that is known of a model; loads it on the server if need be."""
        return await self._ask(calls.model(name), timeout)

    async def layers(
        self, model: str, pattern: str = "", *, target: str = "", timeout: float | None = None
    ) -> list[LayerInfo]:
        """The layers whose name or node has this part or fits this glob, or of this operator; all by default.

        `target` is the tensor to which they lead, by default the first float output.
        """
        return await self._list(calls.layers(model, pattern, target), timeout)

    async def load(self, model: str, *, timeout: float | None = None) -> ModelInfo:
        """Has the server look into its model directories, and load a model where its file is new or has changed."""
        return await self._ask(calls.load(model), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Has a model served no more, or one version of it; returns once nothing runs on it."""
        await self._ask(calls.unload(model), timeout)

    async def upload(
        self, name: str, file: str | PathLike[str], *, version: int = 0, timeout: float | None = None
    ) -> ModelInfo:
        """Sends a model file, which the server serves from then on: as this version, or the next one."""
        return await self._ask(calls.upload(name, file, version), timeout)

    async def server(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is: versions, device, methods and limits."""
        return await self._ask(calls.server(), timeout)

    async def methods(self, *, timeout: float | None = None) -> list[MethodInfo]:
        """The methods that the server evaluates, with their parameters."""
        return await self._list(calls.methods(), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Whether the server, or one model as `models/NAME`, takes calls."""
        with translated():
            call = self._channel.unary_unary(messages.HEALTH_METHOD)
            response = await call(messages.to_health(service), timeout=seconds(timeout, UNARY_SECONDS))
        return messages.is_serving(response)

    async def _ask(self, call: Call[Answer], timeout: float | None) -> Answer:
        ask = getattr(self._stubs[call.service], call.name)
        end, retrying = time.monotonic() + seconds(timeout, call.seconds), events.Retrying()
        while True:
            try:
                with translated():
                    left = end - time.monotonic()
                    return call.read(await ask(call.message, timeout=left, model=call.model))
            except NotReady as error:
                if error.code != LOST or isinstance(call.message, Iterator):
                    raise  # the channel itself has tried again
                await asyncio.sleep(retrying.delay(error))

    async def _list(self, call: Listing[Answer], timeout: float | None) -> list[Answer]:
        """The entries of all pages."""
        ask, message, found = getattr(self._stubs[call.service], call.name), call.message, list[Answer]()
        while True:
            with translated():
                response = await ask(message, timeout=seconds(timeout, UNARY_SECONDS))
            found += map(call.read, getattr(response, call.field))
            message.page_token = response.next_page_token
            if not message.page_token:
                return found

    async def aclose(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _named(self, model: str, inputs: Inputs, timeout: float | None) -> Mapping[str, ArrayLike]:
        if isinstance(inputs, Mapping):
            return inputs
        if model not in self._only_inputs:
            self._only_inputs[model] = messages.only_input(await self.model(model, timeout=timeout))
        return {self._only_inputs[model]: inputs}


async def _each(
    items: Iterable[Inputs | Asked] | AsyncIterable[Inputs | Asked],
) -> AsyncIterator[Inputs | Asked]:
    if isinstance(items, AsyncIterable):
        async for one in items:
            yield one
    else:
        for one in items:
            yield one
