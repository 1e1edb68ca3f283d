"""What a table of rules carries back through a small model, and a comparison that no wrong rule passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_attribution.graph_tools.operators import RuleTable
from onnx_attribution.graph_tools.programs.rows import rows_program
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel

Array = NDArray[Any]
TOLERANCE = 1e-4
"""Of the largest number that is expected: a rule that is 0.05 % wrong is five times as far off."""


def carried(
    net: onnx.ModelProto,
    table: RuleTable,
    weight: Array,
    layers: tuple[str, ...] = ("x",),
    relevance: bool = False,
    **inputs: Any,
) -> Mapping[str, Array]:
    """What arrives at the layers where `weight` begins at the only output, or its value times `weight` where relevance
    is carried; sources are the inputs."""
    feeds = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    model = LoadedModel(net, Backend("cpu", 1), given=feeds)
    choice = Choice(tuple(inputs), layers, model.outputs[0].name)
    program = rows_program(model.network, choice, rules=table, relevance=relevance)
    given = {**feeds, "target/weight": np.asarray(weight, np.float32)}
    session = model.backend.session(program.model)
    found = session.run({name: value for name, value in given.items() if name in program.inputs})
    return {name: np.asarray(found[f"gradient/{name}"], np.float64) for name in layers}


def assert_carried(actual: Array, expected: Any) -> None:
    """The two agree to within rounding."""
    wanted = np.asarray(expected, np.float64)
    scale = float(np.abs(wanted).max(initial=1e-30))
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=TOLERANCE * scale)
