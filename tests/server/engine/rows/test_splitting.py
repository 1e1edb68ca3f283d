"""Segments are split as far as the tolerance is likely to need, so that few rounds are enough."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.server.engine.rows import splitting
from tests.server.engine.rows.test_adaptive import followed, networks


@pytest.mark.parametrize("tolerance", [0.03, 0.01, 0.003])
def test_paths_of_straight_pieces_take_two_or_three_rounds(tolerance: float) -> None:
    fine = np.linspace(0, 1, 40_001)
    rounds, within = [], []
    for g, h, change in networks("relu", 20):
        gs, hs = g(fine), h(fine)
        exact = (0.5 * (gs[1:] + gs[:-1]) * np.diff(hs, axis=0)).sum(axis=0)
        found, asked = followed(
            g, h, tolerance, change=change, few_rounds=True, kinked=tuple(np.linspace(0, 1, 13))
        )
        assert found.converged
        rounds.append(len(asked))
        within.append(np.abs(found.sums()["h"] - exact).sum() <= found.errors()["h"])
    assert np.median(rounds) <= 3
    assert np.mean(within) >= 0.95


def test_what_is_tolerated_already_is_split_all_the_same_where_it_is_in_doubt() -> None:
    found = splitting.all_at_once(np.array([0.0, 1.0, 0.1, 0.0]), 0.5)
    assert found[1] > found.get(2, 1) >= 1
    assert 0 not in found
