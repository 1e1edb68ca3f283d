"""What `--plot` draws beside the numbers: the pictures and the tokens of each sample, wherever its batch lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_attribution.client.render import plot
from onnx_attribution.client.render.inputs import tokens_of
from onnx_attribution.values import ModelInfo, TensorInfo
from tests.server.cli.commands import explained, model

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns what the last picture was made of."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(plot, "draw", lambda path, answer, **options: found.update(options, answer=answer))
    return found


def test_tokens_are_integers_text_and_the_places_of_one_hot_numbers() -> None:
    infos = (
        TensorInfo("attention_mask", "int64", ("N", "L"), 0),
        TensorInfo("ids", "int64", ("L", "N"), 1),
        TensorInfo("words", "string", ("N", 1, "L"), 0),
        TensorInfo("letters", "float32", ("N", 4, "L"), 0),
        TensorInfo("numbers", "float32", ("N", 4, "L"), 0),
        TensorInfo("age", "int64", ("N", 1), 0),
    )
    ids = np.array([[5, 6], [7, 8], [9, 4]])
    places = np.array([[0, 3, 1], [2, 2, 0]])
    arrays = {
        "attention_mask": np.ones((2, 3), int),
        "ids": ids,
        "words": np.array([[["a", "b", "c"]], [["d", "e", "f"]]]),
        "letters": np.eye(4, dtype=np.float32)[places].transpose(0, 2, 1),
        "numbers": np.full((2, 4, 3), 0.5, np.float32),
        "age": np.array([[3], [4]]),
    }
    found = tokens_of(arrays, ModelInfo("m", 1, "READY", batch="dynamic", inputs=infos))
    assert list(found) == ["ids", "words", "letters", "attention_mask"]
    assert np.array_equal(found["ids"], ids.T)
    assert found["words"].tolist() == [["a", "b", "c"], ["d", "e", "f"]]
    assert np.array_equal(found["letters"], places)


def test_images_of_any_batch_axis_lie_behind_their_own_maps(drawn: dict[str, Any], tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 5, 3, 2), np.float32)  # [H, W, C, N]
    np.save(tmp_path / "x.npy", images)
    path = model(
        tmp_path,
        """m (float[4,5,3,N] x) => (float[N] y) <int64[3] k = {0, 1, 2}> {
            s = Mul(x, x) y = ReduceSum<keepdims = 0>(s, k) }""",
    )
    explained(path, "--input", tmp_path / "x.npy", "--method", "gradient", "--plot", tmp_path / "out.png")
    assert drawn["shown"].channels_last
    assert np.array_equal(drawn["shown"].images, np.moveaxis(images, 3, 0))


def test_the_bytes_of_a_model_label_its_positions(drawn: dict[str, Any], tmp_path: Path) -> None:
    text = """m (int64[N,6] bytes) => (float[N,1] y) <float[1] depth = {257}, float[2] values = {0, 1}> {
        n = Cast<to = 7>(depth) h = OneHot(bytes, n, values) w = Sin(h) k = Constant<value_ints = [1, 2]>()
        s = ReduceSum<keepdims = 0>(w, k) e = Constant<value_ints = [1]>() y = Unsqueeze(s, e) }"""
    np.save(tmp_path / "x.npy", np.frombuffer(b"a b\nc!", np.uint8)[None].astype(np.int64))
    explained(
        model(tmp_path, text), "--input", tmp_path / "x.npy", "--target", "0", "--method", "gradient",
        "--plot", tmp_path / "out.png",
    )  # fmt: skip
    options = dict(drawn)
    layer = next(iter(options.pop("answer").layers.values()))
    assert layer.values.shape == (1, 6, 257)
    figure = plot.figure(drawn["answer"], options["shown"])
    labels = [tick.get_text() for axes in figure.subfigs[0].axes for tick in axes.get_xticklabels()]
    assert labels == ["a", "␣", "b", "0ah", "c", "!"]
