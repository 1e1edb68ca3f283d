"""Classes that are only described: what is chosen on classes held out, and what is added."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from onnx_attribution.client.niwt.choose import Choice, Known, _beside, add, choose, folds, guarded
from onnx_attribution.client.niwt.evaluation import harmonic, harmonics, offset_at, ranking, scores


def world(classes: int = 20, seed: int = 0) -> tuple[Known, np.ndarray, np.ndarray, np.ndarray]:
    """Features that are linear in attributes, and a head behind a mean over positions; two classes are left out."""
    random = np.random.default_rng(seed)
    every = np.array(list(product((0.0, 1.0), repeat=6)))
    attributes, n = every[random.permutation(len(every))[:classes]], classes
    centres = (attributes - 0.5) @ random.normal(size=(6, 16))
    labels = np.repeat(np.arange(n), 20)
    features = centres[labels] + random.normal(0, 0.6, (len(labels), 16))
    weights = centres - centres.mean(axis=0)
    offsets = -(weights * (centres + centres.mean(axis=0)) / 2).sum(axis=1)
    seen = labels < n - 2
    known = Known(
        attributes[:-2], weights[:-2], weights[:-2], offsets[:-2] - offsets[:-2].mean(), np.eye(16)[None],
        np.array([-1]), features[seen], labels[seen],
    )  # fmt: skip
    return known, attributes[-2:], features, labels


def chosen(known: Known) -> Choice:
    return choose(known, 2, ridges=(0.5,), pulls=(0.1,), seed=5)


def test_described_classes_are_recognised() -> None:
    known, attributes, features, labels = world()
    added = add(known, attributes, choose(known, 2, ridges=(0.2, 2.0), pulls=(0.1,)))
    logits = np.concatenate(
        [features @ known.weights.T + known.offsets, features @ added.weights.T + added.offsets], axis=1
    )
    found = scores(logits, labels, len(known.weights))
    assert found.harmonic > 0.6
    assert found.unseen_only > 0.9
    np.testing.assert_allclose(
        np.linalg.norm(added.weights, axis=1), np.linalg.norm(known.weights, axis=1).mean()
    )


def test_descriptions_that_are_shuffled_are_of_no_use() -> None:
    known, _, _, _ = world()
    order = np.random.default_rng(1).permutation(len(known.attributes))
    wrong = replace(known, attributes=known.attributes[order])
    assert chosen(wrong).harmonic < chosen(known).harmonic - 0.1


def test_the_share_of_the_known_images_stays_with_known_classes() -> None:
    known, attributes, _, _ = world()
    choice = replace(chosen(known), share=0.8)
    added = add(known, attributes, choice)
    old = known.features @ known.weights.T + known.offsets
    new = known.features @ added.weights.T + added.offsets
    assert (old.max(axis=1) > new.max(axis=1)).mean() == pytest.approx(0.8, abs=0.01)


def test_at_a_share_of_1_no_known_image_is_taken_even_in_float32() -> None:
    for seed in range(12):
        known, attributes, _, _ = world(seed=seed)
        made = add(known, attributes, Choice(0.5, 0.1, 1.0, 0.5, 8, 0))
        features = known.features.astype(np.float32)
        old = features @ known.weights.astype(np.float32).T + known.offsets.astype(np.float32)
        new = features @ made.weights.astype(np.float32).T + made.offsets.astype(np.float32)
        assert (old.max(axis=1) > new.max(axis=1)).all(), seed
        nearest = (old.max(axis=1) - new.max(axis=1)).min()
        assert nearest < 1e-3 * np.abs(old).max()  # and it is no lower than need be


def test_the_choice_is_the_same_each_time() -> None:
    known, _, _, _ = world()
    assert chosen(known) == chosen(known)


@pytest.mark.parametrize(("classes", "held"), [(8, 2), (54, 18), (5, 1), (3, 4)])
def test_each_class_is_held_out_as_often_as_another(classes: int, held: int) -> None:
    found = list(folds(classes, held, 0))
    counts = np.bincount(np.concatenate(found), minlength=classes)
    assert len(set(counts.tolist())) == 1
    assert all(0 < len(one) < classes for one in found)
    assert len(found) >= 8


def test_what_is_learnt_of_held_classes_lies_beside_the_others() -> None:
    random = np.random.default_rng(0)
    others, rows = random.normal(size=(4, 7)), random.normal(size=(2, 7))
    found = _beside(rows, others)
    np.testing.assert_allclose(found.T @ found, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(others @ found, 0, atol=1e-12)
    assert _beside(others[:2], others).shape == (7, 0)


def test_scores_are_means_over_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 2, 2, 3])
    said = np.array([0, 0, 1, 2, 1, 2, 0, 2])
    logits = np.eye(4)[said] + 0.1 * np.eye(4)[labels]
    found = scores(logits, labels, 2)
    assert found.seen == (0.5 + 1) / 2
    assert found.unseen == (0.5 + 0) / 2
    assert found.harmonic == pytest.approx(2 * 0.75 * 0.25)
    assert found.unseen_only == (1 + 0) / 2  # the last image says 2 among 2 and 3
    assert harmonic(0.0, 0.7) == 0


def test_harmonics_at_a_share_are_those_at_its_offset() -> None:
    random = np.random.default_rng(0)
    known, new, labels = random.normal(size=(90, 4)), random.normal(size=(90, 2)), np.arange(90) % 6
    shares = np.array([0.3, 0.62, 0.9])
    old = labels < 4
    for share, found in zip(shares, harmonics(shares, known, new, labels), strict=True):
        offset = offset_at(share, known[old], new[old])
        assert found == pytest.approx(
            scores(np.concatenate([known, new + offset], axis=1), labels, 4).harmonic
        )


def test_descriptions_are_held_against_shuffled_ones() -> None:
    known, attributes, _, _ = world(classes=14)
    asked = guarded(known, 2, replace(chosen(known), share=0.9))
    assert asked.p <= 0.05
    assert asked.informative
    assert asked.share == 0.9
    order = np.random.default_rng(3).permutation(len(known.attributes))  # of twenty, one does as well
    wrong = replace(known, attributes=known.attributes[order])
    refused = guarded(wrong, 2, chosen(wrong))
    assert not refused.informative
    added = add(wrong, attributes, refused)
    old = wrong.features @ wrong.weights.T + wrong.offsets
    new = wrong.features @ added.weights.T + added.offsets
    assert (old.max(axis=1) >= new.max(axis=1) - 1e-9).all()


def test_ranking_counts_images_of_a_class_before_those_of_others_whatever_the_offset() -> None:
    random = np.random.default_rng(7)
    known, new = (np.round(4 * random.normal(size=(40, size))) / 4 for size in (3, 2))
    labels = random.integers(5, size=40)
    areas = []
    for c in (0, 1):
        above = new[:, c] - np.maximum(known.max(axis=1), new[:, 1 - c])
        pairs = [(a, b) for a in above[labels == 3 + c] for b in above[labels != 3 + c]]
        areas.append(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))
    assert ranking(known, new, labels) == pytest.approx(np.mean(areas))
    assert ranking(known, new[:, :1], labels) == pytest.approx(ranking(known, new[:, :1] + 5, labels))
    perfect = np.where(labels[:, None] == [3, 4], 9.0, -9.0)
    assert ranking(known, perfect, labels) == 1
    assert ranking(known, -perfect[:, :1], labels) == 0
    assert ranking(known, new, np.zeros(40, int)) == 0.5  # no image is of a new class


def test_of_many_classes_some_are_never_held_out() -> None:
    found = list(folds(500, 2, 0))
    assert len(found) == 24
    assert len({k for one in found for k in one}) == 48


def test_the_first_stage_may_have_a_hidden_layer() -> None:
    known, attributes, _, _ = world(classes=14)
    choice = choose(known, 2, ridges=(0.5,), pulls=(0.1,), hidden=6)
    added = add(known, attributes, choice)
    assert choice.hidden == 6
    linear = add(known, attributes, replace(choice, hidden=0))
    assert np.abs(added.importance - linear.importance).max() > 1e-3
    assert (add(known, attributes, choice).weights == added.weights).all()
