"""Whether an importance that was written is of the model at hand."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.importance import Importance
from onnx_attribution.values import LayerInfo, ModelInfo


def require_fitting(
    record: Importance, info: ModelInfo, layers: Sequence[LayerInfo], layer: str, file: str
) -> None:
    """Refuses an importance of another layer, or of another file.

    Raises:
        InvalidArgument: the message says which.
    """
    from onnx_attribution.graph_tools.select.names import is_end

    def called(key: str) -> bool:
        return fnmatchcase(key, layer) if any(c in layer for c in "*?[") else is_end(key, layer)

    own = {record.layer, *(one.node for one in layers if one.name == record.layer)}
    if layer not in own and not any(map(called, own)):
        raise InvalidArgument(f"{file!r} is of the layer {record.layer!r}, not of {layer!r}", layer=layer)
    if record.digest and record.digest != info.digest:
        raise InvalidArgument(
            f"{file!r} was measured on another file: its digest is {record.digest[:12]}..., that of the model "
            f"{info.digest[:12]}...; measure it anew with `onnx-attribution importance`",
            file=file,
        )
