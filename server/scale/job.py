"""One shard: its samples are asked about together, or one by one where that fails, and become a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from onnx_attribution.client.audit.columns import OF_ANSWERS, lines_of, schema_of
from onnx_attribution.client.audit.data import Item, joined
from onnx_attribution.errors import AttributionError, InvalidArgument, ModelError, NotDifferentiable
from onnx_attribution.proto import requests
from onnx_attribution.server.scale.shards import Shard, Source
from onnx_attribution.values import Array, Attribution, AttributionRequest, ModelInfo

if TYPE_CHECKING:
    import pyarrow

Answer = Attribution | AttributionError
OF_SAMPLES = (InvalidArgument, ModelError, NotDifferentiable)
"""What may be the fault of one sample. Other errors are of the place where a shard runs; it then runs elsewhere."""
COLUMNS = (("row", "int64"), ("id", "string"), ("label", "string"), *OF_ANSWERS, ("error", "string"))
SCHEMA = "onnx-attribution/batch/1"


def digest_of(request: AttributionRequest) -> str:
    """A SHA-256 of all that is asked, but for the model and its inputs."""
    message = requests.to_request(request.changed(model="", inputs={}))
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


class Worker(Protocol):
    """A model that can be asked, wherever it is."""

    def info(self) -> ModelInfo: ...

    def answers(self, request: AttributionRequest, inputs: Sequence[Mapping[str, Array]]) -> Iterator[Answer]:
        """The answers about some inputs, in their order. Raises: AttributionError, for what is no fault of theirs."""
        ...


Open = Callable[[], AbstractContextManager[Worker]]


@dataclass(frozen=True)
class Job:
    """What is asked about every sample: a request without its inputs. It is pickled."""

    source: Source
    request: AttributionRequest


def run_shard(worker: Worker, job: Job, shard: Shard, *, is_first: bool = False) -> pyarrow.Table:
    """The answers about the samples of a shard as a table: a line for each sample and layer, or for each sample that
    cannot be explained, with its error.

    Raises:
        AttributionError: what is no fault of the samples; where `is_first`, what several samples and no others fail by.
    """
    import pyarrow

    info = worker.info()
    items = job.source.read(info, shard.rows).items
    (whole,) = worker.answers(job.request, [_together(items, info)])
    if isinstance(whole, AttributionError):
        found = list(worker.answers(job.request, [item.inputs for item in items]))
        errors = [one for one in found if isinstance(one, AttributionError)]
        if is_first and 1 < len(items) == len(errors) and len({one.message for one in errors}) == 1:
            raise errors[0]
        lines = [
            line
            for k, (item, one) in enumerate(zip(items, found, strict=True))
            for line in _lines(shard.first + k, item, one, 0)
        ]
    else:
        lines = [line for k, item in enumerate(items) for line in _lines(shard.first + k, item, whole, k)]
    return pyarrow.Table.from_pylist(lines, schema=schema_of(COLUMNS, SCHEMA))


def _together(items: Sequence[Item], info: ModelInfo) -> Mapping[str, Array]:
    """The inputs of several samples as those of one request."""
    if len(items) == 1:
        return items[0].inputs
    shared = {one.name for one in info.inputs if one.batch_axis is None and info.batch != "single"}
    return {
        one.name: items[0].inputs[one.name]
        if one.name in shared
        else joined(one.name, [item.inputs[one.name] for item in items], one, info.batch)
        for one in info.inputs
    }


def _lines(row: int, item: Item, answer: Answer, k: int) -> Iterator[dict[str, object]]:
    known = {"row": row, "id": item.id, "label": None if item.label is None else str(item.label)}
    if isinstance(answer, AttributionError):
        yield {**known, "error": f"{answer.status} {answer.reason}: {answer.message}"}
        return
    for line in lines_of(answer, k):
        yield {**known, **line}
