"""Attributions in one process, without gRPC."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_attribution.server.engine.engine import Engine as Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> object:
    if name == "Engine":  # late, since the rooms below must not load it
        from onnx_attribution.server.engine.engine import Engine

        return Engine
    raise AttributeError(name)
