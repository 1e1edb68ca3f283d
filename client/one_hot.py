"""Hypothetical contributions of one-hot inputs: what each letter would contribute if it stood there."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def hypothetical_contributions(
    multipliers: ArrayLike, baseline: ArrayLike = 0.0, *, axis: int = -1
) -> NDArray[np.float64]:
    """`m_b - sum_c m_c baseline_c` for every letter b along `axis`: `sum_c m_c ([c = b] - baseline_c)`.

    `multipliers` are an answer's values with `multiply_by_inputs=False`; `baseline` broadcasts to them. At the letters
    of the input itself these are its contributions (Shrikumar et al., arXiv 1704.02685, as in TF-MoDISco).
    """
    m = np.asarray(multipliers, dtype=np.float64)
    reference = np.broadcast_to(np.asarray(baseline, dtype=np.float64), m.shape)
    return np.asarray(m - (m * reference).sum(axis=axis, keepdims=True))
