"""Frees a fixed batch axis: rewrites the shapes that an exporter baked in, so that a file with batch 1 takes any batch.

The axis is followed through the graph. Where an operator mixes it with others the model cannot be freed; whether what
comes out is right is not decided here but by `prove`.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnx_attribution.graph_tools.batch import bodies, operators  # noqa: F401  # which register their rules
from onnx_attribution.graph_tools.batch.freeing import Freeing


def free(model: onnx.ModelProto, axes: Mapping[str, int | None]) -> onnx.ModelProto:
    """The model with `axes` of its inputs symbolic; needs shapes as inferred for the fixed batch.

    Raises:
        CannotFree: the axis does not stay an axis of its own.
    """
    return Freeing(model, axes).result()
