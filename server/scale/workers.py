"""Models that can be asked: by an engine in this process, and by a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx_attribution.client import messages
from onnx_attribution.client.client import Client
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.scale.job import OF_SAMPLES, Answer, Worker
from onnx_attribution.values import Array, AttributionRequest, ModelInfo


def worker_of(asked: Engine | Client, model: str) -> Worker:
    """The worker for a model of an engine or of a server."""
    return _Served(asked, model) if isinstance(asked, Client) else _Embedded(asked, model)


class _Embedded:
    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model

    def info(self) -> ModelInfo:
        return self._engine.info(self._model)

    def answers(self, request: AttributionRequest, inputs: Sequence[Mapping[str, Array]]) -> Iterator[Answer]:
        for one in inputs:
            try:
                yield self._engine.attribute(request.changed(model=self._model, inputs=one))
            except OF_SAMPLES as error:
                yield error


class _Served:
    """One item is in flight at a time, so that no run is shared: what is computed is what an engine computes alone."""

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model

    def info(self) -> ModelInfo:
        return self._client.model(self._model)

    def answers(self, request: AttributionRequest, inputs: Sequence[Mapping[str, Array]]) -> Iterator[Answer]:
        options = messages.options_of(request)
        for answer in self._client.audit(self._model, iter(inputs), window=1, **options):
            if answer.error is not None and not isinstance(answer.error, OF_SAMPLES):
                raise answer.error
            found = answer.attribution or answer.error
            assert found is not None  # an item is answered by one of them
            yield found
