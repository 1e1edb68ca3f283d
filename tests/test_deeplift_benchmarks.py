from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.deeplift import digit_flip, simulation
from benchmarks.deeplift.methods import Comparison


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s).astype(np.float32) for s in ((6, 8), (8, 8), (8, 3))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, weights


def test_guided_backprop_passes_what_is_positive_on_both_ways(small: tuple[Path, list[np.ndarray]]) -> None:
    path, (w0, w1, w2) = small
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    a = x @ w0
    c = np.maximum(a, 0) @ w1
    back = np.maximum(w2[:, 1], 0) * (c > 0)
    expected = (np.maximum(back @ w1.T, 0) * (a > 0)) @ w0.T
    with Comparison(path) as comparison:
        assert comparison.classes == 3
        np.testing.assert_allclose(comparison.scores("guided backprop", x, 1), expected, rtol=1e-5, atol=1e-5)
        plain = comparison.scores("gradient", x, 1)
    np.testing.assert_allclose(plain, (((w2[:, 1] * (c > 0)) @ w1.T) * (a > 0)) @ w0.T, rtol=1e-5, atol=1e-5)


def test_a_flip_erases_the_largest_positive_differences_only() -> None:
    rng = np.random.default_rng(0)
    x = np.ones((2, 1, 28, 28), dtype=np.float32)
    difference = rng.normal(size=x.shape)
    difference[1] -= 3  # few are positive
    erased = digit_flip.flipped(x, difference) == 0
    assert erased[0].sum() == digit_flip.ERASED
    assert difference[0][erased[0]].min() > difference[0][~erased[0]].max()
    assert np.array_equal(erased[1], difference[1] > 0)


def test_simulated_sequences_hold_the_motifs_that_their_labels_say() -> None:
    data = simulation.simulate(200, 0)
    assert data.one_hot.shape == (200, 4, 200)
    assert np.array_equal(data.one_hot.sum(axis=1), np.ones((200, 200)))
    assert data.labels.sum(axis=0).tolist() == [50, 100, 100]
    for motif, task in (("GATA_disc1", 1), ("TAL1_known1", 2)):
        best = np.full(200, -np.inf)
        for hit in simulation.hits(data.one_hot, simulation.MOTIFS[motif], best=1):
            best[hit.sequence] = hit.log_odds
        has = data.labels[:, task] > 0
        # 7 is a good match; by chance a background of 200 letters holds one now and then
        assert (best[has] > 7).mean() > 0.7
        assert (best[~has] > 7).mean() < 0.3


def test_hits_keep_half_a_motif_apart_and_are_scored_letter_by_letter() -> None:
    data = simulation.simulate(4, 1)
    motif = simulation.MOTIFS["GATA_disc1"]
    rows = simulation.smoothed(motif)
    found = list(simulation.hits(data.one_hot, motif))
    assert len(found) == 20
    for hit in found:
        letters = data.one_hot[hit.sequence, :, hit.start : hit.start + 10].argmax(axis=0)
        expected = sum(np.log(rows[k, a] / simulation.BACKGROUND[a]) for k, a in enumerate(letters))
        assert hit.log_odds == pytest.approx(expected, rel=1e-5)
    starts = sorted(hit.start for hit in found if hit.sequence == 0)
    assert min(np.diff(starts)) > 5
