"""Models with parameters drawn anew are models of the engine for as long as they are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import InvalidArgument, ModelError, NotFound
from onnx_attribution.server.engine import Engine

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture
def engine(digits_path: Path) -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        engine.add("digits", digits_path)
        yield engine


def test_each_stage_is_a_model_that_is_gone_behind_it(engine: Engine, digits_data: Data) -> None:
    inputs = {"image": digits_data[0][:4]}
    before = engine.predict("digits", inputs)["logits"]
    seen = []
    with engine.randomised("digits") as stages:
        for stage in stages:
            assert len(engine.models()) == 2
            assert not np.allclose(engine.predict(stage.name, inputs)["logits"], before)
            seen.append(stage)
    assert [stage.block for stage in seen] == ["/dense2/Gemm", "/dense1/Gemm", "/conv2/Conv", "/conv1/Conv"]
    assert [one.name for one in engine.models()] == ["digits"]
    with pytest.raises(NotFound):
        engine.predict(seen[0].name, inputs)
    np.testing.assert_array_equal(engine.predict("digits", inputs)["logits"], before)


def test_independent_stages_compute_what_the_layers_below_computed(engine: Engine, digits_data: Data) -> None:
    inputs = {"image": digits_data[0][:4]}
    relu3 = engine.predict("digits", inputs, ["relu3"])["relu3"]
    with engine.randomised("digits", order="independent") as stages:
        same = [np.array_equal(engine.predict(one.name, inputs, ["relu3"])["relu3"], relu3) for one in stages]
    assert same == [True, False, False, False]


def test_a_block_that_is_left_early_leaves_nothing(engine: Engine) -> None:
    with engine.randomised("digits", most=2) as stages:
        next(stages)
    assert [one.name for one in engine.models()] == ["digits"]
    with pytest.raises(InvalidArgument), engine.randomised("digits", draw="cauchy"):  # type: ignore[arg-type]
        pass


def test_a_file_that_has_changed_is_refused(digits_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(digits_path.read_bytes())
    with Engine(threads=1) as engine:
        engine.add("net", file)
        engine.info("net")
        file.write_bytes(digits_path.with_name("digits_fixed.onnx").read_bytes())
        with pytest.raises(ModelError, match="has changed"), engine.randomised("net"):
            pass
