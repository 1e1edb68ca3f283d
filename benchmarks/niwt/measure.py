"""What NIWT takes from a model file, by the engine: features, importance and how the features depend on a layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.niwt.problem import Problem
from onnx_attribution.client.niwt.choose import Known
from onnx_attribution.client.niwt.domain_map import mean_of_units
from onnx_attribution.client.niwt.minimise import Floats
from onnx_attribution.graph_tools.programs.head import find_head
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target

BATCH = 250
IMAGES = 12
"""Images at which M is taken; each is of another class where there are as many."""
MODEL = "m"


@dataclass(frozen=True, eq=False)
class Measured:
    """A trained network: what is known of it at each layer, the alphas there, and the features of the test images."""

    layers: dict[str, Known]
    alpha: dict[str, Floats]
    test: Floats


def measured(problem: Problem, file: Path) -> Measured:
    """All that is needed, with the outputs of the last two convolutions' activations as candidates for the layer."""
    model = onnx.load(file)
    head = find_head(model)
    layers = [node.output[0] for node in model.graph.node if node.op_type == "Relu"][-2:]
    w, b = head.weight, head.bias
    images, labels = problem.images, problem.labels
    with Engine(provider="cpu", threads=1) as engine:
        engine.add(MODEL, file)
        features, test = (_features(engine, head.features, x) for x in (images, problem.test))
        places = _spread(labels)
        found, alphas = dict[str, Known](), dict[str, Floats]()
        for layer in layers:
            M = _dependence(engine, head.features, w.shape[1], layer, images[places])
            record = engine.importance(MODEL, {"x": images}, labels, layer=layer)
            alphas[layer] = np.asarray(record.alpha, np.float64)
            importance = mean_of_units(record.alpha, labels, range(len(w)))
            same = bool(np.abs(M - M[:1]).max() <= 1e-6 * np.abs(M).max())
            taken = slice(0, 1) if same else slice(None)
            at = np.array([-1]) if same else labels[places]
            found[layer] = Known(problem.attributes, importance, w, b, M[taken], at, features, labels)
    return Measured(found, alphas, test)


def _features(engine: Engine, tensor: str, x: NDArray[np.float32]) -> Floats:
    parts = [
        engine.predict(MODEL, {"x": x[k : k + BATCH]}, [tensor])[tensor].reshape(len(x[k : k + BATCH]), -1)
        for k in range(0, len(x), BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def _dependence(engine: Engine, tensor: str, count: int, layer: str, x: NDArray[np.float32]) -> Floats:
    """M, `[images, units, features]`: a target for each feature, several of them in one request."""
    parts, size = [], BATCH // len(x)
    for start in range(0, count, size):
        targets = [Target(tensor, d) for d in range(start, min(start + size, count))]
        ask = AttributionRequest(MODEL, {"x": x}, "gradient", [layer], targets=targets, channel_sums="auto")
        (answer,) = engine.attribute(ask).layers.values()
        parts.append(np.asarray(answer.values, np.float64))
    return np.moveaxis(np.concatenate(parts), 0, -1)


def _spread(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """One image of each of some classes, or several of each where there are few."""
    classes = np.unique(labels)
    if len(classes) >= IMAGES:
        chosen = classes[np.linspace(0, len(classes) - 1, IMAGES).astype(int)]
        return np.array([np.flatnonzero(labels == one)[0] for one in chosen])
    return np.concatenate(
        [np.flatnonzero(labels == one)[: -(-IMAGES // len(classes)) + 1] for one in classes]
    )
