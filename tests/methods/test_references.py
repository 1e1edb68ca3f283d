"""Several references: the mean over them, its sum, and the spread. Expected numbers are written out in numpy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, References, Target
from tests.method_names import FIXED_METHODS, GRADIENT_METHODS
from tests.methods.toys import Floats, model, values

SQUARES = """(float[N,3] x) => (float[N] y) {
    s = Mul(x, x)
    axes = Constant<value_ints=[1]>()
    y = ReduceSum<keepdims=0>(s, axes)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("squares", model(SQUARES))
        made.add(
            "two",
            model("(double[N,2] a, double[N,2] b) => (double[N,2] y) { y = Mul(a, b) }"),
        )
        made.add("alone", model("(float[2,3] x) => (float[3,2] y) { y = Transpose<perm=[1,0]>(x) }"))
        made.add("fourth", model("(double[N,1] x) => (double[N,1] y) { h = Mul(x, x) y = Mul(h, h) }"))
        yield made


def points(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "neuron_ig", "deeplift_rescale", "deeplift_reveal_cancel"]
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_answer_is_the_mean_over_the_references_with_its_spread(
    engine: Engine, method: str, per_sample: bool
) -> None:
    """Of a sum of squares each contribution is x^2 - x'^2 under all four methods."""
    x = points(4, 3)
    references = points(4, 5, 3, seed=1) if per_sample else points(5, 3, seed=1)
    answer = engine.attribute(
        AttributionRequest(
            "squares", {"x": x}, method, baselines={"x": References(references, per_sample)}, steps=8
        )
    )
    each = x[:, None] ** 2 - (references if per_sample else references[None]) ** 2
    layer = answer.layers["x"]
    np.testing.assert_allclose(values(answer), each.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.spread, each.std(axis=1).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(layer.residual, 0, atol=1e-4)
    np.testing.assert_allclose(answer.target.value, (x**2).sum(axis=1), rtol=1e-5)
    expected = (x**2).sum(axis=1) - each.sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(answer.target.baseline_value, expected, rtol=1e-4)
    assert answer.target.index == ("()",) * 4


def test_one_reference_has_no_spread(engine: Engine) -> None:
    x = points(2, 3)
    answer = engine.attribute(
        AttributionRequest("squares", {"x": x}, "deeplift_rescale", baselines={"x": 0.5})
    )
    assert np.isnan(answer.layers["x"].spread).all()


def test_references_of_two_sources_belong_together_and_targets_stay_with_their_sample(engine: Engine) -> None:
    """Of a product the shares are Da (b + b') / 2 and Db (a + a') / 2, pair by pair."""
    a, b = points(3, 2).astype(np.float64), points(3, 2, seed=1).astype(np.float64)
    a0, b0 = points(4, 2, seed=2).astype(np.float64), points(4, 2, seed=3).astype(np.float64)
    answer = engine.attribute(
        AttributionRequest(
            "two",
            {"a": a, "b": b},
            "deeplift_rescale",
            target=Target(index=[0, 1, 0]),
            baselines={"a": References(a0), "b": References(b0)},
        )
    )
    chosen = np.eye(2)[[0, 1, 0]]
    share = ((a[:, None] - a0) * (b[:, None] + b0) / 2).mean(axis=1) * chosen
    np.testing.assert_allclose(values(answer, "a"), share, rtol=1e-9, atol=1e-12)
    assert answer.target.index == ("0", "1", "0")


def test_a_model_that_takes_one_sample_a_run_averages_too(engine: Engine) -> None:
    x, references = points(2, 3), points(3, 2, 3, seed=1)
    answer = engine.attribute(
        AttributionRequest(
            "alone", {"x": x}, "deeplift_rescale", target=Target(index=(1, 0)),
            baselines={"x": References(references)},
        )
    )  # fmt: skip
    assert answer.batch == "single"
    expected = np.zeros((1, 2, 3))
    expected[0, 0, 1] = (x - references).mean(axis=0)[0, 1]
    np.testing.assert_allclose(values(answer, "x"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        ({"x": References(np.zeros((0, 3)))}, r"shape \[0, 3\]; it must be \[references, ...\]"),
        ({"x": References(np.zeros(4), per_sample=True)}, r"shape \[4\]; it must be \[samples, references, ...\]"),
        ({"x": References(np.zeros((5, 2, 3)), per_sample=True)}, "'x' has references of 5 samples; there are 4"),
        ({"x": References(np.zeros((5, 4)))}, r"shape \[5, 4\]; they must broadcast to \[references, 3\]"),
        (
            {"x": References(np.zeros((4, 5, 2, 3)), per_sample=True)},
            r"shape \[4, 5, 2, 3\]; they must broadcast to \[samples, references, 3\]",
        ),
        ({"x": References(np.array([1.0, 1e300]))}, "numbers outside float32, which 'x' holds"),
        ({"x": References(np.full((2, 3), np.nan))}, "NaN or infinite"),
        ({"x": References(np.zeros((100, 3)))}, "4 samples with 100 references each; it may hold 1 to 256 in all"),
    ],
)  # fmt: skip
def test_unusable_references_are_refused_by_name(
    engine: Engine, baselines: dict[str, References], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        engine.attribute(
            AttributionRequest("squares", {"x": points(4, 3)}, "deeplift_rescale", baselines=baselines)
        )


def test_sources_with_different_numbers_of_references_are_refused(engine: Engine) -> None:
    given = {"a": References(np.zeros((2, 2))), "b": References(np.zeros((3, 2)))}
    inputs = {"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}
    with pytest.raises(InvalidArgument, match="different numbers of references: 'a': 2, 'b': 3"):
        engine.attribute(
            AttributionRequest("two", inputs, "deeplift_rescale", target=Target(index=0), baselines=given)
        )


MIXED = """(float[N,4,3] x) => (float[N] y) {
    wide = Constant<value_ints=[-1,3]>()
    flat = Reshape(x, wide)
    rows = Tanh(flat)
    back = Constant<value_ints=[-1,12]>()
    whole = Reshape(rows, back)
    bent = Sigmoid(whole)
    axes = Constant<value_ints=[1]>()
    y = ReduceSum<keepdims=0>(bent, axes)
}"""


@pytest.mark.parametrize(("body", "evaluations"), [(SQUARES, 4 + 1), (MIXED, 1 + 4 + 4)])
def test_a_reference_of_all_samples_is_evaluated_once_where_that_is_possible(
    engine: Engine, body: str, evaluations: int
) -> None:
    """Where a tensor holds four elements of a row along its first axis, each row needs its own, and one is in vain."""
    x = points(4, 3) if body == SQUARES else points(4, 4, 3)
    low = points(1, *x.shape[1:], seed=1)
    engine.add("shared", model(body))
    together = engine.attribute(
        AttributionRequest("shared", {"x": x}, "deeplift_rescale", baselines={"x": low})
    )
    for k in range(4):
        alone = engine.attribute(
            AttributionRequest("shared", {"x": x[k : k + 1]}, "deeplift_rescale", baselines={"x": low})
        )
        np.testing.assert_allclose(values(together)[k], values(alone)[0], rtol=1e-5, atol=1e-6)
    assert together.evaluations == evaluations


def test_a_reference_is_kept_for_other_requests(engine: Engine) -> None:
    """y is the sum of squares, so that x contributes x^2 - low^2."""
    x, low, other, third = points(4, 3), *(points(1, 3, seed=k) for k in (1, 2, 3))

    def asked(engine: Engine, rows: Floats, baseline: Floats) -> tuple[Floats, int]:
        request = AttributionRequest("squares", {"x": rows}, "deeplift_rescale", baselines={"x": baseline})
        answer = engine.attribute(request)
        return values(answer), answer.evaluations

    for rows, baseline, evaluations in (
        (x, low, 5),
        (x[:2], low, 2),
        (x, other, 5),
        (x[:1], low, 1),
        (
            x[:1],
            third,
            2,
        ),  # a pair; when it comes again the reference is kept, if that is one row too many at first
        (x[:1], third, 2),
        (x[:1], third, 1),
        (x, other, 4),
    ):
        found, counted = asked(engine, rows, baseline)
        np.testing.assert_allclose(found, rows**2 - baseline**2, rtol=1e-5, atol=1e-6)
        assert counted == evaluations
    with Engine(provider="cpu", memory_budget=8) as small:
        small.add("squares", model(SQUARES))
        assert [asked(small, x[:1], low)[1] for _ in range(2)] == [2, 2]


def test_scalars_are_references_too(engine: Engine) -> None:
    x = points(2, 3)
    answer = engine.attribute(
        AttributionRequest(
            "squares", {"x": x}, "deeplift_rescale", baselines={"x": References(np.array([0.0, 2.0]))}
        )
    )
    np.testing.assert_allclose(values(answer, "x"), x**2 - 2, rtol=1e-5)


@pytest.mark.parametrize(("near_zero", "slope"), [("midpoint", 0.25), ("input", 1.0), ("reference", 0.0)])
def test_near_zero_chooses_the_point_of_the_gradient(engine: Engine, near_zero: str, slope: float) -> None:
    engine.add("relu", model("(double[N] x) => (double[N] y) { y = Relu(x) }"))
    answer = engine.attribute(
        AttributionRequest(
            "relu", {"x": np.array([1e-16])}, "deeplift_rescale", baselines={"x": -3e-16},
            multiply_by_inputs=False, near_zero=near_zero,
        )
    )  # fmt: skip
    np.testing.assert_allclose(values(answer, "x"), [slope], rtol=1e-9)


STEPS = {  # a body, and the secant of each element between 0 and [1.5, -0.5, 0]
    "Floor": ("z = Floor(x)", [1 / 1.5, 2, 0]),
    "Sign": ("z = Sign(x)", [1 / 1.5, 2, 0]),
    "Greater": ("c = Greater(x, one)  z = CastLike(c, x)", [1 / 1.5, 0, 0]),
    "Where": ("c = Greater(x, one)  z = Where(c, one, zero)", [1 / 1.5, 0, 0]),
}


@pytest.mark.parametrize("near_zero", ["input", "reference"])
@pytest.mark.parametrize("operator", STEPS)
def test_steps_keep_their_secant_wherever_the_gradient_near_zero_is_taken(
    engine: Engine, operator: str, near_zero: str
) -> None:
    body, slopes = STEPS[operator]
    text = f"(double[N,3] x) => (double[N,3] z) <double one = {{1.0}}, double zero = {{0.0}}> {{ {body} }}"
    engine.add("step", model(text))
    x = np.array([[1.5, -0.5, 0.0]])
    for unit in range(3):
        answer = engine.attribute(
            AttributionRequest(
                "step", {"x": x}, "deeplift_rescale", target=Target("z", (unit,)), baselines={"x": np.zeros((1, 3))},
                multiply_by_inputs=False, near_zero=near_zero,
            )
        )  # fmt: skip
        expected = np.where(np.arange(3) == unit, slopes, 0)
        np.testing.assert_allclose(values(answer, "x"), [expected], rtol=1e-9)


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "occlusion"])
def test_methods_without_secants_know_no_point_near_zero(engine: Engine, method: str) -> None:
    with pytest.raises(
        InvalidArgument, match=f"{method} knows no near_zero; it is a parameter of deeplift_rescale"
    ):
        AttributionRequest("squares", {"x": points(1, 3)}, method, near_zero="input")


def test_occlusion_has_no_multipliers(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="occlusion knows no multiply_by_inputs"):
        AttributionRequest("squares", {"x": points(1, 3)}, "occlusion", multiply_by_inputs=False)


def test_references_broadcast_to_the_unit_even_where_it_is_as_long_as_they_are_many(engine: Engine) -> None:
    """Each of two references [3] stands for both rows of a unit [2, 3]."""
    engine.add("rows", model("(float[N,2,3] x) => (float[N,2,3] y) { y = Mul(x, x) }"))
    x, references = points(1, 2, 3), points(2, 3, seed=1)
    target = Target(index=(slice(None), slice(None)))
    answer = engine.attribute(
        AttributionRequest(
            "rows", {"x": x}, "deeplift_rescale", target=target, baselines={"x": References(references)}
        )
    )
    np.testing.assert_allclose(values(answer, "x"), x**2 - (references**2).mean(axis=0), rtol=1e-5, atol=1e-6)


def test_an_unknown_point_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="near_zero is 'here'; it may be: midpoint, input, reference"):
        engine.attribute(
            AttributionRequest("squares", {"x": points(1, 3)}, "deeplift_rescale", near_zero="here")
        )


@pytest.mark.parametrize("method", ["gradient", "neuron_ig", "deeplift_rescale"])
def test_where_nan_begins_is_said(engine: Engine, method: str) -> None:
    engine.add(
        "root",
        model(
            "(float[N,2] x) => (float[N,2] y) { s = Mul(x, two) [square_root] r = Sqrt(s) y = Tanh(r) }",
            two=np.float32(2),
        ),
    )
    x = np.array([[1, 2], [0, 1]], dtype=np.float32)
    answer = engine.attribute(AttributionRequest("root", {"x": x}, method, target=Target(index=0)))
    assert np.isfinite(values(answer, "x")[0]).all() or method == "neuron_ig"
    if not np.isfinite(values(answer, "x")).all():
        (warning,) = [w for w in answer.warnings if "NaN" in w]
        assert "begins in the backward pass, at Sqrt (node 'square_root'" in warning
    else:
        assert method == "deeplift_rescale"  # its secant of the root is finite


@pytest.mark.parametrize("method", FIXED_METHODS)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("samples", [1, 3])
def test_references_of_an_input_are_taken_to_a_hidden_source(
    engine: Engine, method: str, per_sample: bool, samples: int
) -> None:
    """Of y = (x * x)^2 at 2 with references 0 and 1: the mean of 16 - 0 and 16 - 1 is 15.5."""
    x = np.array([[2.0], [3.0], [-1.0]])[:samples]
    low = np.array([[0.0], [1.0]])
    given = References(np.stack([low + k for k in range(samples)]), True) if per_sample else References(low)
    request = AttributionRequest("fourth", {"x": x}, method, source=["h"], baselines={"x": given}, steps=64)
    answer = engine.attribute(request)
    ends = np.stack([low + k * per_sample for k in range(samples)])[..., 0] ** 4
    assert not per_sample or samples == 1 or ends[1].tolist() == [1, 16]
    wanted = x[:, 0] ** 4 - ends.mean(axis=1)
    none = np.full(samples, np.nan)
    change = none if method in GRADIENT_METHODS else wanted
    np.testing.assert_allclose(answer.target.value - answer.target.baseline_value, change)
    if method not in GRADIENT_METHODS:
        np.testing.assert_allclose(answer.layers["h"].sum, wanted, rtol=1e-6)
    assert any("'h' is its activation at the baseline of 'x'" in text for text in answer.warnings)
