"""Where a file that asks for much is still read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.graph_tools.read import example_inputs as sizes
from onnx_attribution.graph_tools.read import limits
from onnx_attribution.graph_tools.read.example_inputs import example_inputs
from onnx_attribution.graph_tools.read.load import load
from onnx_attribution.server.engine.backend import Backend, Trials
from tests.graph_tools.read.hostile import doubled, external
from tests.programs import parsed


def test_large_input_of_fixed_sizes_is_tried_though_its_batch_is_open() -> None:
    run = Trials(Backend("cpu", 1))
    found = example_inputs(parsed("g (float[N, 9000000] x) => (y) { y = ReduceMax<keepdims = 0>(x) }"), run)
    assert found["x"].shape == (1, 9_000_000)


def test_an_input_that_is_given_may_be_as_large_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGEST", 10)
    run, model = Trials(Backend("cpu", 1)), parsed("g (float[4, 3] x) => (y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="'x' is declared with 12 elements"):
        example_inputs(model, run)
    given = {"x": np.ones((4, 3), np.float32)}
    assert example_inputs(model, run, given=given)["x"].shape == (4, 3)


def test_functions_are_counted_where_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    made = doubled(5)
    monkeypatch.setattr(limits, "MAX_NODES", 32)
    limits.require_bounded(made)
    monkeypatch.setattr(limits, "MAX_NODES", 31)
    with pytest.raises(ModelError, match="the model has 32 nodes"):
        load(made)


def test_weights_that_share_their_place_are_read(tmp_path: Path) -> None:
    made = external("weights.bin", size=1 << 21, count=4)
    (tmp_path / "weights.bin").write_bytes(bytes(4 << 21))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    assert len(load(tmp_path / "model.onnx", Weights()).graph.initializer) == 4
