"""Gradients of a few real models against differences in float64; `make conformance` compares all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnx_attribution.server.engine.backend import Backend
from tests.conformance.gradients import compare
from tests.conformance.report import PASSED
from tests.data.examples import example_of

KINDS = {
    "autoencoder1d": "transposed convolutions, max pooling",
    "bert-toy-fused": "tokens, attention",
    "certificate-controller": "a plain perceptron",
    "cntk-birnn": "a recurrent layer, both ways",
    "derived-mnist-qoperator-int8": "quantised operators",
    "loop-if-issue4031": "a loop with a branch",
    "lstm-scan": "a scan",
    "mnist-lr-sklearn": "a pipeline of scikit-learn",
    "selfie-segmentation": "images of images",
    "silero-vad-v5": "branches with recurrent layers",
}
"""One model of each kind; the slowest takes two seconds."""


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend("cpu")


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_a_real_model_agree_with_differences(name: str, shared: Path, backend: Backend) -> None:
    path = shared / "models" / name / "model.onnx"
    row = compare(path, backend, *example_of(path))
    assert row.agrees, row


def test_every_plain_mnist_cifar_and_hand_model_has_passed(shared: Path) -> None:
    """All of them that hold no classical, quantised or integer operator."""
    index = json.loads((shared / "models" / "INDEX.json").read_text())
    plain = {
        f"model/{entry['name']}"
        for entry in index
        if entry["name"].startswith(("mnist-", "cifar10-", "hand-"))
        and not any(entry["has"][kind] for kind in ("ai.onnx.ml", "QDQ", "QLinear"))
    }
    assert plain <= set(json.loads(PASSED.read_text())["model"])
