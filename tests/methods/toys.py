"""Small models for the tests of methods, most of them in float64, and a short way to ask about them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.methods import Quadrature
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Target

Floats = NDArray[np.float64]
_numbers = itertools.count()


def model(body: str, **weights: Any) -> onnx.ModelProto:
    """A model from ONNX text `(inputs) => (outputs) { nodes }`; `weights` are added as constants.

    Float weights become float64, integers int64.
    """
    parsed = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 21]> toy {body}')
    for name, value in weights.items():
        array = np.asarray(value)
        if array.dtype.kind in "iu":
            array = array.astype(np.int64)
        parsed.graph.initializer.append(numpy_helper.from_array(array, name))
    return parsed


def explain(
    engine: Engine,
    proto: onnx.ModelProto,
    inputs: Mapping[str, Any],
    method: str = "neuron_ig",
    *,
    layers: str | tuple[str, ...] = (),
    source: tuple[str, ...] = (),
    target: Target | None = None,
    baselines: Mapping[str, Any] | None = None,
    steps: int = 64,
    quadrature: Quadrature = "trapezoid",
    multiply: bool = True,
) -> Attribution:
    """The engine's answer about a model that is added for it."""
    name = f"toy{next(_numbers)}"
    engine.add(name, proto)
    return ask(
        engine, name, inputs, method, layers=layers, source=source, target=target, baselines=baselines, steps=steps,
        quadrature=quadrature, multiply=multiply,
    )  # fmt: skip


def ask(
    engine: Engine,
    name: str,
    inputs: Mapping[str, Any],
    method: str = "neuron_ig",
    *,
    layers: str | tuple[str, ...] = (),
    source: tuple[str, ...] = (),
    target: Target | None = None,
    baselines: Mapping[str, Any] | None = None,
    steps: int = 64,
    quadrature: Quadrature = "trapezoid",
    multiply: bool = True,
) -> Attribution:
    """The engine's answer about a model that it knows."""
    return engine.attribute(
        AttributionRequest(
            model=name,
            inputs={key: np.asarray(value) for key, value in inputs.items()},
            method=method,
            layers=(layers,) if isinstance(layers, str) else layers,
            source=source,
            target=target or Target(),
            baselines={
                key: np.asarray(value) if np.ndim(value) else value
                for key, value in (baselines or {}).items()
            },
            steps=steps,
            quadrature=quadrature,
            multiply_by_inputs=multiply,
        )
    )


def values(answer: Attribution, layer: str | None = None) -> Floats:
    """The attributions of a layer: the named or the only one."""
    (name,) = [layer] if layer is not None else list(answer.layers)
    return np.asarray(answer.layers[name].values, np.float64)


def dense(
    rng: np.random.Generator,
    activation: str = "Relu",
    *,
    sizes: tuple[int, ...] = (5, 7, 6, 3),
    bias: bool = True,
    scale: float = 1.0,
) -> onnx.ModelProto:
    """A net of Gemm layers `z1, h1, z2, h2, ..., y` in float64; `scale` multiplies the weights."""
    nodes, weights, last = [], {}, "x"
    count = len(sizes) - 1
    for k in range(1, count + 1):
        weights[f"W{k}"] = scale * rng.normal(size=(sizes[k - 1], sizes[k])) / np.sqrt(sizes[k - 1])
        weights[f"b{k}"] = rng.normal(size=sizes[k]) * (0.5 if bias else 0.0)
        out = f"z{k}" if k < count else "y"
        nodes.append(f"{out} = Gemm({last}, W{k}, b{k})")
        if k < count:
            nodes.append(f"h{k} = {activation}(z{k})")
            last = f"h{k}"
    body = "\n".join(nodes)
    return model(f"(double[N,{sizes[0]}] x) => (double[N,{sizes[-1]}] y) {{ {body} }}", **weights)


def weight(proto: onnx.ModelProto, name: str) -> Floats:
    """A constant of a model."""
    (found,) = [t for t in proto.graph.initializer if t.name == name]
    return np.asarray(numpy_helper.to_array(found), np.float64)
