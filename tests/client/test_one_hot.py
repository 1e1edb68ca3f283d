"""Hypothetical contributions against their definition, letter by letter."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.client.one_hot import hypothetical_contributions


@pytest.mark.parametrize("axis", [-1, 1])
def test_each_letter_has_the_contribution_it_would_have(axis: int) -> None:
    rng = np.random.default_rng(0)
    m = rng.normal(size=(2, 4, 4))
    background = np.array([0.3, 0.2, 0.2, 0.3])
    shaped = background if axis == -1 else background[:, None]
    found = hypothetical_contributions(m, shaped, axis=axis)
    for letter in range(4):
        one_hot = np.eye(4)[letter] if axis == -1 else np.eye(4)[letter][:, None]
        expected = (m * (one_hot - shaped)).sum(axis=axis)
        np.testing.assert_allclose(np.take(found, letter, axis=axis), expected, rtol=1e-12)


def test_at_the_letters_of_the_input_they_are_its_contributions() -> None:
    rng = np.random.default_rng(1)
    m, letters = rng.normal(size=(5, 4)), rng.integers(4, size=5)
    x, background = np.eye(4)[letters], np.full(4, 0.25)
    contributions = (m * (x - background)).sum(axis=-1)
    found = hypothetical_contributions(m, background)
    np.testing.assert_allclose(found[np.arange(5), letters], contributions, rtol=1e-12)
