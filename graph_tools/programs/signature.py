"""What a program explains, and what goes into and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Choice:
    """What a program explains: tensors by name."""

    sources: tuple[str, ...]
    layers: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Program:
    """A model with the names of what goes in and comes out."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
