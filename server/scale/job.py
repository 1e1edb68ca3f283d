"""One shard: its samples are asked about together, or one by one where that fails, and become a table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from onnx_attribution.client.audit.columns import OF_ANSWERS, lines_of, schema_of
from onnx_attribution.client.audit.data import Item, joined, same
from onnx_attribution.errors import AttributionError, InvalidArgument, ModelError, NotDifferentiable
from onnx_attribution.proto import requests
from onnx_attribution.server.scale.shards import Sample, Shard, Source, Unread
from onnx_attribution.values import Array, Attribution, AttributionRequest, ModelInfo

if TYPE_CHECKING:
    import pyarrow

Answer = Attribution | AttributionError
OF_SAMPLES = (InvalidArgument, ModelError, NotDifferentiable)
"""What may be the fault of one sample. Other errors are of the place where a shard runs; it then runs elsewhere."""
COLUMNS = (
    ("row", "int64"),
    ("id", "string"),
    ("label", "string"),
    *OF_ANSWERS,
    ("warnings", "list<string>"),
    ("error", "string"),
)
"""`warnings` are those of the request that the samples of a shard share; in them its samples are counted from 0."""
SCHEMA = "onnx-attribution/batch/1"
BATCH = 1 << 24
"""Bytes of values that are made lines at a time."""
TRIED = 8
"""Samples of which one has to be answered."""


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


def run_shard(worker: Worker, job: Job, shard: Shard) -> Iterator[pyarrow.RecordBatch]:
    """The answers about the samples of a shard, in batches of some `BATCH` bytes: a line for each sample and layer, or
    for each sample that cannot be explained, with its error.

    Raises:
        AttributionError: what is no fault of the samples.
    """
    import pyarrow

    info = worker.info()
    samples = job.source.read(info, shard.rows)
    if len(samples) != shard.count:
        raise InvalidArgument(
            f"row {shard.first} and on: {shard.count} samples are {len(samples)} in what was read"
        )
    schema = schema_of(COLUMNS, SCHEMA)
    lines: list[dict[str, Any]] = []
    size = 0
    for line in _lines(worker, job.request, info, samples, shard.first):
        lines.append(line)
        size += line["values"].nbytes if "values" in line else 0
        if size >= BATCH:
            yield pyarrow.RecordBatch.from_pylist(lines, schema=schema)
            lines, size = [], 0
    if lines:
        yield pyarrow.RecordBatch.from_pylist(lines, schema=schema)


def try_question(worker: Worker, job: Job, samples: int) -> None:
    """Asks about samples from all over the data set until one is answered, so that a question that has no answer is
    told before anything is begun.

    Raises:
        AttributionError: what several samples and no others fail by; what is no fault of the samples.
    """
    info = worker.info()
    rows = sorted({round(k * (samples - 1) / (TRIED - 1)) for k in range(TRIED)})
    failures: list[AttributionError] = []
    for row in rows:
        (sample,) = job.source.read(info, slice(row, row + 1))
        if isinstance(sample, Unread):
            failures.append(sample.error)
            continue
        (answer,) = worker.answers(job.request, [sample.inputs])
        if isinstance(answer, Attribution):
            return
        failures.append(answer)
    if len(failures) > 1 and len({re.sub(r"\d+", "", one.message) for one in failures}) == 1:
        raise failures[0]


def _lines(
    worker: Worker, request: AttributionRequest, info: ModelInfo, samples: Sequence[Sample], first: int
) -> Iterator[dict[str, Any]]:
    answers = _answers(worker, request, [one for one in samples if isinstance(one, Item)], info)
    for row, sample in enumerate(samples, first):
        answer, k = (sample.error, 0) if isinstance(sample, Unread) else next(answers)
        label = None if sample.label is None else str(sample.label)
        known = {"row": row, "id": sample.id, "label": label}
        if isinstance(answer, AttributionError):
            yield {**known, "error": f"{answer.status} {answer.reason}: {answer.message}"}
        else:
            for line in lines_of(answer, k):
                yield {**known, **line, "warnings": list(answer.warnings)}


def _answers(
    worker: Worker, request: AttributionRequest, items: Sequence[Item], info: ModelInfo
) -> Iterator[tuple[Answer, int]]:
    """For each sample the answer that it is in, and its place there: together, or one by one where that fails."""
    try:
        for whole in worker.answers(request, [_together(items, info)] if items else []):
            if isinstance(whole, Attribution):
                yield from ((whole, k) for k in range(len(items)))
                return
    except _Apart:
        pass
    yield from ((one, 0) for one in worker.answers(request, [item.inputs for item in items]))


class _Apart(Exception):
    """Samples that have different shapes, or other arrays of an input that all samples of a request share."""


def _together(items: Sequence[Item], info: ModelInfo) -> Mapping[str, Array]:
    """The inputs of several samples as those of one request."""
    if len(items) == 1:
        return items[0].inputs
    shared = {one.name for one in info.inputs if one.batch_axis is None and info.batch != "single"}
    if any(not same(items[0].inputs[name], item.inputs[name]) for name in shared for item in items[1:]):
        raise _Apart
    try:
        return {
            one.name: items[0].inputs[one.name]
            if one.name in shared
            else joined(one.name, [item.inputs[one.name] for item in items], one, info.batch)
            for one in info.inputs
        }
    except InvalidArgument:
        raise _Apart from None
