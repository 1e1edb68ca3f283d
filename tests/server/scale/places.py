"""Places where shards run in tests: a model that multiplies, which can be told to die, to fail and to count."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.client.audit.data import Item
from onnx_attribution.errors import InvalidArgument, NotReady
from onnx_attribution.server.scale.job import Answer, Job
from onnx_attribution.server.scale.shards import Sample, plan_shards
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

    def read(self, info: ModelInfo, rows: slice) -> Sequence[Sample]:
        chosen = range(self.samples)[rows]
        return [Item(f"s{k}", {"x": np.array([[k, 1]], np.float32)}, k % 3) for k in chosen]


ROWS = Rows(10)
SHARDS = plan_shards(10, 3)
JOB = Job(ROWS, AttributionRequest("", {}, "gradient"))
PLAN: dict[str, Any] = {"data set": ROWS.digest()}


def files(folder: Path) -> dict[str, bytes]:
    """What lies in the folder that is read."""
    return {one.name: one.read_bytes() for one in sorted((folder / "parts").iterdir())}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The whole result, by the call that users make."""
    from pyarrow import parquet

    found: list[dict[str, Any]] = parquet.read_table(folder).to_pylist()
    return found


def runs(notes: Path) -> list[tuple[int, int]]:
    """The first sample and the number of samples of each request."""
    return sorted((int(a), int(b)) for a, b, _ in (one.name.split("-") for one in notes.iterdir()))


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
    processes: int = 1
    """Runs wait until so many processes have begun one, half a minute at most."""

    def info(self) -> ModelInfo:
        if self.gone:
            raise NotReady("the server is away")
        return INFO

    def answers(self, request: AttributionRequest, inputs: Sequence[Mapping[str, Array]]) -> Iterator[Answer]:
        for one in inputs:
            x = one["x"]
            (self.notes / f"{int(x[0, 0])}-{len(x)}-{os.getpid()}").touch()
            self._wait()
            if self.dies is not None and self.dies.exists() and self.at in x[:, 0]:
                self.dies.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            bad = [int(k) for k in x[:, 0] if k in self.poisoned]
            yield InvalidArgument(self.words or f"{bad[0]} cannot be explained") if bad else doubled(x)

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while len({one.name.split("-")[2] for one in self.notes.iterdir()}) < self.processes:
            assert time.monotonic() < end, "no other process has begun"
            time.sleep(0.01)


@dataclass(frozen=True)
class OnGpu(Doubling):
    """Writes down which GPUs the process has."""

    def info(self) -> ModelInfo:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        (self.notes.parent / f"gpu-{gpus}-{os.getpid()}").touch()
        return super().info()


class Unpickled:
    """What cannot be had in another process, as of a module that is not installed there."""

    def __call__(self) -> Any: ...

    def __reduce__(self) -> Any:
        return _missing, ()


def _missing() -> Any:
    raise ModuleNotFoundError("nothing of that name here")


def doubled(x: Array) -> Attribution:
    return with_layers(2 * x.sum(1, dtype=float), {"x": 2 * x})


def with_layers(value: NDArray[np.float64], layers: Mapping[str, Array]) -> Attribution:
    """An answer of these values of the target and of the layers."""
    zeros = np.zeros(len(value))
    target = ResolvedTarget("y", ("",) * len(value), value, zeros)
    found = {
        name: LayerAttribution(name, one, value, zeros, zeros, True, zeros) for name, one in layers.items()
    }
    return Attribution("gradient", "dynamic", (target,), found, len(value), 1, 0.0, "d", "cpu")


@contextmanager
def opened(place: Doubling) -> Iterator[Doubling]:
    """The place itself, in whatever process this is called."""
    yield place
