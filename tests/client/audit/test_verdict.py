"""Verdicts: intervals that hold what they say, places with the same inputs for all, words that follow, and JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from onnx_attribution.client.audit.arrays import Floats
from onnx_attribution.client.audit.metrics.interval import interval, ranks
from onnx_attribution.client.audit.metrics.metric import METRICS
from onnx_attribution.client.audit.verdict import SCHEMA_VERSION, findings, plain, to_json, verdicts
from onnx_attribution.errors import InvalidArgument

ALIKE = "model_parameter_randomisation"  # lower is better, and chance is the goal
LOCAL = "relevance_mass_accuracy"  # higher is better, and chance is the floor


def test_intervals_hold_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(size=40), draws=300) for _ in range(300)]
    held = np.mean([one.low <= 0 <= one.high for one in found])
    # 95 % but for what a bootstrap of 40 misses, and three standard errors of 300 trials
    assert 0.90 <= held <= 0.98


def test_intervals_leave_out_what_is_no_number_and_are_the_same_again() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf])
    found = interval(values)
    assert (found.value, found.count) == (2.0, 2)
    assert found == interval(values)
    nothing = interval(np.array([np.nan]))
    assert nothing.count == 0
    assert math.isnan(nothing.value)


def test_places_are_sure_where_every_input_agrees_however_far_inputs_differ() -> None:
    inputs = np.random.default_rng(0).normal(0, 100, 30)
    found = ranks({"a": inputs, "b": inputs + 1, "c": inputs + 1}, "lower")
    assert (found["a"].place, found["a"].low, found["a"].high) == (1, 1, 1)
    assert (found["b"].place, found["b"].low, found["c"].high) == (2.5, 2.5, 2.5)
    assert ranks({"a": inputs, "b": inputs + 1}, "higher")["b"].place == 1


def test_places_are_wide_where_inputs_disagree() -> None:
    rng = np.random.default_rng(0)
    found = ranks({name: rng.normal(size=20) for name in "abc"}, "lower")
    assert all(one.low == 1 for one in found.values()) or any(one.high == 3 for one in found.values())


@pytest.mark.parametrize("names", ["abc", "cba"])
def test_methods_that_are_equal_but_for_the_digits_of_float32_share_their_place(names: str) -> None:
    inputs = np.random.default_rng(0).uniform(100, 200, 30)
    near = (inputs * (1 + 1e-7)).astype(np.float32).astype(np.float64)
    own: dict[str, Floats] = {"a": inputs, "b": near, "c": inputs * 0.9}
    found = ranks({name: own[name] for name in names}, "lower")
    for name in "ab":
        assert (found[name].place, found[name].low, found[name].high) == (2.5, 2.5, 2.5)
    assert found["c"].place == 1
    small = ranks({name: own[name] / 1e14 for name in names}, "lower")
    assert [small[name].place for name in "abc"] == [2.5, 2.5, 1]


def test_a_method_without_a_number_takes_no_place_from_the_others() -> None:
    none = np.full(20, np.nan)
    found = ranks({"a": spread(0)[:20], "none": none, "b": spread(1)[:20]}, "lower")
    assert [(found[name].place, found[name].of) for name in "ab"] == [(1, 2), (2, 2)]
    assert math.isnan(found["none"].place)
    few = np.where(np.arange(20) < 2, -5.0, np.nan)
    with_few = ranks({"a": spread(0)[:20], "few": few, "b": spread(1)[:20]}, "lower")
    assert (with_few["a"].low, with_few["a"].high) == (
        1.5,
        1.5,
    )  # before b, and level with what has two numbers
    assert with_few["few"].place == 2
    assert (with_few["b"].low, with_few["b"].high) == (2.5, 2.5)


def test_methods_are_compared_on_the_samples_where_both_have_numbers() -> None:
    inputs = np.random.default_rng(0).normal(0, 100, 30)
    worse = np.where(np.arange(30) < 20, inputs + 1, np.nan)
    found = ranks({"a": inputs, "b": worse}, "lower")
    assert (found["a"].high, found["b"].low) == (1, 2)


def test_how_many_samples_have_no_number_is_told() -> None:
    values = np.where(np.arange(40) < 7, np.nan, spread(0.5))
    (found,) = findings(LOCAL, {"a": values}, {"a": spread(0.1)})
    assert found.interval.count == 33
    assert found.reason.endswith("; 7 of 40 samples have no number")
    (whole,) = findings(LOCAL, {"a": spread(0.5)}, {"a": spread(0.1)})
    assert "no number" not in whole.reason


def spread(mean: float, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return mean + 0.05 * np.random.default_rng(seed).normal(size=40)


def test_where_chance_is_the_goal_only_the_worse_half_above_it_fails() -> None:
    own = {"a": spread(0.0, 1), "b": spread(0.3, 2), "c": spread(0.5, 3), "d": spread(0.9, 4)}
    found = {one.method: one for one in findings(ALIKE, own, {name: spread(0.0, 9) for name in own})}
    assert {name: one.word for name, one in found.items()} == {
        "a": "passes", "b": "passes", "c": "fails", "d": "fails",
    }  # fmt: skip
    assert "no more than chance" in found["a"].reason
    assert "better half" in found["b"].reason


def test_who_is_in_the_worse_half_and_much_nearer_to_chance_than_the_worst_is_doubtful() -> None:
    own = {"a": spread(0.0, 1), "b": spread(0.05, 2), "c": spread(0.2, 3), "d": spread(0.9, 4)}
    found = findings(ALIKE, own, {name: spread(0.0, 9) for name in own})
    assert {one.method: one.word for one in found}["c"] == "doubtful"
    assert {one.method: one.word for one in found}["d"] == "fails"


def test_one_method_alone_never_fails() -> None:
    (only,) = findings(ALIKE, {"a": spread(1.0)}, {"a": spread(0.0, 1)})
    assert only.word == "doubtful"
    (other,) = findings(LOCAL, {"a": spread(0.1)}, {"a": spread(0.1, 1)})
    assert other.word == "doubtful"


def test_where_chance_is_the_floor_a_method_has_to_be_above_it() -> None:
    own = {"a": spread(0.9, 1), "b": spread(0.2, 2), "c": spread(0.8, 3)}
    found = {one.method: one.word for one in findings(LOCAL, own, {name: spread(0.3, 9) for name in own})}
    assert found == {"a": "passes", "b": "fails", "c": "passes"}


def test_without_random_maps_there_is_a_place_and_no_verdict() -> None:
    found = findings("sparseness", {"a": spread(0.9), "b": spread(0.2)})
    assert [(one.word, one.rank.place) for one in found] == [("ranked", 1), ("ranked", 2)]
    (nothing,) = findings("sparseness", {"a": np.full(3, np.nan)})
    assert nothing.word == "unknown"


def test_methods_are_listed_best_first_and_one_that_fails_once_fails() -> None:
    own = {"bad": spread(0.9, 1), "good": spread(0.0, 2), "better": spread(0.0, 3)}
    random = {name: spread(0.0, 9) for name in own}
    found = findings(ALIKE, own, random) + findings(
        LOCAL, {"bad": spread(1, 1), "good": spread(1, 2), "better": spread(1, 3)}, random
    )
    judged = verdicts(found, 40)
    assert [one.word for one in judged.methods] == ["passes", "passes", "fails"]
    assert judged.methods[-1].method == "bad"
    assert ALIKE in judged.method("bad").reason
    lenient = verdicts(found, 40, decides=lambda one: one.metric == LOCAL)
    assert lenient.method("bad").word == "passes"
    assert len(lenient.method("bad").findings) == 2


def test_json_has_a_version_and_only_finite_numbers() -> None:
    found = findings(ALIKE, {"a": np.full(3, np.nan), "b": spread(0)[:3]}, {"b": spread(0, 1)[:3]})
    tree = json.loads(to_json(verdicts(found, 3)))
    assert tree["schema"] == "onnx-attribution/verdicts"
    assert tree["schema_version"] == SCHEMA_VERSION == 1
    assert {one["method"] for one in tree["methods"]} == {"a", "b"}
    finding = next(one for one in tree["methods"] if one["method"] == "a")["findings"][0]
    assert set(finding) == {
        "metric",
        "detail",
        "method",
        "interval",
        "random",
        "margin",
        "rank",
        "word",
        "reason",
    }
    assert finding["interval"]["value"] is None
    assert tree["metrics"][0]["direction"] == METRICS[ALIKE].direction
    assert plain({"a": (np.float32(1), np.arange(2))}) == {"a": [1.0, [0, 1]]}
    with pytest.raises(TypeError):
        plain(object())


def test_unknown_metrics_and_other_samples_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="sparseness"):
        findings("sparsity", {"a": spread(0)})
    with pytest.raises(InvalidArgument, match="samples"):
        findings(LOCAL, {"a": spread(0), "b": spread(0)[:3]})


@pytest.mark.parametrize("metric", [ALIKE, LOCAL])
def test_of_few_samples_nothing_is_sure(metric: str) -> None:
    own = {"a": spread(0.9, 1), "b": spread(0.0, 2), "c": spread(0.9, 3), "d": spread(0.0, 4)}
    chance = {name: spread(0.3, 9) for name in own}
    for count, known in ((1, 1), (4, 4), (40, 4)):
        few = {name: np.where(np.arange(count) < known, one[:count], np.nan) for name, one in own.items()}
        found = findings(metric, few, {name: one[:count] for name, one in chance.items()})
        assert {one.word for one in found} == {"doubtful"}
    five = findings(
        metric, {name: one[:5] for name, one in own.items()}, {n: one[:5] for n, one in chance.items()}
    )
    assert {"passes", "fails"} <= {one.word for one in five}
