"""The models of which it is known where their programs run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx

from benchmarks import files as networks
from tests.data.examples import example_of, usable
from tests.placement.place import Placed, placed

GENERATED: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-50": partial(networks.resnet, (3, 4, 6, 3), True),
    "ViT, 4 layers": partial(networks.vit, 4),
    "BERT, 2 layers": partial(networks.bert, 2),
}
LISTED = (
    "acasxu-1-1 attention-past-u8s8 basic-pitch bert-toy-fused cct-com-microsoft-gelu cct2-layernorm-decomposed "
    "cifar10-wide-kw cntk-birnn conv-int4-qdq derived-mnist-qoperator-int8 derived-supres-espcn dnsmos-p808 "
    "dtln-model2 facemesh-landmarks fastestdet fomo-efficientnet-b0 functions-mobilenetv2-100 gpt2-past-tiny "
    "gtsrb-traffic-sign hand-keypoint-mlp light-resnet50 light-squeezenet loop-if-issue4031 lstm-scan "
    "magika-standard-v3-3 mnist-cnn-maxpool-marabou mnist-cnn-pytorch mnist-lr-sklearn mnist-self-attention "
    "mobilenetv2-qdq nusvc-multi plate-type-cls ppocr-v3-det qdq-multi-consumer selfie-segmentation "
    "silero-vad-mini-8k speech-embedding squeezenet-fp16 style-candy tfbert-qa-random torchscript-transformer "
    "ultraface-rfb-320 voice-commands-fused voicevox-duration voicevox-sing-consonant yolox-nano"
)
"""Of the folder of models, if it is there; see `files`."""

NO_KERNEL = frozenset(
    {
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
        "com.microsoft:QLinearAdd",
    }
    | {"ai.onnx.ml:LinearClassifier", "ai.onnx.ml:Normalizer", "ai.onnx.ml:SVMClassifier"}
)
"""Operators of files for which onnxruntime has no CUDA kernel, or none of the form that the file has."""


KNOWN = {("loop-if-issue4031", "deeplift_rescale"): {"Where"}}
"""The target's weight is an input, which onnxruntime keeps beside the numbers of turns that it is compared with."""


def files() -> dict[str, Path]:
    """The model files at hand, by name."""
    folder = os.environ.get("ONNX_ATTRIBUTION_TEST_DATA")
    found = {name: Path(folder, "models", name, "model.onnx") for name in LISTED.split()} if folder else {}
    return {name: path for name, path in found.items() if path.is_file()}


def placed_by_name(name: str) -> list[Placed]:
    """Where the programs of the model run."""
    if name in GENERATED:
        return list(placed(name, GENERATED[name]()))
    path = files()[name]
    with tempfile.TemporaryDirectory() as folder:
        return list(placed(name, usable(path, Path(folder)), *example_of(path)))


def at_fault(found: Placed) -> bool:
    """Whether the CPU has more than shapes to calculate and what the file asks of it."""
    return bool(found.others.keys() - NO_KERNEL - KNOWN.get((found.model, found.program), set()))
