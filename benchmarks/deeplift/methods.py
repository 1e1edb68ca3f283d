"""The methods that the DeepLIFT paper compares (arXiv 1704.02685, section 4), by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView, RuleTable
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest, Target

Inputs = NDArray[np.float32]
Scores = NDArray[np.float64]
ASKED: Mapping[str, tuple[str, int]] = {
    "gradient": ("gradient", 1),
    "gradient * input": ("gradient_x_activation", 1),
    "IG-5": ("integrated_gradients", 5),
    "IG-10": ("integrated_gradients", 10),
    "DeepLIFT Rescale": ("deeplift_rescale", 1),
    "DeepLIFT RevealCancel": ("deeplift_reveal_cancel", 1),
    "DeepLIFT, RevealCancel after dense": ("deeplift_genomics_default", 1),
}
ROWS = 64


def _guided_relu(op: Emitter, node: NodeView, g: Value) -> tuple[Value]:
    """Passes what is positive on both ways (Springenberg et al., arXiv 1412.6806)."""
    gate = op("Greater", node.input(0), op.like(node.input(0), 0))
    return (op("Where", gate, op("Relu", g), op.like(g, 0)),)


GUIDED: RuleTable = {**VJP, ("", "Relu"): replace(VJP["", "Relu"], vjp=_guided_relu)}


class Comparison:
    """Scores of one model's input for its logits: the model ends in a sigmoid or softmax. A context manager."""

    def __init__(self, path: Path) -> None:
        self._engine = Engine(provider="cpu")
        self._engine.add("model", path)
        self._backend = Backend("cpu")
        loaded = LoadedModel(path, self._backend)
        (self._input,) = (x.name for x in loaded.inputs)
        self._probabilities = loaded.first_target()
        self._logits = Target(logit=True)
        logits = self._engine.attribute(
            self._request(loaded.network.example[self._input].astype(np.float32), "gradient", 0)
        ).target
        self._target = logits.tensor
        program = rows_program(
            loaded.network, Choice((self._input,), (self._input,), self._target), rules=GUIDED
        )
        self._guided = self._backend.session(program.model)

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def logits(self, x: Inputs) -> Scores:
        """What the classes get, `[samples, classes]`."""
        parts = [x[k : k + ROWS] for k in range(0, len(x), ROWS)]
        found = [self._engine.predict("model", {self._input: p}, [self._target])[self._target] for p in parts]
        return np.concatenate(found).astype(np.float64)

    def scores(self, method: str, x: Inputs, index: int, baseline: Inputs | float = 0.0) -> Scores:
        """What each element of `x`, `[samples, ...]`, contributes to the logit of a class."""
        parts = [x[k : k + ROWS] for k in range(0, len(x), ROWS)]
        return np.concatenate([self._scores(method, part, index, baseline) for part in parts])

    def _scores(self, method: str, x: Inputs, index: int, baseline: Inputs | float) -> Scores:
        if method.startswith("guided backprop"):
            weight = np.zeros((len(x), self.classes), dtype=np.float32)
            weight[:, index] = 1
            name = f"gradient/{self._input}"
            found = self._guided.run({self._input: x, "target/weight": weight}, [name])[name]
            return found.astype(np.float64) * (x if method.endswith("* input") else 1)
        answer = self._engine.attribute(self._request(x, method, index, baseline))
        return answer.layers[self._input].values.astype(np.float64)

    @property
    def classes(self) -> int:
        """How many logits there are."""
        (shape,) = (x.shape for x in self._engine.info("model").outputs if x.name == self._probabilities)
        assert shape is not None
        assert isinstance(shape[-1], int)
        return shape[-1]

    def _request(
        self, x: Inputs, method: str, index: int, baseline: Inputs | float = 0.0
    ) -> AttributionRequest:
        asked, steps = ASKED[method]
        return AttributionRequest(
            "model",
            {self._input: x},
            method=asked,
            target=replace(self._logits, index=index),
            baselines={self._input: baseline},
            steps=steps,
            quadrature="riemann_middle",
        )
