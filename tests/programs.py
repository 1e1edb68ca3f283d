"""Gradients of whole models, on the way that the product takes, beside differences of onnxruntime's own outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.read.load import ModelSource
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel

Array = NDArray[Any]
HEADER = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1, "ai.onnx.ml": 3]>'


def parsed(text: str, opset: int = 21) -> onnx.ModelProto:
    """The model of a graph in ONNX's text form."""
    return onnx.parser.parse_model(HEADER.replace("21", str(opset)) + text)


def gradients(
    source: ModelSource,
    inputs: Mapping[str, Array],
    wrt: Sequence[str],
    cotangent: Array,
    target: str | None = None,
) -> dict[str, Array]:
    """The gradients of <cotangent, target>; the target is the first output unless it is named."""
    model = LoadedModel(source, Backend("cpu"), given=inputs)
    target = target or model.outputs[0].name
    program = rows_program(model.network, Choice(tuple(wrt), tuple(wrt), target))
    kind = model.graph.tensors()[target].dtype
    found = _run(model, program.model, {**inputs, "target/weight": cotangent.astype(kind)})
    return {name: found[f"gradient/{name}"].astype(np.float64) for name in wrt}


def contributions(
    source: ModelSource, inputs: Mapping[str, Array], baselines: Mapping[str, Array], cotangent: Array
) -> tuple[float, float, float]:
    """DeepLIFT: the sum of the contributions, the change of <cotangent, first output>, and the sum of magnitudes."""
    model = LoadedModel(source, Backend("cpu"), given=inputs)
    wrt, target = tuple(baselines), model.outputs[0].name
    program = deeplift_program(model.network, Choice(wrt, wrt, target))
    feeds = {f"baseline/{name}": value for name, value in baselines.items()}
    weight = cotangent.astype(model.graph.tensors()[target].dtype)
    found = _run(model, program.model, {**inputs, **feeds, "target/weight": weight})
    parts = [found[f"contribution/{name}"].astype(np.float64) for name in wrt]
    change = (
        found["target/value"].astype(np.float64).sum() - found["target/baseline"].astype(np.float64).sum()
    )
    return sum(p.sum() for p in parts), change, sum(np.abs(p).sum() for p in parts)


def _run(model: LoadedModel, program: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    found: dict[str, Array] = dict(model.backend.session(program).run(dict(feeds)))
    return found


def slope(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    directions: Mapping[str, Array],
    cotangent: Array,
    output: str,
    step: float,
) -> float:
    """The central difference of <cotangent, output> along the directions, as onnxruntime runs the file."""
    run = Backend("cpu").run

    def at(distance: float) -> float:
        moved = {n: (inputs[n] + distance * u).astype(inputs[n].dtype) for n, u in directions.items()}
        found = run(model, {**inputs, **moved}, [output])[output]
        return float((found.astype(np.float64) * cotangent).sum())

    return (at(step) - at(-step)) / (2 * step)


def assert_slope(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    wrt: Sequence[str],
    *,
    step: float = 1e-2,
    tolerance: float = 2e-3,
    of: onnx.ModelProto | None = None,
    output: str | None = None,
    few: int | None = None,
) -> dict[str, Array]:
    """Compares the gradient with differences of the model, or of another one; the error is relative to the gradient.

    The step is large, since float32 leaves 1e-7 / step of noise, and the error of the difference falls with its square.
    A direction in `few` elements crosses fewer kinks.
    """
    output = output or model.graph.output[0].name
    value = Backend("cpu").run(model, dict(inputs), [output])[output]
    rng = np.random.default_rng(0)
    cotangent = rng.normal(size=value.shape)
    found = gradients(model, inputs, wrt, cotangent, output)
    for name in wrt:
        g = found[name]
        for _ in range(3):
            u = rng.normal(size=g.shape)
            if few is not None:
                kept = np.zeros(g.size)
                kept[rng.choice(np.flatnonzero(g), few, replace=False)] = 1
                u *= kept.reshape(g.shape)
            expected = slope(of or model, inputs, {name: u}, cotangent, output, step)
            size = max(float(np.linalg.norm(g[u != 0])), abs(expected))
            assert size > 0, f"the gradient of {name} is zero"
            assert abs(float((g * u).sum()) - expected) <= tolerance * size, (name, (g * u).sum(), expected)
    return found
