"""What is drawn of an attribution: sums that are its own, ranges that are stated, and nothing empty that is not."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_attribution.client.render.maps import (
    cells_of,
    emptiness,
    extremes,
    heat_of,
    missing,
    positions_of,
    range_of,
    strongest,
    tokens_of,
)


def test_positions_sum_over_all_other_axes(rng: np.random.Generator) -> None:
    values = rng.normal(size=(2, 5, 3))
    np.testing.assert_allclose(positions_of(values, 1).values, values.sum(axis=(0, 2)))
    assert positions_of(values, 1).words == "by position, summed over 6 units"


def test_sums_that_cancel_give_way_to_magnitudes_and_say_so(rng: np.random.Generator) -> None:
    one = rng.normal(size=(1, 4, 5))
    both = np.concatenate([one, -one])
    heat = heat_of(both, channels_last=False)
    np.testing.assert_allclose(heat.values, np.abs(both).sum(axis=0))
    assert "magnitudes" in heat.notes[0]
    assert heat_of(np.zeros((2, 4, 5)), channels_last=False).notes == ()


@pytest.mark.parametrize("shape", [(2048, 257), (231, 1), (7, 5000), (460, 690)])
def test_cells_keep_the_sum_and_every_number(shape: tuple[int, int]) -> None:
    for place in ((0, 0), (shape[0] // 2, shape[1] // 2), (shape[0] - 1, shape[1] - 1)):
        values = np.zeros(shape)
        values[place] = 3.0
        cells = cells_of(heat_of(values, channels_last=False), 230, 690, square=False)
        assert cells.values.shape[0] <= 230
        assert cells.values.shape[1] <= 690
        assert cells.values.sum() == cells.values.max() == 3
        assert cells.notes[0].startswith("each cell is the sum of")


def test_small_maps_have_no_cells(rng: np.random.Generator) -> None:
    heat = heat_of(rng.normal(size=(224, 224)), channels_last=False)
    assert cells_of(heat, 230, 230, square=True) is heat


def test_the_range_is_the_largest_unless_few_are_far_larger(rng: np.random.Generator) -> None:
    values = rng.normal(size=(50, 50))
    assert range_of(values) == (np.abs(values).max(), ())
    values[3, 4] = -1e4
    limit, notes = range_of(values)
    assert limit == pytest.approx(np.percentile(np.abs(values), 99), rel=1e-3)  # all but rounding is counted
    assert notes == ("colours end at percentile 99, the largest is 1e+04",)


def test_rounding_is_not_counted_in_the_percentile(rng: np.random.Generator) -> None:
    values = rng.normal(size=10_000) * 1e-12
    values[:20] = 1.0
    assert range_of(values) == (1.0, ())


def test_zeros_and_numbers_that_are_not_finite_have_a_range() -> None:
    for values in (np.zeros((2, 2)), np.full((2, 2), np.nan), np.zeros((0, 2))):
        assert range_of(values) == (1.0, ())
    assert range_of(np.array([np.inf, 2.0, np.nan])) == (2.0, ())


def test_what_cannot_be_seen_is_said() -> None:
    assert emptiness(np.zeros((0, 3))) == "no units"
    assert emptiness(np.zeros(3)) == "all attributions are 0"
    assert emptiness(np.full(3, np.nan)) == "no finite numbers"
    assert emptiness(np.array([0, 1e-300])) == ""
    assert missing(np.array([1, np.nan, np.inf])) == ("2 of 3 are not finite",)
    assert missing(np.ones(3)) == ()


def test_extremes_of_blocks_keep_both_signs() -> None:
    values = np.array([1.0, -2, 0, 5, -1, np.nan, -3])
    high, low, size = extremes(values, 3)
    assert size == 3
    assert high.tolist() == [1, 5, 0]
    assert low.tolist() == [-2, -1, -3]
    assert extremes(values, 7)[2] == 1


def test_the_strongest_positions_come_first_and_zeros_never() -> None:
    assert strongest(np.array([0, -3, 1, np.nan, 2.0]), 10) == [1, 4, 2]
    assert strongest(np.array([0, -3, 1, np.nan, 2.0]), 1) == [1]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((5, 8), 0),
        ((8, 5), 1),
        ((5,), 0),
        ((1, 5, 8), 1),
        ((2, 5, 8), 1),
        ((5, 5), 0),
        ((8, 8), None),
        ((2, 5, 5), None),
        ((), None),
    ],
)
def test_tokens_lie_along_the_axis_of_their_length(shape: tuple[int, ...], axis: int | None) -> None:
    found = tokens_of("x", shape, {"ids": np.arange(10).reshape(2, 5)}, 1, is_map=False)
    assert (found.axis if found is not None else None) == axis
    if found is not None:
        assert found.labels == ("5", "6", "7", "8", "9")


def test_pictures_have_no_positions() -> None:
    ids = {"ids": np.arange(5)[None]}
    assert tokens_of("x", (3, 5, 8), ids, 0, is_map=True) is None
    assert tokens_of("x", (5, 8), ids, 0, is_map=True) is not None


def test_an_input_has_its_own_tokens_before_those_of_others() -> None:
    tokens = {"a": np.zeros((1, 5), int), "b": np.ones((1, 5), int)}
    for layer, name in (("b", "b"), ("a", "a"), ("hidden", "a")):
        found = tokens_of(layer, (5, 8), tokens, 0, is_map=False)
        assert found is not None
        assert found.input == name


def test_bytes_are_written_as_characters() -> None:
    ids = np.array([[72, 32, 10, 255, 256]])
    for tokens, shape in ((ids, (5, 257)), (ids.clip(max=255).astype(np.uint8), (5, 16))):
        found = tokens_of("x", shape, {"bytes": tokens}, 0, is_map=False)
        assert found is not None
        assert found.labels[:4] == ("H", "␣", "0ah", "ffh")
    numbers = tokens_of("x", (5, 16), {"ids": ids}, 0, is_map=False)
    assert numbers is not None
    assert numbers.labels == ("72", "32", "10", "255", "256")
