"""Gradients of real models against differences in float64; the whole table: `python -m tests.conformance.gradients`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnx_attribution.server.backend import Backend
from tests.conformance.gradients import compare

QUICK = (
    "acasxu-1-1",
    "attention-past-u8s8",
    "autoencoder1d",
    "bert-toy-fused",
    "cct-com-microsoft-gelu",
    "cct2-layernorm-decomposed",
    "certificate-controller",
    "cifar10-wide-kw",
    "cifar10-winml-tutorial",
    "dnsmos-p808",
    "dtln-model2",
    "facemesh-landmarks",
    "fomo-efficientnet-b0",
    "gtsrb-traffic-sign",
    "hand-history-mlp",
    "hand-history-softmax",
    "hand-keypoint-mlp",
    "hand-keypoint-softmax",
    "iris-mlp",
    "mnist-cnn-maxpool-marabou",
    "mnist-cnn-pytorch",
    "mnist-cntk",
    "mnist-leakyrelu-5x20",
    "mnist-relu-2x10",
    "mnist-self-attention",
    "mnist-softmax-mlp",
    "penguin-mlp",
    "plate-type-cls",
    "ppocr-v3-det",
    "rl-3dlander",
    "rl-jumper",
    "rl-score-goal",
    "rl-virtual-camera",
    "selfie-segmentation",
    "speech-embedding",
    "sunshine-mlp",
    "tinytaxinet",
    "torchscript-transformer",
    "ultraface-rfb-320",
    "voicevox-duration",
    "voicevox-sing-consonant",
)
"""Models whose rows take a few seconds; a detector with several outputs and two segmenters are among them."""


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend("cpu")


@pytest.mark.parametrize("name", QUICK)
def test_gradients_of_a_real_model_agree_with_differences(name: str, shared: Path, backend: Backend) -> None:
    row = compare(shared / "models" / name / "model.onnx", backend)
    assert row.agrees, row


def test_every_plain_mnist_cifar_and_hand_model_is_compared(shared: Path) -> None:
    """All of them that hold no classical, quantised or integer operator."""
    index = json.loads((shared / "models" / "INDEX.json").read_text())
    plain = {
        entry["name"]
        for entry in index
        if entry["name"].startswith(("mnist-", "cifar10-", "hand-"))
        and not any(entry["has"][kind] for kind in ("ai.onnx.ml", "QDQ", "QLinear"))
    }
    assert plain <= set(QUICK)
