"""How alike two maps are: against scipy and skimage themselves, on maps of every size, and where there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.randomisation import permuted
from onnx_attribution.client.audit.metrics.sensitivity import compared
from onnx_attribution.client.audit.metrics.similarity import (
    NAMES,
    hog,
    picture,
    similarities,
    spearman,
    spearman_absolute,
    ssim,
    unit_range,
)
from onnx_attribution.errors import InvalidArgument

SHAPES = [
    (1,),
    (2,),
    (7,),
    (40,),
    (1, 1),
    (2, 2),
    (1, 2, 2),
    (3, 4),
    (1, 8, 8),
    (3, 11, 30),
    (1, 1, 40),
    (4, 5, 6, 7),
]


def test_ranks_are_scipys_with_ties(rng: np.random.Generator) -> None:
    x, y = rng.integers(-3, 4, (2, 5, 9)).astype(float)
    assert spearman(x, y) == pytest.approx(spearmanr(x.ravel(), y.ravel())[0])
    assert spearman_absolute(x, y) == pytest.approx(spearmanr(np.abs(x).ravel(), np.abs(y).ravel())[0])


def test_ssim_is_skimages_with_the_window_of_its_paper(rng: np.random.Generator) -> None:
    x, y = rng.random((2, 16, 20))
    wanted = structural_similarity(x, y, data_range=1.0, gaussian_weights=True)  # sigma 1.5, 11 x 11
    assert ssim(x, y) == pytest.approx(float(wanted))


def test_one_window_is_the_formula_of_the_paper() -> None:
    x, y = np.array([[0.0, 1.0], [0.5, 0.25]]), np.array([[0.25, 0.75], [0.5, 0.0]])
    mx, my, c1, c2 = 0.4375, 0.375, 1e-4, 9e-4
    covariance = np.mean((x - mx) * (y - my))
    wanted = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (x.var() + y.var() + c2))
    assert ssim(x, y) == pytest.approx(wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_map_is_like_itself_whatever_its_size(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    own = similarities(x := rng.normal(size=shape), x)
    assert set(own) == set(NAMES)
    if x.size == 1:
        return  # which is constant
    sides = [n for n in (shape[1:] if len(shape) > 2 else shape) if n != 1]
    for name, value in own.items():
        if name == "hog" and (len(sides) != 2 or min(sides) < 3):
            assert math.isnan(value)
        else:
            assert value == pytest.approx(1.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("level", [0.0, -2.5])
def test_constant_maps_have_no_similarity(
    shape: tuple[int, ...], level: float, rng: np.random.Generator
) -> None:
    constant = np.full(shape, level)
    for other in (constant, np.zeros(shape), rng.normal(size=shape)):
        for pair in ((constant, other), (other, constant)):
            assert all(math.isnan(value) for value in similarities(*pair).values())
            assert math.isnan(spearman(*pair))


def test_maps_of_several_inputs_are_ranked_together(rng: np.random.Generator) -> None:
    left, right = ([rng.normal(size=n) for n in (1, 1, 3, 2)] for _ in range(2))
    found = similarities(left, right, names=NAMES[:2])
    x, y = np.concatenate(left), np.concatenate(right)
    assert found["spearman"] == pytest.approx(spearmanr(x, y)[0])
    assert found["spearman_absolute"] == pytest.approx(spearmanr(np.abs(x), np.abs(y))[0])


def test_pictures_of_several_inputs_have_one_range_and_count_alike(rng: np.random.Generator) -> None:
    (a, b), (c, d) = ([rng.random((12, 12)), 10 * rng.random((14, 14))] for _ in range(2))

    def unit(values: Floats, whole: Floats) -> Floats:
        return np.asarray(values / whole.max())

    wanted = [
        structural_similarity(unit(x, b), unit(y, d), data_range=1.0, gaussian_weights=True)
        for x, y in ((a, c), (b, d))
    ]
    assert similarities([a, b], [c, d])["ssim"] == pytest.approx(float(np.mean(wanted)))
    # a row has no histograms of gradients: the other input alone has a number
    row = rng.random(5)
    assert similarities([row, b], [row, d])["hog"] == pytest.approx(similarities([b], [d])["hog"])


def test_of_one_number_each_input_has_no_similarity_and_all_together_have() -> None:
    maps = {name: np.array([[value]]) for name, value in (("age", 3.0), ("fare", -1.0), ("sex", 0.5))}
    same = compared(maps, maps, names=("spearman", "ssim"))
    assert same == {"spearman": [pytest.approx(1.0)], "ssim": [pytest.approx(1.0)]}
    (alone,) = compared({"age": maps["age"]}, {"age": maps["age"]}, names=("spearman",))["spearman"]
    assert math.isnan(alone)
    with pytest.raises(InvalidArgument, match="samples"):
        compared({"age": np.zeros((2, 1))}, {"age": np.zeros((3, 1))})


def test_random_maps_of_several_inputs_hold_the_numbers_of_all(rng: np.random.Generator) -> None:
    maps = {"x": rng.normal(size=(4, 1)), "y": rng.normal(size=(4, 2, 3))}
    found = permuted(maps)
    assert [found[name].shape for name in maps] == [(4, 1), (4, 2, 3)]
    own, other = (np.concatenate([one[n].reshape(4, -1) for n in "xy"], axis=1) for one in (maps, found))
    np.testing.assert_array_equal(np.sort(own), np.sort(other))
    assert (own != other).any()
    assert not np.array_equal(found["x"], maps["x"])


def test_random_maps_are_near_0_by_ranks(rng: np.random.Generator) -> None:
    found = [spearman(*rng.normal(size=(2, 28, 28))) for _ in range(50)]
    # the mean of 50, each with the standard deviation 1 / sqrt(783)
    assert abs(np.mean(found)) < 4 / math.sqrt(783 * 50)


def test_signs_count_for_ranks_and_not_for_magnitudes(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1, 8, 8))
    found = similarities(x, -x)
    assert found["spearman"] == pytest.approx(-1)
    assert [found[name] for name in NAMES[1:]] == pytest.approx([1, 1, 1])


def test_the_sign_of_a_whole_map_is_not_where_it_lies(rng: np.random.Generator) -> None:
    x = np.abs(rng.normal(size=(1, 8, 8)))
    assert similarities(x, -2 * x)["spearman"] == pytest.approx(1.0)
    assert spearman(x, -2 * x) == pytest.approx(-1.0)


def test_histograms_of_gradients_see_edges_turn() -> None:
    rows = np.tile(np.linspace(0, 1, 16) ** 2, (16, 1))
    assert hog(rows, rows * 0.5) == pytest.approx(1.0)
    assert hog(rows, rows.T) < 0.1


def test_channels_are_summed_or_the_largest_is_taken() -> None:
    values = np.array([[[1.0, -3.0]], [[-2.0, 1.0]]])
    np.testing.assert_array_equal(picture(values), [[-1.0, -2.0]])
    np.testing.assert_array_equal(picture(values, "absmax"), [[-2.0, -3.0]])
    with pytest.raises(InvalidArgument, match="absmax"):
        picture(values, "mean")  # type: ignore[arg-type]


def test_a_percentile_cuts_what_is_beyond() -> None:
    values = np.r_[np.arange(100.0), -1000.0]
    assert unit_range(values)[99] == pytest.approx(0.099)
    assert unit_range(values, 99)[99] == 1.0
    np.testing.assert_array_equal(unit_range(np.r_[np.zeros(99), 2.0], 50)[-2:], [0.0, 1.0])
    with pytest.raises(InvalidArgument, match="percentile"):
        unit_range(values, 0)


def test_shapes_that_differ_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"\[2\] and \[3\]"):
        similarities(np.zeros(2), np.zeros(3))
    with pytest.raises(InvalidArgument, match="not finite"):
        similarities(np.array([np.nan, 1.0]), np.zeros(2))
