"""Inputs for the model files that random ones do not suit, and changes to files that differences do not suit, by the
name of their folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_attribution.values import Array

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "silero-vad-v5": {"input": (1, 512), "state": (2, 1, 128)},
    "silero-vad-mini-8k": {"input": (1, 1536)},
    "silero-vad-v3": {"input": (1, 1536)},
    "ppocr-v3-det": {"x": (1, 3, 64, 64)},
    "ppocr-en-rec-crnn": {"x": (1, 3, 32, 64)},
    "bert-toy-fused": {"input_ids": (1, 6), "token_type_ids": (1, 6), "input_mask": (1, 6)},
}
GIVEN: dict[str, dict[str, Array]] = {
    "silero-vad-v5": {"sr": np.asarray(16000, dtype=np.int64)},
    # scales as a quantised file has them; random ones make scores of 1e5, whose softmax is a step
    "attention-past-u8s8": {
        "input_scale": np.full(1, 0.02, dtype=np.float32),
        "weight_scale": np.full(1, 0.01, dtype=np.float32),
    },
    # near its support vectors; far from all of them nothing changes
    "nusvc-multi": {"input": np.array([[6, 3, 4.5]], dtype=np.float32)},
    # larger ones saturate its last tanh
    "rl-score-goal": {"obs": np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32) / 100},
}
# whole images of 256^3 and 720^2 take minutes a run in float64
SMALLER = {"brain-meshnet-3d": (1, 1, 64, 64, 64), "style-candy": (1, 3, 180, 180)}


def example_of(path: Path) -> tuple[dict[str, Array], dict[str, tuple[int, ...]]]:
    """Inputs and shapes with which the model of this file is checked."""
    name = path.parent.name
    return GIVEN.get(name, {}), SHAPES.get(name, {})


def usable(path: Path, folder: Path) -> Path:
    """The file itself, or a copy: with random weights where all are equal, with a smaller image where one is huge."""
    name = path.parent.name
    if not name.startswith("light-") and name not in SMALLER:
        return path
    model = onnx.load(path)
    if name in SMALLER:
        del model.graph.value_info[:]
        dims = model.graph.input[0].type.tensor_type.shape.dim
        ratio = dims[-1].dim_value // SMALLER[name][-1]
        for size, dim in zip(SMALLER[name], dims, strict=True):
            dim.dim_value = size
        for shape in [a for node in model.graph.node for a in node.attribute if a.name == "output_shape"]:
            shape.ints[:] = [n // ratio + n % ratio for n in shape.ints]  # borders stay
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    else:
        _redraw(model.graph)
    copy = folder / name / path.name
    copy.parent.mkdir()
    onnx.save(model, copy)
    return copy


def _redraw(graph: onnx.GraphProto) -> None:
    """Puts random weights, in place, where ConstantOfShape made equal ones."""
    held = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    rng = np.random.default_rng(0)
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in held:
            continue
        shape = [int(d) for d in held[node.input[0]]]
        if len(shape) > 1:
            drawn = rng.standard_normal(shape) * np.sqrt(2 / max(int(np.prod(shape[1:])), 1))
        else:  # scales and variances are positive
            drawn = rng.uniform(0.5, 1.5, shape)
        node.op_type = "Constant"
        del node.attribute[:], node.input[:]
        node.attribute.append(
            helper.make_attribute("value", numpy_helper.from_array(drawn.astype(np.float32)))
        )
