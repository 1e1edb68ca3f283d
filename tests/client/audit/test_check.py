"""`check`, the audit from Python, on models of which every number is known by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.client.audit.checks import Checked, check
from onnx_attribution.client.audit.verdict import Finding
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import References
from tests.methods.toys import model

RNG = np.random.default_rng(4)
WA, WB = np.array([3.0, 1.0]), np.array([2.0])
A, B = RNG.uniform(0.5, 2, (6, 2)).astype(np.float32), RNG.uniform(0.5, 2, (6, 1)).astype(np.float32)
TABLE = model(
    """(float[N,2] a, float[N,1] b) => (float[N,2] y) {
        s = Gemm(a, wa)
        t = Gemm(b, wb)
        u = Add(s, t)
        v = Neg(u)
        y = Concat<axis = 1>(u, v)
    }""",
    wa=WA[:, None].astype(np.float32),
    wb=WB[:, None].astype(np.float32),
)
"""Class 0 has the score w · (a, b), class 1 its negative."""
PLACES = model(
    """(float[N,3,6,6] x) => (float[N,2] y) {
        h = Conv(x, kernel)
        r = Relu(h)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm(f, head)
    }""",
    kernel=np.eye(3)[:, :, None, None].astype(np.float32),
    head=np.array([[1.0, -1.0], [2.0, 0.5], [0.5, 1.0]], np.float32),
)
"""Each position and channel by itself: a map of the layer r says exactly what removing positions changes."""
SUM = model(
    "(float[N,4] x) => (float[N,2] y) { y = Gemm(x, w) }",
    w=np.array([[1, -1]] * 4, np.float32),
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("table", TABLE)
        made.add("places", PLACES)
        made.add("sum", SUM)
        yield made


def finding(found: Checked, method: str, metric: str) -> Finding:
    (one,) = [each for each in found.verdicts.method(method).findings if each.metric == metric]
    return one


def area_of_the_best_order(contributions: NDArray[np.float64]) -> float:
    """Under the target's share of its range, as what contributes most goes first; all contributions are positive."""
    areas = []
    for row in contributions:
        left = np.r_[row.sum(), row.sum() - np.cumsum(np.sort(row)[::-1])]
        areas.append(np.trapezoid(left / row.sum(), dx=1 / len(row)))
    return float(np.mean(areas))


