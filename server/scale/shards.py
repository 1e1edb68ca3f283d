"""What a data set is cut into: runs of consecutive samples that are answered together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from onnx_attribution.client.audit.data import Dataset
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import ModelInfo

MOST = 256
"""Samples of a shard: those of one request."""


class Source(Protocol):
    """Where samples are read, in any process: it is pickled."""

    def digest(self) -> str:
        """A SHA-256 of all that it holds."""
        ...

    def count(self, info: ModelInfo) -> int:
        """How many samples there are."""
        ...

    def read(self, info: ModelInfo, rows: slice) -> Dataset:
        """Some of them, for the inputs of a model."""
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
