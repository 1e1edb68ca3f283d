"""Paths whose rows lie where they are needed, when few rows fit into the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Completed, Revision
from tests.methods.toys import model

WIDE = 256
NET = "(float[N,4] x) => (float[N,1] y) { a = MatMul(x, A) h = Relu(a) b = MatMul(h, B) t = Tanh(b) y = MatMul(t, C) }"
ROW = 2 * 4 * WIDE
"""The bytes of the gradients and activations of h in one row."""


def asked(budget: int, samples: int = 6, **given: Any) -> tuple[Attribution, int, str]:
    """The answer, how many revisions it took, and why it ended."""
    rng = np.random.default_rng(0)
    weights = {
        "A": rng.normal(size=(4, WIDE)), "B": rng.normal(size=(WIDE, 8)) / 4, "C": rng.normal(size=(8, 1))
    }  # fmt: skip
    x = rng.normal(size=(samples, 4)).astype(np.float32)
    low = rng.normal(size=(samples, 4)).astype(np.float32)
    with Engine(provider="cpu", threads=1, memory_budget=budget) as engine:
        engine.add("net", model(NET, **{name: array.astype(np.float32) for name, array in weights.items()}))
        request = AttributionRequest(
            "net", {"x": x}, "neuron_ig", ["h"], baselines={"x": low}, target=0, **given
        )
        events = list(engine.stream(request))
    revisions = [event.attribution for event in events if isinstance(event, Revision)]
    (end,) = [event for event in events if isinstance(event, Completed)]
    return revisions[-1], len(revisions), end.stop_reason


@pytest.mark.parametrize(
    ("rows", "few"),
    [(33 * 4, True), (33 * 6, False), (33 * 7, False)],
    ids=["four samples at a time", "all until they grow", "all, and some room"],
)
def test_samples_whose_rows_do_not_fit_together_have_the_same_answers(rows: int, few: bool) -> None:
    whole, _, reason = asked(1 << 30)
    answer, revisions, also = asked(rows * ROW)
    assert reason == also == "converged"
    assert (revisions == 1) == few
    found, wanted = (one.layers["h"].values.astype(np.float64) for one in (answer, whole))
    assert np.abs(found - wanted).sum() <= 1e-6 * np.abs(wanted).sum()
    assert answer.evaluations >= whole.evaluations


def test_rows_that_were_dropped_are_evaluated_anew_and_counted() -> None:
    whole, _, _ = asked(1 << 30, tolerance=2e-3)
    assert whole.steps > 33
    answer, revisions, _ = asked(6 * 33 * ROW, tolerance=2e-3)
    assert revisions > 1
    assert answer.evaluations > whole.evaluations
    found, wanted = (one.layers["h"].values.astype(np.float64) for one in (answer, whole))
    assert np.abs(found - wanted).sum() <= 1e-3 * np.abs(wanted).sum()