@pytest.mark.parametrize(
    ("baselines", "at"),
    [
        ({}, (0.0, 0.0)),
        ({"a": 0.25, "b": 0.125}, (0.25, 0.125)),
        ({"a": References(np.array([[0.0, 0.0], [0.5, 0.5]], np.float32)), "b": 0.125}, (0.25, 0.125)),
    ],
    ids=["zero", "numbers", "references"],
)
def test_elements_of_all_inputs_are_removed_in_one_order_and_go_to_the_baseline(
    engine: Engine, baselines: dict[str, Any], at: tuple[float, float]
) -> None:
    found = check(
        engine, "table", ["integrated_gradients"], {"a": A, "b": B}, checks="ablation", baselines=baselines
    )
    change = np.concatenate([(A - at[0]) * WA, (B - at[1]) * WB], axis=1).astype(np.float64)
    curves = found.found["ablation"]["curves"]
    assert [one["title"] for one in curves] == [
        f"{kind} of positions of a, b" for kind in ("deletion", "insertion")
    ]
    best = area_of_the_best_order(change)
    for one, wanted in zip(curves, (best, 1 - best), strict=True):
        assert one["methods"]["integrated_gradients"]["area"] == pytest.approx(wanted, abs=1e-5)
        assert one["fractions"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        assert len(one["methods"]["integrated_gradients"]["mean"]) == 4
    deletion = finding(found, "integrated_gradients", "deletion_area")
    assert deletion.interval.value == pytest.approx(best, abs=1e-5)
    said = "removed they are " + ("0" if not baselines else "the baseline")
    assert said in curves[0]["words"]
    assert ("of several references their mean" in curves[0]["words"]) is (
        "a" in baselines and isinstance(baselines["a"], References)
    )


def test_maps_of_several_inputs_are_alike_as_one_map(engine: Engine) -> None:
    methods = ["gradient_x_activation", "gradient"]
    found = check(engine, "table", methods, {"a": A, "b": B}, checks="classes")
    for name in methods:  # those of the other class are their negatives
        one = finding(found, name, "random_logit")
        assert one.detail == "spearman"
        assert one.interval.count == 6
        # of one sign throughout, magnitudes are compared; b, a single number, has no ranks by itself
        assert one.interval.value == pytest.approx(1.0)


def test_a_constant_map_has_no_number_and_takes_none_from_others(engine: Engine) -> None:
    x = RNG.normal(size=(6, 4)).astype(np.float32)
    found = check(engine, "sum", ["gradient", "gradient_x_activation"], {"x": x}, checks="classes,ablation")
    alike = finding(found, "gradient", "random_logit")
    assert (alike.word, alike.interval.count) == ("unknown", 0)
    other = finding(found, "gradient_x_activation", "random_logit")
    assert (other.interval.count, other.rank.of, other.rank.place) == (6, 1, 1)
    areas = {
        one.method
        for each in found.verdicts.methods
        for one in each.findings
        if one.metric == "deletion_area"
    }
    assert areas == {"gradient_x_activation"}
    assert set(found.found["ablation"]["curves"][0]["methods"]) == {"gradient_x_activation", "random"}


def test_a_map_of_a_layer_foretells_what_removed_positions_change(engine: Engine) -> None:
    x = RNG.uniform(0.1, 1, (6, 3, 6, 6)).astype(np.float32)
    methods = ["hires_cam", "layer_activation", "guided_grad_cam", "gradient"]
    found = check(engine, "places", methods, {"x": x}, checks="perturbations")
    exact = finding(found, "hires_cam", "infidelity")
    assert exact.interval.count == 6
    assert exact.interval.value == pytest.approx(0, abs=1e-8)
    # the gradient times what is removed is exact too, and equal to it but for float32
    assert finding(found, "gradient", "infidelity").interval.value == pytest.approx(0, abs=1e-8)
    assert [finding(found, name, "infidelity").rank.place for name in ("hires_cam", "gradient")] == [1.5, 1.5]
    for name in methods:
        assert finding(found, name, "max_sensitivity").interval.count == 6
        assert finding(found, name, "local_lipschitz_estimate").interval.count == 6


def test_maps_of_every_factor_foretell_what_going_to_a_baseline_changes(engine: Engine) -> None:
    x = RNG.uniform(0.6, 1, (6, 3, 6, 6)).astype(np.float32)
    methods = ["gradient", "gradient_x_activation", "integrated_gradients", "occlusion", "lrp"]
    found = check(engine, "places", methods, {"x": x}, checks="perturbations", baselines={"x": 0.5})
    for name in methods:  # the model is linear there, without a bias
        one = finding(found, name, "infidelity")
        assert one.interval.value == pytest.approx(0, abs=1e-8)
        assert one.rank.place == 3  # all alike
        assert one.random is not None
        assert one.random.low > 0.01


def test_neurons_go_to_the_baseline_where_one_is_named_and_the_words_say_so(engine: Engine) -> None:
    x = RNG.uniform(0.1, 1, (6, 3, 6, 6)).astype(np.float32)
    for baselines, words in (({}, "each removed"), ({"x": 0.5}, "each set to what it is at the baseline")):
        found = check(
            engine, "places", ["neuron_ig"], {"x": x}, checks="ablation", layers=["r"], baselines=baselines
        )
        (curve,) = [one for one in found.found["ablation"]["curves"] if one["title"] == "ablation of r"]
        assert f"channels of r go (3 in all, {words})" in curve["words"]


def test_what_cannot_be_checked_is_said(engine: Engine) -> None:
    inputs = {"x": RNG.normal(size=(3, 4)).astype(np.float32)}
    found = check(engine, "sum", ["gradient", "grad_cam"], inputs, checks="none")
    assert "grad_cam" in found.errors
    assert found.verdicts.methods == ()
    with pytest.raises(InvalidArgument, match="grad_cam"):
        check(engine, "sum", ["grad_cam"], inputs, checks="none")
    with pytest.raises(InvalidArgument, match="2 labels of 3 samples"):
        check(engine, "sum", ["gradient"], inputs, labels=[0, 1])
    with pytest.raises(InvalidArgument, match="two methods"):
        check(engine, "sum", ["gradient", "gradient"], inputs)
    with pytest.raises(InvalidArgument, match="no method"):
        check(engine, "sum", [], inputs)
    broken = {"x": np.array([[1, 2, 3, 4], [np.nan, 0, 0, 0]], np.float32)}
    assert set(check(engine, "sum", ["gradient"], broken, checks="none").left_out) == {"1"}
