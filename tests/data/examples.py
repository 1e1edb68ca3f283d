"""Inputs for the model files that random ones do not suit, by the name of their folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    # larger ones saturate its last tanh
    "rl-score-goal": {"obs": np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32) / 100},
}


def example_of(path: Path) -> tuple[dict[str, Array], dict[str, tuple[int, ...]]]:
    """Inputs and shapes with which the model of this file is checked."""
    name = path.parent.name
    return GIVEN.get(name, {}), SHAPES.get(name, {})
