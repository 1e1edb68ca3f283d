"""What answers say of themselves in words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.method_names import DEEPLIFT_METHODS
from tests.methods.toys import model

SKIP = """(double[N,1] x) => (double[N,1] y) {
    half = Mul(x, quarter)
    again = Tanh(half)
    both = Add(again, x)
    y = Mul(both, two)
}"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("skip", model(SKIP, quarter=np.array(0.25), two=np.array(2.0)))
        yield made


@pytest.mark.parametrize("method", ["deeplift_rescale", "neuron_ig"])
def test_a_layer_that_a_skip_connection_bypasses_says_by_how_much(engine: Engine, method: str) -> None:
    """The change is 2 (tanh(x / 4) + x), of which 2 x bypasses the layer."""
    x = np.array([[1.0], [8.0]])
    answer = engine.attribute(AttributionRequest("skip", {"x": x}, method, ("half", "both")))
    shares = [round(100 * v / (v + np.tanh(v / 4))) for v in (1.0, 8.0)]
    (note,) = answer.warnings
    assert note == (
        f"layer 'half' is no cut: {shares[0]} % to {shares[1]} % of the change bypasses it; the next cut is 'both'"
    )


def test_a_gradient_has_no_share(engine: Engine) -> None:
    asked = AttributionRequest("skip", {"x": np.array([[1.0]])}, "gradient", ("half",))
    assert engine.attribute(asked).warnings == ()


LOG_OF_TEXT = """(string[N,2] s, float[N,1] x) => (float[N,1] y) {
    same = Equal(s, a)
    ones = Cast<to=1>(same)
    count = ReduceSum(ones, axes)
    log = Log(x)
    y = Add(count, log)
}"""


def test_occlusion_says_that_numbers_are_not_finite_beside_text(engine: Engine) -> None:
    engine.add("text", model(LOG_OF_TEXT, a=np.array("a", object), axes=[1]))
    inputs = {"s": np.array([["a", "b"]], object), "x": np.ones((1, 1), np.float32)}
    assert engine.attribute(AttributionRequest("text", inputs, "occlusion")).warnings == (
        "the attributions of 'x' hold NaN or infinite numbers",
        "the target 'y' is NaN or infinite at the baseline",  # the logarithm of 0
    )


@pytest.mark.parametrize(
    ("method", "x", "ends"),
    [
        ("deeplift_rescale", [0.5, 0.5], ["baseline"]),
        ("gradient", [0.5, 0.5], []),
        ("gradient", [1000.0, 0.5], ["input"]),
    ],
)
def test_an_end_at_which_the_target_is_not_finite_is_named(
    engine: Engine, method: str, x: list[float], ends: list[str]
) -> None:
    engine.add(
        "pole",
        model(
            """(double[N,2] x) => (double[N,1] y) {
                s = ReduceSum(x, a) e = Exp(s) z = Sqrt(s) r = Reciprocal(z) y = Add(e, r)
            }""",
            a=[1],
        ),
    )
    answer = engine.attribute(AttributionRequest("pole", {"x": np.array([x])}, method, baselines={"x": 0.0}))
    said = [w for w in answer.warnings if "the target" in w]
    assert said == [f"the target 'y' is NaN or infinite at the {end}" for end in ends]


WRAPS = """(double[N,2] x) => (double[N,2] y) {
    i = Cast<to=6>(x)
    m = Cast<to=6>(much)
    j = Mul(i, m)
    f = Cast<to=11>(j)
    y = Add(f, x)
}"""


@pytest.mark.parametrize("method", ["deeplift_rescale", "deeplift_reveal_cancel"])
def test_contributions_that_miss_the_change_say_by_how_much(engine: Engine, method: str) -> None:
    """3 times 1.5e9 wraps round in 32 bits, by 2 ** 32; 1 times does not."""
    engine.add("wraps", model(WRAPS, much=1_500_000_000))
    x = np.array([[1.0, 0.0], [3.0, 0.0]])
    answer = engine.attribute(AttributionRequest("wraps", {"x": x}, method, ("x",), target=Target(index=0)))
    np.testing.assert_allclose(answer.layers["x"].residual, [0, 2.0**32], atol=1e-3)
    (note,) = answer.warnings
    assert note.startswith("the contributions of 'x' miss the change by -4.29e+09 in sample 1")


def test_rounding_in_half_types_is_no_missing_change(engine: Engine, rng: np.random.Generator) -> None:
    """The target's own rounding, 0.25 at 500, is more than the contributions."""
    half = """(float16[N,8] x) => (float16[N,2] y) {
        a = MatMul(x, W)
        b = Tanh(a)
        c = MatMul(b, V)
        y = Add(c, far)
    }"""
    kinds = {"W": rng.normal(size=(8, 16)), "V": 0.05 * rng.normal(size=(16, 2)), "far": np.array(500.0)}
    engine.add("half", model(half, **{n: a.astype(np.float16) for n, a in kinds.items()}))
    x = rng.normal(size=(4, 8)).astype(np.float16)
    for method in DEEPLIFT_METHODS:
        assert engine.attribute(AttributionRequest("half", {"x": x}, method, ("a", "b"))).warnings == ()


def test_the_share_of_a_layer_is_that_of_the_samples_with_finite_numbers(engine: Engine) -> None:
    engine.add("branches", model("(double[N,1] x) => (double[N,1] y) { a = Exp(x) y = Add(a, x) }"))
    x = np.array([[1.0], [800.0]])
    with np.errstate(all="raise"):
        answer = engine.attribute(AttributionRequest("branches", {"x": x}, "deeplift_rescale", ("a",)))
    share = round(100 / np.e)  # the change is exp(1) - 1 + 1, of which 1 bypasses
    assert any(f"'a' is no cut: {share} % of the change" in note for note in answer.warnings)
