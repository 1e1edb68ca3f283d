"""Targets of several elements: masks, weights and regions, against finite differences of the network in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import AttributionError, InvalidArgument
from onnx_attribution.server.cli.target import parse_target
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import References, Selection, Target
from tests.method_names import METHODS
from tests.methods.toys import Floats, ask, model, values

rng = np.random.default_rng(5)
K = rng.normal(size=(3, 2))
X = rng.normal(size=(2, 2, 2, 4))
MASK = np.array([[True, False, True, True], [False, False, True, False]])
WEIGHTS = rng.normal(size=(3, 2, 4))
FULL = np.zeros((3, 2, 4), bool)
FULL[1] = MASK
SEGMENTS = """(double[N,2,2,4] x) => (double[N,3,2,4] p) {
    rows = Transpose<perm = [0, 2, 3, 1]>(x)
    scores = MatMul(rows, K)
    back = Transpose<perm = [0, 3, 1, 2]>(scores)
    p = Softmax<axis = 1>(back)
}"""


def segments(x: Floats) -> Floats:
    scores = np.einsum("oi,ihw->ohw", K, x)
    raised = np.exp(scores - scores.max(axis=0))
    return np.asarray(raised / raised.sum(axis=0))


def slope(function: Callable[[Floats], Any], x: Floats, step: float = 1e-6) -> Floats:
    """The gradient of a number by central differences."""
    found = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[at] = step
        found[at] = (function(x + moved) - function(x - moved)) / (2 * step)
    return found


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("segments", model(SEGMENTS, K=K.T))
        yield made


def gradient(engine: Engine, index: Selection, count: int = 1, minus: Selection = None) -> Floats:
    return values(
        ask(engine, "segments", {"x": X[:count]}, "gradient", target=Target(index=index, minus=minus))
    )


PLACES = [(1, int(a), int(b)) for a, b in np.argwhere(MASK)]
FORMS: dict[str, Any] = {
    "mask in a tuple": (1, MASK),
    "mask of all": FULL,
    "mask of all as a tuple": (FULL,),
    "weights": FULL.astype(np.float64),
    "weights in half precision": FULL.astype(np.float16),
    "elements": PLACES,
    "elements as rows": np.array(PLACES),
    "elements in a list": [PLACES],
    "elements counted from the end": [(-2, a - 2, b - 4) for _, a, b in PLACES],
    "parts": [(1, 0, slice(2, None)), (1, 1, 2), (1, 0, 0)],
    "masks along their own axes": (np.array([False, True, False]), MASK),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_irregular_region_in_any_form_has_the_gradient_of_its_sum(engine: Engine, form: str) -> None:
    expected = slope(lambda x: segments(x)[1][MASK].sum(), X[0])
    np.testing.assert_allclose(gradient(engine, FORMS[form]), [expected], atol=1e-8)


def test_weights_of_any_sign_have_the_gradient_of_the_weighted_sum(engine: Engine) -> None:
    expected = [slope(lambda x: (segments(x) * WEIGHTS).sum(), x) for x in X]
    np.testing.assert_allclose(gradient(engine, WEIGHTS, 2), expected, atol=1e-8)


@pytest.mark.parametrize(
    "index",
    [
        np.stack([WEIGHTS, WEIGHTS * FULL]),
        [WEIGHTS, WEIGHTS * FULL],
    ],
    ids=["stacked", "in a list"],
)
def test_each_sample_may_have_weights_of_its_own(engine: Engine, index: Selection) -> None:
    expected = [
        slope(lambda x, w=w: (segments(x) * w).sum(), x)  # type: ignore[misc]
        for x, w in zip(X, (WEIGHTS, WEIGHTS * FULL), strict=True)
    ]
    np.testing.assert_allclose(gradient(engine, index, 2), expected, atol=1e-8)


def test_each_sample_may_have_a_mask_or_a_region_of_its_own(engine: Engine) -> None:
    other = (slice(0, 2), ~MASK)
    expected = [
        slope(lambda x: segments(x)[1][MASK].sum(), X[0]),
        slope(lambda x: segments(x)[:2][:, ~MASK].sum(), X[1]),
    ]
    both: list[Any] = [[(1, MASK), other], [PLACES, other]]
    for index in both:
        np.testing.assert_allclose(gradient(engine, index, 2), expected, atol=1e-8)
    stacked = np.stack([FULL, np.zeros_like(FULL)])
    stacked[1, :2] = ~MASK
    np.testing.assert_allclose(gradient(engine, stacked, 2), expected, atol=1e-8)


def test_tuples_of_two_samples_are_one_for_each_and_a_region_is_a_list_in_a_list(engine: Engine) -> None:
    pair = PLACES[:2]
    each = [slope(lambda x, at=at: segments(x)[at], x) for x, at in zip(X, pair, strict=True)]  # type: ignore[misc]
    np.testing.assert_allclose(gradient(engine, pair, 2), each, atol=1e-8)
    both = [slope(lambda x: sum(segments(x)[at] for at in pair), x) for x in X]
    np.testing.assert_allclose(gradient(engine, [pair], 2), both, atol=1e-8)


def test_a_region_less_a_region_is_the_difference_of_their_sums(engine: Engine) -> None:
    expected = slope(lambda x: segments(x)[1][MASK].sum() - (segments(x) * WEIGHTS).sum(), X[0])
    np.testing.assert_allclose(gradient(engine, (1, MASK), 1, WEIGHTS), [expected], atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_mask(engine: Engine, method: str) -> None:
    answer = ask(engine, "segments", {"x": X}, method, target=Target(index=(1, MASK)))
    values_at = [segments(x)[1][MASK].sum() for x in X]
    np.testing.assert_allclose(answer.target.value, values_at, rtol=1e-9)
    if not np.isnan(answer.target.baseline_value).all():
        np.testing.assert_allclose(
            answer.target.baseline_value, segments(np.zeros((2, 2, 4)))[1][MASK].sum(), rtol=1e-9
        )
    assert answer.target.index == ("1,mask of 4 of 8",) * 2
    if method.startswith("deeplift"):
        np.testing.assert_allclose(answer.layers["x"].residual, 0, atol=1e-9)


def test_samples_with_several_references_keep_their_masks(engine: Engine) -> None:
    references = References(rng.normal(size=(3, 2, 2, 4)))
    asked: list[Any] = [(X, [PLACES, (0, ~MASK)]), (X[:1], PLACES), (X[1:], (0, ~MASK))]
    answers = [
        ask(
            engine,
            "segments",
            {"x": x},
            "deeplift_rescale",
            target=Target(index=index),
            baselines={"x": references},
        )
        for x, index in asked
    ]
    together, *alone = [values(answer) for answer in answers]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-12)


def test_a_target_with_one_wide_axis_takes_its_largest_element_as_a_vector_does(engine: Engine) -> None:
    net = "(double[N,4] x) => (double[N,5,1,1] y) { z = MatMul(x, W) y = Unsqueeze(z, axes) }"
    w = rng.normal(size=(4, 5))
    x = rng.normal(size=(3, 4))
    engine.add("tall", model(net, W=w, axes=np.array([2, 3])))
    best = (x @ w).argmax(axis=1)
    answer = ask(engine, "tall", {"x": x}, "gradient")
    np.testing.assert_allclose(values(answer), w.T[best], rtol=1e-12)
    assert answer.target.index == tuple(f"{k},0,0" for k in best)
    np.testing.assert_allclose(
        values(ask(engine, "tall", {"x": x}, "gradient", target=Target(index=3))), [w[:, 3]] * 3
    )
    centred = ask(engine, "tall", {"x": x}, "gradient", target=Target(index=3, mean_centred=True))
    np.testing.assert_allclose(values(centred), [w[:, 3] - w.mean(axis=1)] * 3)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (MASK, r"2 parts; the target has shape \[3, 2, 4\]"),
        ((1, ~np.ones((2, 4), bool)), "mask is empty"),
        ((1, MASK.T), r"mask has shape \[4, 2\]; the target has shape \[3, 2, 4\]"),
        ((1, MASK.astype(int)), "array of type int64; a mask is an array of truth values"),
        (WEIGHTS[0], r"weights have shape \[2, 4\]; the target has shape \[3, 2, 4\]"),
        (np.zeros((3, 2, 4)), "weights are all zero"),
        (np.full((3, 2, 4), np.nan), "NaN or infinite"),
        (np.stack([WEIGHTS] * 2), "2 entries in index; there are 1 samples"),
        ([(1, 0, 0), (1, 0, 0)], r"elements of \(1, 0, 0\) twice"),
        ([(1, 0, 0), (1, slice(None), 0)], "twice"),
        ([(1, 0, 0), (1, 0, 9)], "index 9 is out of range along axis 2"),
        ([[(1, 0, 0), WEIGHTS]], "made of indices, slices and masks"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_region_that_is_none_is_refused_by_name(engine: Engine, index: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        gradient(engine, index)


def test_elements_that_are_not_as_many_as_the_samples_are_refused_with_the_form_of_a_region(
    engine: Engine,
) -> None:
    with pytest.raises(
        InvalidArgument, match=r"4 entries in index; there are 2 samples; a region .* list in a list"
    ):
        gradient(engine, PLACES, 2)


# --- From the command line


def test_the_command_line_reads_masks_and_weights_from_files(tmp_path: Any) -> None:
    np.save(tmp_path / "mask.npy", MASK)
    np.save(tmp_path / "bytes.npy", MASK.astype(np.uint8))
    np.savez(tmp_path / "two.npz", mask=FULL, weights=WEIGHTS)
    for text, expected in (
        (f"1,@{tmp_path}/mask.npy", (1, MASK)),
        (f"1,@{tmp_path}/bytes.npy", (1, MASK)),
        (f"@{tmp_path}/two.npz:mask", FULL),
        (f"p:@{tmp_path}/two.npz:weights", WEIGHTS),
        (f"@{tmp_path}/bytes.npy", MASK.astype(np.float64)),
    ):
        found = parse_target([text], [], ["p"])
        assert found.tensor == ("p" if text.startswith("p") else None)
        if isinstance(expected, tuple):
            assert isinstance(found.index, tuple)
            assert found.index[0] == expected[0]
            np.testing.assert_array_equal(np.asarray(found.index[1]), np.asarray(expected[1]))
        else:
            np.testing.assert_array_equal(np.asarray(found.index), expected)


@pytest.mark.parametrize("text", ["@nowhere.npy", "1,@nowhere.npy", "p:@nowhere.npy"])
def test_a_file_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(AttributionError, match=r"no file 'nowhere\.npy'"):
        parse_target([text], [], ["p"])
