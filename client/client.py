"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any, Self, cast

import grpc
import numpy as np
from numpy.typing import ArrayLike

from onnx_attribution.client import calls, events, messages
from onnx_attribution.client.audit.answers import Audit
from onnx_attribution.client.audit.stream import Asked, Audited, AuditProgress, Log
from onnx_attribution.client.calls import Answer, Call, Listing
from onnx_attribution.client.connected import Connected
from onnx_attribution.client.errors import LOST, translated
from onnx_attribution.client.events import Report
from onnx_attribution.client.measure import Sent, told
from onnx_attribution.client.messages import STREAM_SECONDS, UNARY_SECONDS, Inputs, seconds
from onnx_attribution.client.streams import Stream
from onnx_attribution.errors import NotReady
from onnx_attribution.importance import Importance, Measuring, begin
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

__all__ = ["Client"]


class Client(Connected):
    """Attributions from a server.

        with Client("127.0.0.1:8081") as client:
            result = client.attribute("digits", image, layers=["conv2"], target=7)

    Arrays may be anything that numpy takes; where the model has one input, its name may be left out. Every call
    takes a `timeout` in seconds and raises the classes of `onnx_attribution.errors`.

    `tls` encrypts: True with the usual roots, or `Tls` with files of one's own. `token` is sent with each call; to
    another machine only encrypted, unless `allow_insecure`.
    """

    _grpc = grpc

    def attribute(
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
        with (
            events.reporting(progress) as report,
            self.stream(model, inputs, timeout=timeout, revisions=bool(progress), **options) as stream,
        ):
            found = events.Collected(report)
            for event in stream:
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
    ) -> Stream:
        """The events of an attribution as they arrive; leaving the `with` block or closing it cancels the call.

        A stream that breaks is asked for once more, within the same time; its revisions then begin anew. Without
        `revisions` those are left out of which it is known that a better one follows.
        """
        request = messages.to_stream(model, self._named(model, inputs, timeout), not revisions, **options)
        end = time.monotonic() + seconds(timeout, STREAM_SECONDS)

        def begin() -> Any:
            with translated():
                return self._stubs["AttributionService"].StreamAttribute(
                    request, timeout=end - time.monotonic(), model=model
                )

        return Stream(begin)

    def audit(
        self,
        model: str,
        items: Iterable[Inputs | Asked],
        *,
        window: int = 0,
        progress: Callable[[AuditProgress], None] | None = None,
        **options: Any,
    ) -> Iterator[Audited]:
        """The attributions of a data set over one stream, in the order in which they are done.

        Items are taken from the iterable as answers come, at most `window` (0: as the server likes) ahead of them, so
        that neither side holds more; `Asked` has a target of its own. An item that cannot be explained is answered by
        its error. A stream that breaks is taken up again where it was. `progress` is called after each answer;
        `options` are those of `attribute`.

        Raises: AttributionError where the audit as a whole cannot be.
        """
        named = (
            (self._named(model, one.inputs, None), one.target)
            if isinstance(one, Asked)
            else (self._named(model, one, None), None)
            for one in items
        )
        return Audit(
            partial(self._stubs["AttributionService"].Audit, model=model),
            Log(model, options, window),
            named,
            progress,
        ).answers()

    def importance(
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
        """How much each unit of a layer matters to the class of each sample: the sum over the unit's positions of the
        gradient of the class's logit, over one stream in batches, and its mean and spread per class.

        `labels` has an index of a class for each sample, or one-hot rows. `target` names the tensor of scores (default:
        the only float output), of which `logit` takes what a final Softmax is made of (None: where there is one).
        `channels` is the axis of the units, as `channel_sums` of requests. `progress` is told of samples done and all.

        Raises: AttributionError, which names the samples that it is about.
        """
        options: dict[str, Any] = {"layer": layer, "target": target, "logit": logit, "channels": channels}
        given = messages.arrays(inputs) if isinstance(inputs, Mapping) else np.asanyarray(inputs)
        run = Measuring(model, self.model(model), given, labels, source=source, progress=progress, **options)
        begin(
            run,
            lambda request: self.attribute(model, request.inputs, **told(request)),
            lambda name: self.predict(model, run.sample, [name])[name],
        )
        limits = self.server().limits
        batches = Sent(run, limits)
        with closing(cast("Generator[Audited]", self.audit(model, batches, **run.options))) as answers:
            for answer in answers:
                run.add(*batches.answered(answer))
        return run.record()

    def predict(
        self, model: str, inputs: Inputs, outputs: Sequence[str] = (), *, timeout: float | None = None
    ) -> dict[str, Array]:
        """The model's outputs by name."""
        named = self._named(model, inputs, timeout)
        return self._ask(calls.predict(model, named, outputs), timeout)

    def intervene(
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
        named = self._named(model, inputs, timeout)
        others = None if donors is None else self._named(model, donors, timeout)
        asked = calls.intervene(model, named, interventions, target, outputs, others)
        return self._ask(asked, timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """What is served."""
        return self._list(calls.models(), timeout)

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """All that is known of a model; loads it on the server if need be."""
        return self._ask(calls.model(name), timeout)

    def layers(
        self, model: str, pattern: str = "", *, target: str = "", timeout: float | None = None
    ) -> list[LayerInfo]:
        """The layers whose name or node has this part or fits this glob, or of this operator; all by default.

        `target` is the tensor to which they lead, by default the first float output.
        """
        return self._list(calls.layers(model, pattern, target), timeout)

    def load(self, model: str, *, timeout: float | None = None) -> ModelInfo:
        """Has the server look into its model directories, and load a model where its file is new or has changed."""
        return self._ask(calls.load(model), timeout)

    def unload(self, model: str, *, timeout: float | None = None) -> None:
        """Has a model served no more, or one version of it; returns once nothing runs on it."""
        self._ask(calls.unload(model), timeout)

    def upload(
        self, name: str, file: str | PathLike[str], *, version: int = 0, timeout: float | None = None
    ) -> ModelInfo:
        """Sends a model file, which the server serves from then on: as this version, or the next one."""
        return self._ask(calls.upload(name, file, version), timeout)

    def server(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is: versions, device, methods and limits."""
        return self._ask(calls.server(), timeout)

    def methods(self, *, timeout: float | None = None) -> list[MethodInfo]:
        """The methods that the server evaluates, with their parameters."""
        return self._list(calls.methods(), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Whether the server, or one model as `models/NAME`, takes calls."""
        with translated():
            call = self._channel.unary_unary(messages.HEALTH_METHOD)
            response = call(messages.to_health(service), timeout=seconds(timeout, UNARY_SECONDS))
        return messages.is_serving(response)

    def _ask(self, call: Call[Answer], timeout: float | None) -> Answer:
        ask = getattr(self._stubs[call.service], call.name)
        end, retrying = time.monotonic() + seconds(timeout, call.seconds), events.Retrying()
        while True:
            try:
                with translated():
                    left = end - time.monotonic()
                    return call.read(ask(call.message, timeout=left, model=call.model))
            except NotReady as error:
                if error.code != LOST or isinstance(call.message, Iterator):
                    raise  # the channel itself has tried again
                time.sleep(retrying.delay(error))

    def _list(self, call: Listing[Answer], timeout: float | None) -> list[Answer]:
        """The entries of all pages."""
        ask, message, found = getattr(self._stubs[call.service], call.name), call.message, list[Answer]()
        while True:
            with translated():
                response = ask(message, timeout=seconds(timeout, UNARY_SECONDS))
            found += map(call.read, getattr(response, call.field))
            message.page_token = response.next_page_token
            if not message.page_token:
                return found

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _named(self, model: str, inputs: Inputs, timeout: float | None) -> Mapping[str, ArrayLike]:
        if isinstance(inputs, Mapping):
            return inputs
        if model not in self._only_inputs:
            self._only_inputs[model] = messages.only_input(self.model(model, timeout=timeout))
        return {self._only_inputs[model]: inputs}
