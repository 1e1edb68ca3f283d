"""What a data set is cut into: runs of consecutive samples that are answered together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from onnx_attribution.client.audit.data import Item
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import ModelInfo

MOST = 256
"""Samples of a shard: those of one request."""


@dataclass(frozen=True)
class Unread:
    """A sample that cannot be read: what it is called and labelled, as far as that is known, and why."""

    id: str | None
    label: int | str | None
    error: InvalidArgument


Sample = Item | Unread


class Source(Protocol):
    """Where samples are read, in any process: it is pickled."""

    def digest(self) -> str:
        """A SHA-256 of all that it holds."""
        ...

    def count(self, info: ModelInfo) -> int:
        """How many samples there are."""
        ...

    def read(self, info: ModelInfo, rows: slice) -> Sequence[Sample]:
        """Some of them, for the inputs of a model. Raises: AttributionError, for what is no fault of a sample."""
        ...


@dataclass(frozen=True)
class Shard:
    """The samples from `first` on, `count` of them."""

    number: int
    first: int
    count: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.count)

    @property
    def file(self) -> str:
        """What its results are called."""
        return f"part-{self.number:06}.parquet"


def plan_shards(samples: int, size: int) -> Sequence[Shard]:
    """The shards of a data set, of `size` samples but for the last one.

    Raises:
        InvalidArgument: a size that no request has room for.
    """
    if not 1 <= size <= MOST:
        raise InvalidArgument(f"a shard holds 1 to {MOST} samples, not {size}")
    return [Shard(k, at, min(size, samples - at)) for k, at in enumerate(range(0, samples, size))]
