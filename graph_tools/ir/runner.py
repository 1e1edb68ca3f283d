"""How graph_tools meets a runtime: as a function that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import onnx

from onnx_attribution.values import Array


class Runner(Protocol):
    """Runs a model: `(model, inputs, outputs) -> arrays by name`. The only way graph_tools meets a runtime.

    With `as_written` nothing is fused, or computed from shapes before the run.
    """

    def __call__(
        self,
        model: onnx.ModelProto,
        inputs: Mapping[str, Array],
        outputs: list[str],
        *,
        as_written: bool = False,
    ) -> dict[str, Array]: ...
