"""Files in float32 of models in float64, and how far that moves what they say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import inliner

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.programs.single import in_float32, is_double
from onnx_attribution.graph_tools.read.load import load
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.export import Exported
from onnx_attribution.server.engine.models.card_file import card_of
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.standalone import Standalone, example_of, standalone_model
from onnx_attribution.values import Array

Axes = Mapping[str, int | None]
Shapes = Mapping[str, tuple[int, ...]]


def single_model(
    file: str | os.PathLike[str], backend: Backend, axes: Axes | None = None, shapes: Shapes | None = None
) -> LoadedModel | None:
    """The model of a file with float32 in place of float64, None where it has none.

    Raises:
        ModelError: the file cannot be read, or onnxruntime has not all of its operators in float32.
    """
    raw = inliner.inline_local_functions(load(file))
    if not is_double(raw):
        return None
    return LoadedModel(in_float32(raw), backend, axes, shapes, card=card_of(file))


def moved(
    file: str | os.PathLike[str],
    backend: Backend,
    axes: Axes,
    shapes: Shapes,
    wish: Standalone,
    single: Exported,
) -> str:
    """In words, how far float32 moves the attributions of one example from those of the file in float64."""
    try:
        model = LoadedModel(file, backend, axes, shapes)
        wide = standalone_model(model, replace(wish, float32=False))
        given = {**model.network.example, **example_of(model, wide)}
        wanted, found = (_made(backend, one, given) for one in (wide, single))
    except ModelError:
        return "float32 in place of float64, in which onnxruntime does not run the model: how far apart is not known"
    apart = [0.0]
    for name, array in wanted.items():
        size = float(np.abs(array).sum()) if name.startswith("attribution/") else 0.0
        if np.isfinite(size) and size > 0:
            apart.append(float(np.abs(found[name].astype(float) - array.astype(float)).sum()) / size)
    return f"float32 in place of float64 moves the attributions of an example by {max(apart):.1g} of their L1 norm"


def _made(backend: Backend, found: Exported, given: Mapping[str, Array]) -> dict[str, Array]:
    session = backend.session(found.model)
    kinds = {one.name: one.type.tensor_type.elem_type for one in found.model.graph.input}
    return session.run(
        {
            name: array.astype(np.float32) if kinds[name] == 1 and array.dtype == np.float64 else array
            for name, array in given.items()
            if name in kinds
        }
    )
