"""The importance of a layer's units per class, as `onnx-attribution importance` writes it."""

from __future__ import annotations

from onnx_attribution.importance import Importance, labels_of

__all__ = ["Importance", "labels_of"]
