"""MNIST digit flip (DeepLIFT, arXiv 1704.02685, section 4.1): `python -m benchmarks.deeplift.digit_flip`.

Each method says which pixels speak for the image's class o against another class t, by the difference of their scores;
at most a fifth of the pixels, and only those with a positive difference, are erased. The better the method, the
further the difference of the logits, z_o - z_t, falls. Pixels are in 0..1 and the reference is black. Methods without
a sign of the input (|gradient|, guided backprop) count only where the pixel is not black.

The network is the paper's, trained by `train_digit_flip.py`; the images are the first 2,000 of MNIST's test set, from
the folder in ONNX_ATTRIBUTION_TEST_DATA (default: ../shared).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.deeplift.methods import Comparison, Inputs, Scores

MODEL = Path(__file__).parent / "digit_flip.onnx"
ERASED = 157  # a fifth of 28 * 28
PAIRS = ((8, 3), (8, 6), (9, 1), (4, 1))
METHODS = (
    "|gradient|",
    "guided backprop",
    "guided backprop * input",
    "gradient * input",
    "IG-5",
    "IG-10",
    "DeepLIFT Rescale",
    "DeepLIFT RevealCancel",
)
MASKED = ("|gradient|", "guided backprop")


def scores(comparison: Comparison, method: str, x: Inputs, digit: int) -> Scores:
    """The score of every pixel for a class."""
    if method == "|gradient|":
        return np.abs(comparison.scores("gradient", x, digit)) * (x > 0)
    found = comparison.scores(method, x, digit)
    return found * (x > 0) if method in MASKED else found


def flipped(x: Inputs, difference: Scores) -> Inputs:
    """The images without the pixels whose difference is among the largest `ERASED` and positive."""
    flat = difference.reshape(len(x), -1)
    threshold = np.maximum(-np.sort(-flat, axis=1)[:, ERASED], 0)
    return np.where((flat <= threshold[:, None]).reshape(x.shape), x, np.float32(0))


def fall(comparison: Comparison, method: str, x: Inputs, digit: int, other: int) -> Scores:
    """Per image how far `z_digit - z_other` falls when the method's pixels are erased."""
    difference = scores(comparison, method, x, digit) - scores(comparison, method, x, other)
    before, after = comparison.logits(x), comparison.logits(flipped(x, difference))
    return (before[:, digit] - before[:, other]) - (after[:, digit] - after[:, other])


def images() -> tuple[Inputs, NDArray[np.int64]]:
    """MNIST's first 2,000 test images, `[2000, 1, 28, 28]` in 0..1, and their digits."""
    folder = Path(os.environ.get("ONNX_ATTRIBUTION_TEST_DATA", "../shared"))
    file = folder / "models/_samples/mnist_t10k_first2000.npz"
    if not file.is_file():
        sys.exit(f"set ONNX_ATTRIBUTION_TEST_DATA to a folder that holds {file.relative_to(folder)}")
    data = np.load(file)
    return (data["x"][:, None] / np.float32(255)).astype(np.float32), data["y"]


def main() -> None:
    """Prints the median falls, a row for each pair, in Markdown."""
    x, y = images()
    with Comparison(MODEL) as comparison:
        right = float((comparison.logits(x).argmax(axis=1) == y).mean())
        print(
            f"{len(x):,} images, {100 * right:.1f} % classified rightly; medians of the fall of z_o - z_t\n"
        )
        print("| o -> t (images) | " + " | ".join(m.replace("|", r"\|") for m in METHODS) + " |")
        print("|" + "---|" * (len(METHODS) + 1))
        for digit, other in PAIRS:
            chosen = x[y == digit]
            falls = [np.median(fall(comparison, m, chosen, digit, other)) for m in METHODS]
            row = " | ".join(f"{value:.2f}" for value in falls)
            print(f"| {digit} -> {other} ({len(chosen)}) | {row} |", flush=True)


if __name__ == "__main__":
    main()
