"""Nested Chebyshev levels on 0..1 and their spectral rules.

Level n has the n + 1 nodes (1 - cos(pi k / n)) / 2; those of level n are every other node of level 2 n. Of a path, the
integral of g dh is the bilinear form sum_ij products(n)[i, j] g_i h_j, the mean of g is sum_i weights(n)[i] g_i.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FINEST = 64


def nodes(level: int) -> Floats:
    """The nodes of a level, a power of two up to `FINEST`, ascending; those of all levels are the same numbers."""
    return _finest()[:: FINEST // level]


@functools.cache
def _finest() -> Floats:
    low = np.sin(np.pi * np.arange(FINEST // 2) / (2 * FINEST)) ** 2
    return np.concatenate([low, [0.5], 1 - low[::-1]])


@functools.cache
def weights(level: int) -> Floats:
    """Clenshaw and Curtis's weights: those of the mean of the polynomial through the nodes."""
    if level == 1:
        return np.array([0.5, 0.5])
    angle = np.pi * np.arange(1, level) / level
    inner = np.ones(level - 1) - np.cos(level * angle) / (level * level - 1)
    for j in range(1, level // 2):
        inner -= 2 * np.cos(2 * j * angle) / (4 * j * j - 1)
    end = 0.5 / (level * level - 1)
    return np.concatenate([[end], inner / level, [end]])


@functools.cache
def products(level: int) -> Floats:
    """`[i, j]`: what g_i h_j weighs in the integral of g dh, with h' of the polynomial through the nodes."""
    x = 2 * nodes(level) - 1
    signs = 1 / barycentric(level)
    apart = x[:, None] - x[None, :]
    slopes = (signs[:, None] / signs[None, :]) / (apart + np.eye(level + 1))
    slopes -= np.diag(slopes.sum(axis=1))
    return np.asarray(weights(level)[:, None] * 2 * slopes)


@functools.cache
def barycentric(level: int) -> Floats:
    """The weights of barycentric interpolation: no polynomial of less than `level` degrees has a sum over them."""
    signs = np.where(np.arange(level + 1) % 2, -1.0, 1.0)
    signs[[0, -1]] /= 2
    return signs


@functools.cache
def jumps(level: int) -> Floats:
    """`[2, i]`: how far the first and the last value, taken away, are from what the others extrapolate to."""
    w = barycentric(level)
    return np.stack([-w / w[0], -w / w[-1]])


@functools.cache
def coefficients(level: int) -> Floats:
    """`[degree, i]`: those of the Chebyshev polynomials of which the polynomial through the nodes is the sum."""
    found = np.cos(np.outer(np.arange(level + 1), np.pi * np.arange(level + 1) / level)) * 2 / level
    found[:, [0, -1]] /= 2
    found[[0, -1]] /= 2
    return np.asarray(found)
