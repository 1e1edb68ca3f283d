"""Rows of mean gradients: units that do not move from x' to x take no work, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.engine.rows.adaptive import Adaptive
from tests.server.engine.rows.test_adaptive import drive

Floats = NDArray[np.float64]


def mean(straight: Floats, g: Floats, lost: bool = False) -> tuple[Floats, float, int]:
    """The mean over 0..1 of cos(g alpha), its error, and the rows."""
    found = Adaptive(conductance=False, tolerance=1e-3, layers=["x"], straight={"x": straight})

    def rows(a: Floats) -> Floats:
        made = np.cos(np.multiply.outer(a, g))
        if lost:
            made[a > 0.9, -1] = np.inf
        return made

    drive(found, lambda a: {"x": (rows(a), a)}, most=100)
    return found.sums()["x"], found.errors()["x"], found.rows


def test_units_that_do_not_move_change_neither_rows_nor_errors_nor_the_others() -> None:
    few, g = np.array([2.0, -1.0]), np.array([1.0, 3.0])
    alone, error, rows = mean(few, g)
    wide = np.array([0.0, 2.0, 0.0, 0.0, -1.0, 0.0])
    among, same_error, same_rows = mean(wide, np.array([5.0, 1.0, 7.0, 8.0, 3.0, 9.0]))
    assert (same_error, same_rows) == (error, rows)
    np.testing.assert_array_equal(among[wide != 0], alone)
    np.testing.assert_allclose(alone, np.sin(g) / g, atol=error)


@pytest.mark.parametrize("moved", [False, True])
def test_what_is_not_finite_stays_in_sight(moved: bool) -> None:
    wide = np.array([0.0, 2.0, 0.0, 0.0, -1.0, float(moved)])
    found, error, _ = mean(wide, np.arange(1.0, 7.0), lost=True)
    assert not np.isfinite(found[-1])
    assert np.isfinite(found[:-1]).all()
    assert np.isfinite(error) != moved
