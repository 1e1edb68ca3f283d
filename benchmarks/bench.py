"""What every row is given: the networks, an engine, and how long it may take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.networks import HAS_TORCH, NETWORKS, Ready
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Array, Attribution, AttributionRequest, Target

DATA = "ONNX_ATTRIBUTION_TEST_DATA"
NO_DATA = f"no {DATA}"
NO_TORCH = "torch is not installed"
NO_CAPTUM = "Captum is not installed"
QUICK = ("resnet50", "lstm", "bert6")
TARGET = Target(index=1)
FIXED: Mapping[str, Any] = {"quadrature": "trapezoid"}
"""Of rows that compare equal numbers of evaluations."""


@dataclass(frozen=True)
class Bench:
    """One call of the command. `folder` is for files that are made; `quick` takes small networks and few rounds,
    `processor` the time that the process itself takes."""

    folder: Path
    threads: int
    quick: bool = False
    processor: bool = False

    def __post_init__(self) -> None:
        """Torch has as many threads as the others."""
        if HAS_TORCH:
            import torch

            torch.set_num_threads(self.threads)

    @cached_property
    def networks(self) -> Sequence[Ready]:
        """Those that there is a file of."""
        chosen = [network for network in NETWORKS if network.key in QUICK] if self.quick else NETWORKS
        found = [Ready(network, self.folder, self.quick, self.threads) for network in chosen]
        return [ready for ready in found if ready.available]

    def network(self, key: str) -> Ready:
        return next(ready for ready in self.networks if ready.network.key == key)

    @property
    def models(self) -> Path | None:
        """The folder of real models; None where it is not there."""
        there = os.environ.get(DATA)
        return Path(there) / "models" if there and (Path(there) / "models").is_dir() else None

    def alternating(self, programs: timing.Programs, rounds: int = 5, seconds: float = 45) -> timing.Times:
        clock = time.process_time if self.processor else time.perf_counter
        return timing.alternating(programs, 2 if self.quick else rounds, 1 if self.quick else seconds, clock)

    @contextmanager
    def asking(self, path: Path) -> Iterator[Asking]:
        """An engine with the one file."""
        with Engine(provider="cpu", threads=self.threads) as engine:
            engine.add("model", path)
            yield Asking(engine)


@dataclass(frozen=True)
class Asking:
    """Asks an engine as a user does."""

    engine: Engine

    def __call__(
        self, inputs: Mapping[str, Array], method: str, *, target: Target | int = TARGET, **more: Any
    ) -> Attribution:
        return self.engine.attribute(AttributionRequest("model", inputs, method, target=target, **more))

    def layer(self, inputs: Mapping[str, Array], wanted: Array) -> str:
        """The first layer with these values.

        Raises:
            LookupError: there is none.
        """
        shaped = [
            layer.name
            for layer in self.engine.layers("model")
            if layer.shape is not None and tuple(layer.shape[1:]) == wanted.shape[1:]
        ]
        for name in shaped:
            (found,) = self.engine.predict("model", inputs, [name]).values()
            if found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-3, atol=1e-4):
                return name
        raise LookupError(f"no layer of shape {wanted.shape[1:]} has the values that torch gives")
