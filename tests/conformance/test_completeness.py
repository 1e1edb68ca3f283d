"""DeepLIFT of real models sums at every cut layer; the whole table: `make completeness`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.graph_tools.network import Network
from onnx_attribution.graph_tools.programs.pairs import deeplift_program
from onnx_attribution.graph_tools.programs.signature import Choice, Program
from onnx_attribution.server.engine.backend import Backend
from tests.conformance import completeness
from tests.conformance.completeness import Answer, Line, compare

QUICK = (
    "acasxu-1-1",
    "attention-past-u8s8",
    "autoencoder1d",
    "cct-com-microsoft-gelu",
    "cct2-layernorm-decomposed",
    "cntk-bilstm",
    "cntk-birnn",
    "conv-int4-qdq",
    "derived-mnist-qoperator-int8",
    "dtln-model2",
    "facemesh-landmarks",
    "mnist-cnn-maxpool-marabou",
    "mnist-self-attention",
    "mnist-softmax-mlp",
    "penguin-mlp",
    "ppocr-v3-det",
    "qdq-multi-consumer",
    "rl-score-goal",
    "selfie-segmentation",
    "silero-vad-mini-8k",
    "voice-commands-fused",
    "voicevox-duration",
)
"""Models of a few seconds: softmax, normalisations, gates, LSTM, RNN, If, quantised and fused operators."""


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend("cpu")


@pytest.mark.parametrize("name", QUICK)
def test_deeplift_of_a_real_model_sums_at_every_cut_layer(name: str, shared: Path, backend: Backend) -> None:
    answer = compare(shared / "models" / name / "model.onnx", backend)
    assert not answer.refused
    assert {line.rule for line in answer.lines} == set(completeness.RULES)
    assert not answer.failed, [line for line in answer.lines if not line.sums]


def test_a_share_too_small_is_noticed(
    tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checker is checked: contributions that are wrong by 0.05 % do not sum."""
    weights = numpy_helper.from_array(np.array([[1.0, -2.0], [0.5, 1.0]], np.float32), "w")
    sizes = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "xy"}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    graph = helper.make_graph(nodes, "small", [sizes["x"]], [sizes["y"]], [weights])
    folder = tmp_path / "small"
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
        folder / "model.onnx",
    )
    assert not compare(folder / "model.onnx", backend).failed

    def wrong(network: Network, choice: Choice) -> Program:
        program = deeplift_program(network, choice)
        graph = program.model.graph
        (share,) = [z for z in graph.output if z.name == "contribution/z"]
        (node,) = [node for node in graph.node if share.name in node.output]
        node.output[list(node.output).index(share.name)] = "exact"
        kind = helper.tensor_dtype_to_np_dtype(share.type.tensor_type.elem_type)
        graph.initializer.append(numpy_helper.from_array(np.asarray(1.0005, kind), "factor"))
        graph.node.append(helper.make_node("Mul", ["exact", "factor"], [share.name]))
        return program

    monkeypatch.setitem(completeness.RULES, "rescale", wrong)
    assert compare(folder / "model.onnx", backend).failed


def test_a_line_needs_one_figure_within_its_tolerance() -> None:
    line = Line("z", True, "rescale", 1e-3)
    assert not line.sums
    assert dataclasses.replace(line, double=1e-12).sums
    assert not dataclasses.replace(line, double=1e-7).sums
    assert Answer("m", (line,)).failed
