"""Classes that are only described, and names for units: NIWT beside what else does that, on networks trained for it.

    python -m benchmarks.niwt composites           five seeds; writes benchmarks/niwt/results/composites.md and .json
    python -m benchmarks.niwt fashion              ten splits of Fashion-MNIST, whose files it asks for
    python -m benchmarks.niwt fashion --only 2     the first two; nothing is written

It needs torch (`make .venv-peers/stamp`, then .venv-peers/bin/python) where a network is not in the cache yet. A
network takes half a minute to train, what follows some seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.niwt.measure import Measured, measured
from benchmarks.niwt.problem import PROBLEMS, Problem
from benchmarks.niwt.report import page
from benchmarks.niwt.rivals import RIVALS, logits_of
from onnx_attribution.client.niwt.choose import Choice, Known, add, choose, guarded
from onnx_attribution.client.niwt.evaluation import Scores, scores
from onnx_attribution.client.niwt.minimise import Floats
from onnx_attribution.client.niwt.names import precision

RESULTS, CACHE = Path(__file__).parent / "results", Path(".niwt")
SHUFFLES = 2


def main(arguments: list[str]) -> int:
    """Prints each experiment as it is done."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.niwt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", choices=list(PROBLEMS))
    parser.add_argument("--only", type=int, help="so many seeds or splits; nothing is written")
    parser.add_argument("--cache", type=Path, default=CACHE, help="of trained networks and unpacked data")
    given = parser.parse_args(arguments)
    given.cache.mkdir(parents=True, exist_ok=True)
    found = []
    for problem in PROBLEMS[given.data](
        given.cache, given.only or {"composites": 5, "fashion": 10}[given.data]
    ):
        found.append(experiment(problem, given.cache))
    text = page(given.data, found)
    print("", text, sep="\n")
    if not given.only:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{given.data}.md").write_text(text)
        (RESULTS / f"{given.data}.json").write_text(json.dumps(found) + "\n")
    return 0


def experiment(problem: Problem, cache: Path) -> dict[str, Any]:
    """All methods on one network."""
    began = time.monotonic()
    file = cache / f"{problem.name}.onnx"
    if not file.is_file():
        from benchmarks.niwt.train import train  # needs torch

        train(*problem.training(), file, widths=problem.widths, epochs=problem.epochs, seed=problem.seed)
    trained = time.monotonic()
    known = measured(problem, file)
    layer, choice, best = chosen(known, problem.new, problem.seed)
    choice = guarded(best, len(problem.new), choice)
    table = {"NIWT": scored(problem, known, best, problem.new, choice)}
    for name, one in known.layers.items():
        at = choose(one, len(problem.new), seed=problem.seed)
        table[f"NIWT at {place(known, name)}"] = scored(problem, known, one, problem.new, at)
    for rival in RIVALS:
        for name, logits in logits_of(rival, best, problem.new, known.test, problem.seed).items():
            table[name] = scores(logits, problem.test_labels, len(problem.attributes))
    table |= shuffled(problem, known)
    named = precision(problem.attributes, known.alpha[layer], problem.labels, seed=problem.seed)
    found = {
        "name": problem.name, "seed": problem.seed, "unseen": problem.unseen, "layer": place(known, layer),
        "choice": asdict(choice), "scores": {name: asdict(one) for name, one in table.items()},
        "names": {
            "mean": named.mean, "null": float(np.nanmean(named.null)), "p": round(named.p, 4),
            "draws": [round(float(one), 4) for one in np.nanmean(named.null, axis=1)],
            "attributes": {
                name: [round(float(value), 4), round(float(p), 4)]
                for name, value, p in zip(problem.names, named.each, named.p_of_each, strict=True)
                if np.isfinite(value)
            },
        },
    }  # fmt: skip
    print(
        f"{problem.name}: trained {trained - began:.0f} s, the rest {time.monotonic() - trained:.0f} s",
        f"  at {found['layer']}, ridge {choice.ridge}, pull {choice.pull}, share {choice.share:.2f}, p {choice.p:.2f}",
        *(f"  {name:41}" + " ".join(f"{value:.3f}" for value in asdict(one).values()) for name, one in table.items()),
        f"  names: {named.mean:.3f}, null {np.nanmean(named.null):.3f}, p {named.p:.4f}",
        sep="\n", flush=True,
    )  # fmt: skip
    return found


def chosen(measured: Measured, new: Floats, seed: int) -> tuple[str, Choice, Known]:
    """The layer whose choice does best on classes held out."""
    best = max(
        ((name, choose(known, len(new), seed=seed), known) for name, known in measured.layers.items()),
        key=lambda one: one[1].harmonic,
    )
    return best


def place(measured: Measured, layer: str) -> str:
    """The layer in words."""
    return {0: "the last convolution", 1: "the convolution before"}[list(measured.layers)[::-1].index(layer)]


def scored(problem: Problem, measured: Measured, known: Known, new: Floats, choice: Choice) -> Scores:
    """The test images, by the head with the new classes."""
    added = add(known, new, choice)
    w, b = np.concatenate([known.weights, added.weights]), np.concatenate([known.offsets, added.offsets])
    return scores(measured.test @ w.T + b, problem.test_labels, len(known.weights))


def shuffled(problem: Problem, measured: Measured) -> dict[str, Scores]:
    """The means over descriptions that are dealt out to all classes anew; all else is done as before. Without the
    guard, an offset is chosen though the descriptions say nothing."""
    every = np.concatenate([problem.attributes, problem.new])
    found, unguarded = [], []
    for draw in range(SHUFFLES):
        dealt = every[np.random.default_rng([problem.seed, draw]).permutation(len(every))]
        old, new = dealt[: len(problem.attributes)], dealt[len(problem.attributes) :]
        other = replace(
            measured, layers={name: replace(one, attributes=old) for name, one in measured.layers.items()}
        )
        _, choice, known = chosen(other, new, problem.seed)
        unguarded.append(scored(problem, other, known, new, choice))
        found.append(scored(problem, other, known, new, guarded(known, len(new), choice)))
    return {
        "shuffled descriptions": mean_of(found), "shuffled descriptions, without the guard": mean_of(unguarded)
    }  # fmt: skip


def mean_of(found: Sequence[Scores]) -> Scores:
    """The mean of each score."""
    names = ("seen", "unseen", "harmonic", "unseen_only")
    return Scores(*(float(np.mean([getattr(one, name) for one in found])) for name in names))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
