"""Fashion-MNIST with two of its ten classes held back, ten times over: class c and the third after it.

So each class is held back twice, and no split was chosen. The descriptions are twelve attributes in fashion.csv.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILES = "usr/share/datasets/fashion-mnist"
PACKAGE = "dataset-fashion-mnist"
DESCRIPTIONS = Path(__file__).parent / "fashion.csv"
SPLITS = tuple((c, (c + 3) % 10) for c in range(10))


def folder(cache: Path) -> Path:
    """Where the data set lies: where the package of Debian puts it, or unpacked in the cache."""
    for root in (Path("/"), cache):
        if (root / FILES / "train-images-idx3-ubyte.gz").is_file():
            return root / FILES
    sys.exit(
        f"Fashion-MNIST (31 MB) is not here: `apt install {PACKAGE}`, or without root `apt-get download {PACKAGE} && "
        f"dpkg -x {PACKAGE}_*.deb {cache}`."
    )


def load(place: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images `[N, 1, 28, 28]` in 0..1 and their classes; the part is "train" or "t10k"."""
    images = gzip.decompress((place / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((place / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return (pixels / np.float32(255)).astype(np.float32), np.frombuffer(labels, np.uint8, offset=8).astype(
        np.int64
    )


def first(labels: NDArray[np.int64], classes: list[int], start: int, stop: int) -> NDArray[np.int64]:
    """Which images are the start-th to the stop-th of some classes."""
    return np.concatenate([np.flatnonzero(labels == c)[start:stop] for c in classes])
