"""What a program explains, and what goes into and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Neuron:
    """Units of a tensor: those at an index of the first axes of one sample's part, whatever the others are."""

    tensor: str
    index: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """What a program explains: tensors by name; `through` is a neuron that all ways have to cross."""

    sources: tuple[str, ...]
    layers: tuple[str, ...]
    target: str
    through: Neuron | None = None


@dataclass(frozen=True)
class Program:
    """A model with the names of what goes in and comes out."""

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
