"""One experiment: a network of some classes, and others that are only described."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.niwt import composites, fashion
from onnx_attribution.client.niwt.classes import read_classes
from onnx_attribution.client.niwt.minimise import Floats

HELD, TESTED = 30, 400

Training = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Problem:
    """Labels count the seen classes first, then the unseen ones.

    `images` are of seen classes, and neither trained on nor tested on; `attributes` are those of the seen classes,
    `new` those of the unseen ones. `training` makes images and labels to train on.
    """

    name: str
    seed: int
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    attributes: Floats
    new: Floats
    names: tuple[str, ...]
    training: Callable[[], Training]
    widths: tuple[int, ...]
    epochs: int
    unseen: str


def of_composites(cache: Path, seeds: int) -> Iterator[Problem]:
    """54 of 72 composites are seen; network, images and split differ from seed to seed."""
    described = composites.descriptions()
    for seed in range(seeds):
        seen, unseen = composites.split(seed)
        order = np.array([*seen, *unseen])
        held, tested = np.repeat(np.arange(len(seen)), HELD), np.repeat(np.arange(len(order)), 50)

        def training(seed: int = seed, order: NDArray[np.int64] = order, count: int = len(seen)) -> Training:
            labels = np.repeat(np.arange(count), 250)
            return composites.drawn(order[labels], 1000 + seed), labels

        yield Problem(
            f"composites-{seed}", seed,
            composites.drawn(order[held], 3000 + seed), held,
            composites.drawn(order[tested], 2000 + seed), tested,
            described[seen], described[unseen], composites.ATTRIBUTES, training, (16, 32, 64, 64), 5,
            f"{len(unseen)} of {len(order)}",
        )  # fmt: skip


def of_fashion(cache: Path, splits: int) -> Iterator[Problem]:
    """Eight of ten classes are seen."""
    place = fashion.folder(cache)
    x, y = fashion.load(place, "train")
    tx, ty = fashion.load(place, "t10k")
    table = read_classes(fashion.DESCRIPTIONS)
    for seed, pair in enumerate(fashion.SPLITS[:splits]):
        order = [*(c for c in range(10) if c not in pair), *pair]
        to = np.argsort(order)
        rows = [table.row_of(c) for c in order]
        held, tested = fashion.first(y, order[:8], 2000, 2300), fashion.first(ty, order, 0, TESTED)

        taken = fashion.first(y, order[:8], 0, 2000)

        def training(rows: NDArray[np.int64] = taken, to: NDArray[np.int64] = to) -> Training:
            return x[rows], to[y[rows]]

        yield Problem(
            f"fashion-{pair[0]}{pair[1]}", seed,
            x[held], to[y[held]], tx[tested], to[ty[tested]],
            table.values[rows[:8]], table.values[rows[8:]], table.attributes, training, (16, 32, 64), 3,
            " and ".join(table.names[r] for r in rows[8:]),
        )  # fmt: skip


PROBLEMS = {"composites": of_composites, "fashion": of_fashion}
