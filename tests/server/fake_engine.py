"""An engine that needs no model file: `y = x W` and its exact attributions, or whatever a test wants to go wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from onnx_attribution.errors import Cancelled, NotFound, Reason
from onnx_attribution.interventions import Intervened, Intervention, each_of
from onnx_attribution.methods import Method, MethodInfo
from onnx_attribution.server.engine.recipe import infos
from onnx_attribution.values import (
    Accepted,
    Array,
    Attribution,
    AttributionRequest,
    Completed,
    Event,
    LayerAttribution,
    LayerInfo,
    ModelInfo,
    Progress,
    ResolvedTarget,
    Revision,
    Selection,
    StopReason,
    Target,
    TensorInfo,
)

W = np.array([[1, -2], [3, 0.5], [0, 4]], np.float32)
X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


class FakeEngine:
    """Models: linear, big (6 MB for each sample), slow (until it is stopped), stuck
    (the same in one long slice, and without a result)."""

    def __init__(self, failures: Mapping[str, Exception] | None = None) -> None:
        self.failures = dict(failures or {})
        self.stopped: list[str | None] = []
        self.computing = threading.Event()
        self.ended = threading.Event()
        self.asked = 0
        self.warmed: list[str] = []
        self.methods_asked: list[Method] = []
        self.inputs: tuple[TensorInfo, ...] = (TensorInfo("x", "float32", ("N", 3), 0),)

    def models(self) -> list[ModelInfo]:
        return [self._info(name) for name in ("linear", "big", "slow", "stuck", *self.failures)]

    def methods(self) -> list[MethodInfo]:
        return infos()

    def info(self, model: str) -> ModelInfo:
        model = _bare(model)
        if model in self.failures:
            raise self.failures[model]
        if model not in {info.name for info in self.models()}:
            raise NotFound(f"no model {model!r}; there is linear", reason=Reason.MODEL_NOT_FOUND, model=model)
        return self._info(model)

    def look(self, model: str) -> ModelInfo:
        return self._info(model)

    def warm_up(self, model: str) -> ModelInfo:
        self.warmed.append(model)
        return self.info(model)

    def layers(self, model: str, pattern: str = "", target: str = "") -> list[LayerInfo]:
        """A chain, to the layer before the target."""
        self.info(model)
        kind, shape = "Relu", ("N", 3, None)
        return [
            LayerInfo(
                f"layer{k}", f"node{k}", kind, "float32", shape, k % 2 == 0, (f"layer{k - 1}",)[: k > 0]
            )
            for k in range(int(target.removeprefix("layer")) if target else 2500)
            if pattern in f"layer{k}"
        ]

    def intervene(
        self,
        model: str,
        inputs: Mapping[str, Array],
        interventions: Intervention | Sequence[Intervention],
        *,
        target: Target | Selection = None,
        outputs: Sequence[str] = (),
        donors: Mapping[str, Array] | None = None,
    ) -> Intervened:
        """Every intervention makes the target 0."""
        self.info(model)
        shape = len(each_of(interventions)), len(inputs["x"])
        before = ResolvedTarget("y", ("0",) * shape[1], np.ones(shape[1]), np.full(shape[1], np.nan))
        none = np.full(shape, -1, np.int64)
        return Intervened(
            before, np.zeros(shape), none, none[0], {}, {}, "dynamic", shape[0] * shape[1], 0.0, "abc", "cpu"
        )

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        self.info(model)
        if _bare(model) == "big":
            return {"y": np.zeros((1, 1_500_000), np.float32)}
        return {"y": np.asarray(inputs["x"], np.float32) @ W}

    def stream(
        self,
        request: AttributionRequest,
        *,
        stop: Callable[[], StopReason | Literal["cancelled"] | None] | None = None,
        revisions: bool = True,
    ) -> Iterator[Event]:
        self.info(request.model)
        self.methods_asked.append(request.method)
        yield Accepted(request.request_id, "sha256:0", "dynamic", "y", tuple(request.layers) or ("x",), 64)
        self.computing.set()
        try:
            yield from self._compute(request, stop or (lambda: None))
        finally:
            self.ended.set()

    def _compute(
        self, request: AttributionRequest, stop: Callable[[], StopReason | Literal["cancelled"] | None]
    ) -> Iterator[Event]:
        for number in range(1, 3):
            if _bare(request.model) != "stuck":
                yield Revision(number, self._attribution(request, 32 * number))
            yield Progress(32 * number, 64, 0.1)
        while _bare(request.model) in ("slow", "stuck"):
            time.sleep(0.01)
            self.asked += 1
            reason = stop()
            if reason is not None:
                self.stopped.append(reason)
                if reason == "cancelled":
                    raise Cancelled("stopped")
                yield Completed(reason, 2)
                return
            if _bare(request.model) == "slow":
                yield Progress(64, 64, 0.1)
        yield Completed("max_steps", 2)

    def _attribution(self, request: AttributionRequest, steps: int) -> Attribution:
        x = np.asarray(request.inputs["x"], np.float32)
        target = request.each_target[0].index
        index = target if isinstance(target, int) else 0
        names = tuple(request.layers) or ("x",)
        values: Array = x * W[:, index]
        if _bare(request.model) == "big":
            values = np.tile(np.arange(1_500_000, dtype=np.float32), (len(x), 1))
        sums = values.sum(1, dtype=np.float64)
        nan = np.full(len(x), np.nan)
        layers = {name: LayerAttribution(name, values, sums, sums * 0, nan, True, nan) for name in names}
        resolved = ResolvedTarget("y", (str(index),) * len(x), sums, sums * 0)
        return Attribution(
            request.method.name,
            "dynamic",
            (resolved,),
            layers,
            steps,
            steps,
            0.5,
            "sha256:0",
            "cpu",
            ("fake",),
        )

    def _info(self, name: str) -> ModelInfo:
        if name in self.failures:
            return ModelInfo(name, 1, "FAILED", str(self.failures[name]))
        output = TensorInfo("y", "float32", ("N", 2), None)
        return ModelInfo(name, 1, "READY", "", "sha256:0", 21, "dynamic", ("x",), self.inputs, (output,))


def _bare(model: str) -> str:
    return model.removeprefix("models/").partition("/versions/")[0]
