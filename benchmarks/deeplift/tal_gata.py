"""Simulated TAL and GATA motifs (DeepLIFT, arXiv 1704.02685, section 4.2): `python -m benchmarks.deeplift.tal_gata`.

A network says of a DNA sequence whether it holds GATA and TAL motifs (task 0), GATA (task 1), TAL (task 2). False
negatives: of the good matches of a motif (log-odds of at least 7) in sequences that hold both, the share whose letters
together count nothing or less for task 0. Wrong tasks: the mean total of GATA matches for TAL and of TAL matches for
GATA, in sequences that hold that one motif alone, over the mean total for the right task; 0 is right.

The reference is the background's frequencies at every position; the last row takes ten dinucleotide-shuffled copies of
the sequence instead and averages. `train_tal_gata.py` trained the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.deeplift.methods import Comparison, Inputs, Scores
from benchmarks.deeplift.simulation import BACKGROUND, MOTIFS, Hit, Sequences, hits, simulate
from onnx_attribution.client.references import dinucleotide_shuffles

MODEL = Path(__file__).parent / "tal_gata.onnx"
TEST = (800, 1)  # sequences, seed
GOOD = 7.0
SHUFFLES = 10
METHODS = (
    "guided backprop * input",
    "gradient * input",
    "IG-10",
    "DeepLIFT Rescale",
    "DeepLIFT RevealCancel",
    "DeepLIFT, RevealCancel after dense",
)
OWN_TASK: Mapping[str, int] = {"GATA_disc1": 1, "TAL1_known1": 2}


def position_scores(comparison: Comparison, method: str, x: Inputs, task: int) -> Scores:
    """What each position, `[samples, 200]`, counts for a task."""
    baseline = BACKGROUND[:, None].astype(np.float32)
    summed: Scores = comparison.scores(method, x, task, baseline).sum(axis=1)
    return summed


def shuffled_scores(comparison: Comparison, method: str, x: Inputs, task: int) -> Scores:
    """The same, averaged over shuffled references of each sequence."""
    found = []
    for number, sequence in enumerate(x):
        references = dinucleotide_shuffles(sequence, SHUFFLES, axis=0, seed=number)
        repeated = np.broadcast_to(sequence, references.shape)
        found.append(comparison.scores(method, repeated, task, references).sum(axis=1).mean(axis=0))
    return np.stack(found)


def totals(scores: Scores, found: list[Hit], width: int) -> Scores:
    """The sum of the scores over each match."""
    return np.array([scores[hit.sequence, hit.start : hit.start + width].sum() for hit in found])


def good_hits(data: Sequences, motif: str, labels: tuple[int, int, int]) -> list[Hit]:
    """The good matches of a motif in the sequences of these labels."""
    chosen = (data.labels == np.array(labels)).all(axis=1)
    return [h for h in hits(data.one_hot, MOTIFS[motif]) if chosen[h.sequence] and h.log_odds >= GOOD]


def false_negatives(data: Sequences, scores: Scores, motif: str) -> tuple[int, int]:
    """How many good matches in sequences with both motifs count nothing or less for task 0, of how many."""
    found = good_hits(data, motif, (1, 1, 1))
    return int((totals(scores, found, len(MOTIFS[motif])) <= 0).sum()), len(found)


def spill(data: Sequences, right: Scores, wrong: Scores, motif: str) -> float:
    """The mean total for the other motif's task over that for the own one, in sequences with this motif alone."""
    found = good_hits(data, motif, (0, 1, 0) if OWN_TASK[motif] == 1 else (0, 0, 1))
    width = len(MOTIFS[motif])
    return float(totals(wrong, found, width).mean() / totals(right, found, width).mean())


def main() -> None:
    """Prints the table in Markdown."""
    data = simulate(*TEST)
    gata, tal = OWN_TASK  # the motifs' names
    with Comparison(MODEL) as comparison:
        right = ((comparison.logits(data.one_hot) > 0) == (data.labels > 0)).mean(axis=0)
        print(
            f"{TEST[0]} sequences; right for the three tasks: " + ", ".join(f"{100 * r:.1f} %" for r in right)
        )
        print(
            f"\n| method | {gata}: false negatives | {tal}: false negatives | {gata} for TAL | {tal} for GATA |"
        )
        print("|" + "---|" * 5)
        both = (data.labels[:, 0] > 0).nonzero()[0]
        for method in METHODS:
            tasks = [position_scores(comparison, method, data.one_hot, task) for task in range(3)]
            spills = (
                spill(data, tasks[1], tasks[2], gata),
                spill(data, tasks[2], tasks[1], tal),
            )
            print(_row(method, data, tasks[0], *(f"{s:.2f}" for s in spills)), flush=True)
        method = METHODS[-1]
        scores = np.zeros_like(tasks[0])
        scores[both] = shuffled_scores(comparison, method, data.one_hot[both], 0)
        print(_row(f"{method}, {SHUFFLES} shuffled references", data, scores, "", ""))


def _row(name: str, data: Sequences, scores: Scores, *rest: str) -> str:
    shares = [false_negatives(data, scores, motif) for motif in OWN_TASK]
    cells = [f"{100 * wrong / of:.2f} % of {of}" for wrong, of in shares]
    return "| " + " | ".join((name, *cells, *rest)) + " |"


if __name__ == "__main__":
    main()
