from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from onnx_attribution.client.references import blurred, dinucleotide_shuffles, mean_of
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.values import Array


def one_hot(letters: str) -> Array:
    return np.eye(4, dtype=np.float32)[["ACGT".index(k) for k in letters]]


def words(sequences: Array) -> list[str]:
    return ["".join("ACGT"[k] for k in s.argmax(axis=-1)) for s in sequences]


def pairs(word: str) -> Counter[str]:
    return Counter(a + b for a, b in itertools.pairwise(word))


def test_shuffles_keep_every_pair_and_both_ends() -> None:
    word = "".join("ACGT"[k] for k in np.random.default_rng(0).integers(4, size=200))
    found = words(dinucleotide_shuffles(one_hot(word), 20))
    assert all(pairs(w) == pairs(word) for w in found)
    assert {(w[0], w[-1]) for w in found} == {(word[0], word[-1])}
    assert len({*found, word}) == 21


def test_every_order_with_the_same_pairs_is_as_likely() -> None:
    word = "ACAGATCA"
    orders = {"".join(p) for p in itertools.permutations(word)}
    possible = {o for o in orders if pairs(o) == pairs(word) and o[0] == "A"}
    count = 400 * len(possible)
    found = Counter(words(dinucleotide_shuffles(one_hot(word), count, seed=3)))
    assert set(found) == possible
    # the chi-squared statistic exceeds its mean by five standard deviations once in a million
    freedom = len(possible) - 1
    assert sum((n - 400) ** 2 / 400 for n in found.values()) < freedom + 5 * np.sqrt(2 * freedom)


def test_shuffles_follow_the_axis_of_the_letters_and_the_seed() -> None:
    sequence = one_hot("GATTACAGATTACA")
    along = dinucleotide_shuffles(sequence, 3, seed=7)
    across = dinucleotide_shuffles(sequence.T, 3, axis=0, seed=7)
    assert along.shape == (3, 14, 4)
    assert np.array_equal(across, along.transpose(0, 2, 1))
    assert not np.array_equal(along, dinucleotide_shuffles(sequence, 3, seed=8))


@pytest.mark.parametrize("word", ["A", "AC", "AAAA", "ACGT"])
def test_sequences_with_one_order_stay(word: str) -> None:
    assert words(dinucleotide_shuffles(one_hot(word), 2)) == [word, word]


def test_unusable_sequences_are_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="two axes, positions and letters, not 3"):
        dinucleotide_shuffles(np.zeros((1, 5, 4)), 1)
    with pytest.raises(InvalidArgument, match="count must be at least 1, not 0"):
        dinucleotide_shuffles(one_hot("ACGT"), 0)
    with pytest.raises(InvalidArgument, match=r"the sequence is empty: it has shape \[0, 4\]"):
        dinucleotide_shuffles(np.zeros((0, 4)), 1)
    with pytest.raises(InvalidArgument, match=r"no samples: the data has shape \[0, 4\]"):
        mean_of(np.zeros((0, 4)))


def test_a_blur_is_a_sum_over_the_gaussian() -> None:
    image = np.random.default_rng(0).normal(size=(1, 3, 31, 31)).astype(np.float32)
    offsets = np.arange(-8, 9)
    weights = np.exp(-(offsets**2) / (2 * 2.0**2))
    weights /= weights.sum()
    expected = sum(
        a * b * image[0, 1, 15 + i, 15 + j]
        for i, a in zip(offsets, weights, strict=True)
        for j, b in zip(offsets, weights, strict=True)
    )
    found = blurred(image, 2.0)
    assert found.dtype == np.float32
    assert found[0, 1, 15, 15] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InvalidArgument, match="sigma must be positive, not 0"):
        blurred(image, 0)


def test_a_mean_is_of_the_samples_and_keeps_the_type() -> None:
    data = np.array([[1, 2], [3, 6]], dtype=np.float32)
    assert mean_of(data).dtype == np.float32
    assert mean_of(data).tolist() == [2, 4]
