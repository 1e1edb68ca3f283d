"""Places where shards run in tests: a model that multiplies, which can be told to die, to fail and to count."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_attribution.client.audit.data import Dataset, Item
from onnx_attribution.errors import InvalidArgument, NotReady
from onnx_attribution.server.scale.job import Answer
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    LayerAttribution,
    ModelInfo,
    ResolvedTarget,
    TensorInfo,
)

X = TensorInfo("x", "float32", ("N", 2), 0)
INFO = ModelInfo("m", 1, "READY", digest="d", opset=17, batch="dynamic", sources=("x",), inputs=(X,))


@dataclass(frozen=True)
class Rows:
    """Samples 0, 1, 2 ...; those of `poisoned` are refused."""

    samples: int

    def digest(self) -> str:
        return f"{self.samples}"

    def count(self, info: ModelInfo) -> int:
        return self.samples

    def read(self, info: ModelInfo, rows: slice) -> Dataset:
        chosen = range(self.samples)[rows]
        return Dataset("rows", [Item(f"s{k}", {"x": np.array([[k, 1]], np.float32)}, k % 3) for k in chosen])


@dataclass(frozen=True)
class Doubling:
    """Answers 2 x. Each file of `notes` is one run; `dies` is a file that is taken away by the run that dies of it."""

    notes: Path
    dies: Path | None = None
    at: int = -1
    poisoned: tuple[int, ...] = ()
    gone: bool = False
    seconds: float = 0.0
    words: str = ""

    def info(self) -> ModelInfo:
        if self.gone:
            raise NotReady("the server is away")
        return INFO

    def answers(self, request: AttributionRequest, inputs: Sequence[Mapping[str, Array]]) -> Iterator[Answer]:
        for one in inputs:
            x = one["x"]
            (self.notes / f"{int(x[0, 0])}-{len(x)}-{os.getpid()}").touch()
            if self.dies is not None and self.dies.exists() and self.at in x[:, 0]:
                self.dies.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            bad = [int(k) for k in x[:, 0] if k in self.poisoned]
            yield InvalidArgument(self.words or f"{bad[0]} cannot be explained") if bad else doubled(x)


def doubled(x: Array) -> Attribution:
    zeros = np.zeros(len(x))
    layer = LayerAttribution("x", 2 * x, 2 * x.sum(1, dtype=float), zeros, zeros, True, zeros)
    target = ResolvedTarget("y", ("",) * len(x), 2 * x.sum(1, dtype=float), zeros)
    return Attribution("gradient", "dynamic", (target,), {"x": layer}, len(x), 1, 0.0, "d", "cpu")


@contextmanager
def opened(place: Doubling) -> Iterator[Doubling]:
    """The place itself, in whatever process this is called."""
    yield place
