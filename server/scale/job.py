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
    read = _read(job.source, info, shard)
    items = [one for one in read if isinstance(one, Item)]
    answers = iter(_answers(worker, job.request, items, info))
    found: list[tuple[Item | None, Answer, int]] = [
        (one, *next(answers)) if isinstance(one, Item) else (None, one, 0) for one in read
    ]
    errors = [answer for _, answer, _ in found if isinstance(answer, AttributionError)]
    if is_first and 1 < len(found) == len(errors) and len({one.message for one in errors}) == 1:
        raise errors[0]
    lines = [line for row, one in enumerate(found, shard.first) for line in _lines(row, *one)]
    return pyarrow.Table.from_pylist(lines, schema=schema_of(COLUMNS, SCHEMA))


def _read(source: Source, info: ModelInfo, shard: Shard) -> list[Item | InvalidArgument]:
    """The samples of a shard; each is read alone where together they cannot be."""
    try:
        items = source.read(info, shard.rows).items
        if len(items) == shard.count:
            return list(items)
        raise InvalidArgument(
            f"row {shard.first} and on: {shard.count} samples are {len(items)} in what was read"
        )
    except InvalidArgument as error:
        if shard.count == 1:
            return [error]
    return [
        one for row in range(shard.first, shard.first + shard.count)
        for one in _read(source, info, Shard(shard.number, row, 1))
    ]  # fmt: skip


def _answers(
    worker: Worker, request: AttributionRequest, items: Sequence[Item], info: ModelInfo
) -> list[tuple[Answer, int]]:
    """For each sample the answer that it is in, and its place there."""
    try:
        for whole in worker.answers(request, [_together(items, info)] if items else []):
            if isinstance(whole, Attribution):
                return [(whole, k) for k in range(len(items))]
    except _Apart:
        pass
    return [(one, 0) for one in worker.answers(request, [item.inputs for item in items])]


class _Apart(Exception):
    """Samples that have different shapes."""


def _together(items: Sequence[Item], info: ModelInfo) -> Mapping[str, Array]:
    """The inputs of several samples as those of one request."""
    if len(items) == 1:
        return items[0].inputs
    shared = {one.name for one in info.inputs if one.batch_axis is None and info.batch != "single"}
    try:
        return {
            one.name: items[0].inputs[one.name]
            if one.name in shared
            else joined(one.name, [item.inputs[one.name] for item in items], one, info.batch)
            for one in info.inputs
        }
    except InvalidArgument:
        raise _Apart from None


def _lines(row: int, item: Item | None, answer: Answer, k: int) -> Iterator[dict[str, object]]:
    """The lines of a sample; of one that cannot be read there is no item."""
    label = None if item is None or item.label is None else str(item.label)
    known = {"row": row, "id": None if item is None else item.id, "label": label}
    if isinstance(answer, AttributionError):
        yield {**known, "error": f"{answer.status} {answer.reason}: {answer.message}"}
        return
    for line in lines_of(answer, k):
        yield {**known, **line}
