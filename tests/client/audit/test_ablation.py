"""Curves and the ablation experiment, on an engine and a client, beside numpy and a model whose decision is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from onnx_attribution.client import Client
from onnx_attribution.client.audit.ablation import (
    METHODS,
    RANDOM,
    Ablation,
    Curve,
    ablation,
    by_axes,
    curve,
    patches,
    random_ranks,
    ranks_of,
)
from onnx_attribution.client.audit.curves import Range
from onnx_attribution.client.audit.ranks import are_ranked
from onnx_attribution.client.audit.verdict import verdicts
from onnx_attribution.errors import InvalidArgument, NotFound
from onnx_attribution.interventions import Edit, Ranked
from onnx_attribution.methods import Method, NeuronIG
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.definitions.network import drawn
from tests.methods.toys import model

NET, X, OTHERS = drawn(3)
INPUTS = {"x": X.astype(np.float32)}
RNG = np.random.default_rng(5)
IMAGES = {"image": np.abs(RNG.normal(size=(6, 1, 5, 5))).astype(np.float32)}
WEIGHTS = {
    "kernel": np.stack(
        [np.full((1, 3, 3), 5.0), np.eye(3)[None], -np.ones((1, 3, 3)), np.eye(3)[None, ::-1]]
    ),
    "head": np.array([[0.0, 0.0], [2.0, -2.0], [0.0, 0.0], [0.0, 0.0]]),
    "bias": np.array([-0.1, 0.1]),
}
PLANTED = model(
    """(float[N,1,5,5] image) => (float[N,2] scores) {
        c = Conv(image, kernel)
        h = Relu(c)
        p = GlobalAveragePool(h)
        f = Flatten(p)
        scores = Gemm(f, head, bias)
    }""",
    **{name: array.astype(np.float32) for name, array in WEIGHTS.items()},
)
"""Two classes, between which channel 1 of four decides; channel 0 is the brightest by far, and decides nothing."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", NET.model())
        made.add("planted", PLANTED)
        yield made


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Client]:
    with app.background(engine, Settings(port=0)) as (address, _), Client(address) as made:
        yield made


# --- groups and ranks


def test_groups_are_told_apart_by_axes_and_patches() -> None:
    np.testing.assert_array_equal(by_axes((2, 2, 2), 0), [[[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    np.testing.assert_array_equal(by_axes((2, 1, 2), (1, -1)), [[[0, 1]], [[0, 1]]])
    np.testing.assert_array_equal(by_axes((2, 2)), [[0, 1], [2, 3]])
    np.testing.assert_array_equal(patches((1, 3, 4), (2, 2)), [[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]])
    with pytest.raises(InvalidArgument, match="no axis 2"):
        by_axes((2, 2), 2)
    with pytest.raises(InvalidArgument, match="patches"):
        patches((4,), (2, 2))


def test_ranks_are_of_the_sums_of_groups_and_ties_keep_their_order() -> None:
    scores = np.array([[[1.0, 1.0], [0.0, 3.0], [-9.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    ranks = ranks_of(scores, by_axes((3, 2), 0))
    np.testing.assert_array_equal(ranks[:, :, 0], [[1, 0, 2], [1, 2, 0]])
    np.testing.assert_array_equal(ranks[:, :, 1], ranks[:, :, 0])
    np.testing.assert_array_equal(ranks_of(scores, by_axes((3, 2), 0), absolute=True)[0, :, 0], [2, 1, 0])
    with pytest.raises(InvalidArgument, match="NaN"):
        ranks_of([[np.nan, 1.0]])


def test_ties_have_an_order_of_their_own_by_the_seed() -> None:
    scores = np.array([[0.0] * 40 + [2.0, -1.0], [0.0] * 40 + [-2.0, 5.0]])
    ranks = ranks_of(scores, ties=3)
    np.testing.assert_array_equal(ranks[:, -2:], [[0, 41], [41, 0]])
    assert sorted(ranks[0, :40]) == list(range(1, 41))
    np.testing.assert_array_equal(ranks[0, :40], ranks[1, :40])  # the same ties in the same order
    assert list(ranks[0, :40]) != sorted(ranks[0, :40])
    assert (ranks != ranks_of(scores, ties=4)).any()


def test_groups_of_one_sum_have_no_ranks() -> None:
    scores = {"a": np.array([[1.0, 2.0], [1.0, 2.0]]), "b": np.array([[3.0], [4.0]])}
    groups = {"a": np.array([0, 0]), "b": np.array([1])}
    np.testing.assert_array_equal(are_ranked(scores, groups), [False, True])


def test_ranks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"shape \[3\]"):
        ranks_of(np.ones((2, 4)), np.arange(3))


def test_random_ranks_are_permutations_by_their_seed() -> None:
    one = random_ranks(4, (6, 2), by_axes((6, 2), 0), seed=1)
    np.testing.assert_array_equal(np.sort(one[:, :, 0], axis=1), [range(6)] * 4)
    np.testing.assert_array_equal(one, random_ranks(4, (6, 2), by_axes((6, 2), 0), seed=1))
    assert (one != random_ranks(4, (6, 2), by_axes((6, 2), 0), seed=2)).any()


# --- curves


@pytest.mark.parametrize("to", [0.0, 1.5, "mean"])
def test_curves_are_those_of_numpy(engine: Engine, client: Client, to: Any) -> None:
    h = NET.hidden(X)
    ranks = np.array([[2, 0, 1, 3], [0, 1, 2, 3], [3, 2, 1, 0]])
    value = h.mean(axis=0) if to == "mean" else to
    for kind in ("deletion", "insertion"):
        found = curve(engine, "net", INPUTS, {"h": ranks}, kind=kind, to=to)
        gone = [ranks < k if kind == "deletion" else ranks >= k for k in range(5)]
        expected = np.stack([NET.from_hidden(np.where(mask, value, h)) for mask in gone], axis=1)
        np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.shares, [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(found.area, np.trapezoid(found.values, dx=0.25, axis=1), rtol=1e-12)
        served = curve(client, "net", INPUTS, {"h": ranks}, kind=kind, to=to)
        np.testing.assert_array_equal(served.values, found.values)


def test_a_curve_has_as_many_steps_as_asked_for_and_its_ends(engine: Engine) -> None:
    found = curve(engine, "net", INPUTS, {"x": ranks_of(X)}, points=2)
    np.testing.assert_array_equal(found.counts, [0, 2, 5])
    np.testing.assert_allclose(found.values[:, 0], NET.value(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.values[:, 2], NET.value(0 * X), rtol=1e-5, atol=1e-6)


def test_ranks_of_channels_are_sent_once_for_each_channel(engine: Engine) -> None:
    asked: list[list[list[Edit]]] = []

    class Watched:
        def intervene(self, model: str, inputs: Any, edits: list[list[Edit]], **options: Any) -> Any:
            asked.append(edits)
            return engine.intervene(model, inputs, edits, **options)

    unit = (4, 5, 5)
    ranks = random_ranks(6, unit, by_axes(unit, 0))
    found = curve(Watched(), "planted", IMAGES, {"h": ranks}, target=0)
    (edits,) = asked
    sent = {
        id(one.at.numbers): one.at.numbers for edit in edits for one in edit if isinstance(one.at, Ranked)
    }
    (numbers,) = sent.values()
    assert numbers.shape == (6, 4, 1, 1)
    assert numbers.dtype.name == "uint8"
    np.testing.assert_array_equal(np.broadcast_to(numbers, ranks.shape), ranks)
    np.testing.assert_allclose(found.values[:, -1], -0.1, atol=1e-6)


def test_resampled_elements_are_those_of_other_samples_by_the_seed(engine: Engine) -> None:
    one = curve(engine, "net", INPUTS, {"h": ranks_of(X[:, :4])}, to="resample", seed=3)
    again = curve(engine, "net", INPUTS, {"h": ranks_of(X[:, :4])}, to="resample", seed=3)
    np.testing.assert_array_equal(one.values, again.values)
    for k, end in enumerate(one.values[:, -1]):
        others = np.delete(NET.value(X), k)
        assert np.isclose(others, end, rtol=1e-5, atol=1e-6).any()
    alone = {"x": INPUTS["x"][:1]}
    with pytest.raises(InvalidArgument, match="donors"):
        curve(engine, "net", alone, {"h": ranks_of(X[:1, :4])}, to="resample")
    curve(engine, "net", alone, {"h": ranks_of(X[:1, :4])}, to="resample", donors=INPUTS)


def test_what_is_no_curve_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="deletion or insertion"):
        curve(engine, "net", INPUTS, {"h": ranks_of(X[:, :4])}, kind=cast(Any, "removal"))
    with pytest.raises(InvalidArgument, match="the ranks of 'h' are float64"):
        curve(engine, "net", INPUTS, {"h": X})
    with pytest.raises(InvalidArgument, match="'h'"):
        curve(engine, "net", INPUTS, {"h": ranks_of(X)})
    with pytest.raises(InvalidArgument, match="at least 1 step"):
        curve(engine, "net", INPUTS, {"h": ranks_of(X[:, :4])}, points=0)


# --- the experiment


@pytest.fixture(scope="module")
def planted(engine: Engine) -> Ablation:
    return ablation(engine, "planted", IMAGES, "h", target=0, batch=4)


def test_the_planted_channel_goes_first_by_the_methods_that_see_it(planted: Ablation) -> None:
    assert set(planted.curves) == set(METHODS)
    assert planted.groups == 4
    for name in ("neuron_ig", "deeplift_rescale", "gradient_x_activation"):
        values = planted.curves[name].values
        np.testing.assert_allclose(
            values[:, 1:], -0.1, atol=1e-6
        )  # the bias: all of the decision is gone at once
        assert (values[:, 0] > 0.1).all()
        np.testing.assert_array_equal(planted.curves[name].turned, 1)
        np.testing.assert_allclose(planted.range.area(planted.curves[name]), 1 / 8, rtol=1e-5)
    bright = planted.curves["layer_activation"]  # takes channel 0 first, which decides nothing
    np.testing.assert_allclose(bright.values[:, 1], bright.values[:, 0], rtol=1e-5)
    assert (planted.range.area(bright) > 0.3).all()
    rows = {row.method: row for row in planted.rows()}
    assert {row.method for row in planted.rows()[:4]} == set(METHODS) - {"layer_activation", RANDOM}
    assert rows["neuron_ig"].gain > 2 * rows["neuron_ig"].gain_error > 0
    assert rows["layer_activation"].gain < rows["neuron_ig"].gain


def test_a_verdict_compares_with_random_rankings_of_the_same_samples(
    engine: Engine, planted: Ablation
) -> None:
    found = {one.method: one for one in planted.findings()}
    assert found.keys() == set(METHODS) - {RANDOM}
    assert found["neuron_ig"].word == "passes"
    assert found["neuron_ig"].margin is not None
    assert found["neuron_ig"].margin.high < 0
    assert found["layer_activation"].rank.place == 5
    judged = verdicts(list(found.values()), 6)
    assert judged.methods[-1].method == "layer_activation"
    other = ablation(
        engine, "planted", IMAGES, "h", target=0, kind="insertion", methods=["neuron_ig", RANDOM]
    )
    assert [(one.metric, one.word) for one in other.findings()] == [("insertion_area", "passes")]


def test_insertion_orders_methods_alike(engine: Engine, planted: Ablation) -> None:
    found = ablation(
        engine, "planted", IMAGES, "h", target=0, kind="insertion", methods=["neuron_ig", RANDOM]
    )
    best, worst = found.rows()
    assert (best.method, worst.method) == ("neuron_ig", RANDOM)
    assert best.gain > 0
    np.testing.assert_allclose(
        found.curves["neuron_ig"].values[:, 1:],
        planted.curves["neuron_ig"].values[:, :1].repeat(4, 1),
        rtol=1e-5,
    )


def test_batches_and_servers_move_no_number(engine: Engine, client: Client) -> None:
    targets = Target("scores", [0, 1, 0, 1, 1, 0])
    methods: list[str | Method] = ["neuron_ig", NeuronIG(steps=4), "layer_activation"]
    one = ablation(engine, "planted", IMAGES, "h", target=targets, methods=methods, to="mean")
    for asked, batch in ((engine, 1), (engine, 4), (client, 5)):
        other = ablation(
            asked, "planted", IMAGES, "h", target=targets, methods=methods, to="mean", batch=batch
        )
        for name, each in one.curves.items():
            np.testing.assert_allclose(other.curves[name].values, each.values, rtol=1e-5, atol=1e-6)


def test_sums_of_channels_that_are_known_rank_as_their_attributions_do_and_are_not_asked_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = engine.attribute(AttributionRequest("planted", IMAGES, "gradient_x_activation", ["h"]))
    sums = asked.layers["h"].values.sum(axis=(2, 3), dtype=np.float64)
    own = ablation(engine, "planted", IMAGES, "h", methods=["gradient_x_activation"], batch=4)
    asks: list[str] = []
    attribute = engine.attribute

    def told_of(request: AttributionRequest) -> Attribution:
        asks.append(request.method.name)
        return attribute(request)

    monkeypatch.setattr(engine, "attribute", told_of)
    told = ablation(
        engine, "planted", IMAGES, "h", methods=["gradient_x_activation"], batch=4,
        sums={"gradient_x_activation": {"h": sums}},
    )  # fmt: skip
    np.testing.assert_array_equal(
        told.curves["gradient_x_activation"].values, own.curves["gradient_x_activation"].values
    )
    assert set(asks) == {"layer_activation"}
    turned = ablation(
        engine, "planted", IMAGES, "h", methods=["gradient_x_activation"],
        sums={"gradient_x_activation": {"h": -sums}},
    )  # fmt: skip
    assert (turned.curves["gradient_x_activation"].values != own.curves["gradient_x_activation"].values).any()
    with pytest.raises(InvalidArgument, match="sums of 3 groups, and 4 groups"):
        ablation(
            engine, "planted", IMAGES, "h", methods=["gradient_x_activation"],
            sums={"gradient_x_activation": {"h": sums[:, :3]}},
        )  # fmt: skip


def test_the_features_of_several_inputs_are_ranked_together(engine: Engine, client: Client) -> None:
    engine.add("table", model(
        "(float[N,2] a, float[N] b, int64[N,1] c) => (float[N,1] y) { "
        "s = Gemm(a, wa) u = Unsqueeze(b, one) t = Mul(u, wb) d = Cast<to = 1>(c) e = Add(s, t) y = Add(e, d) }",
        wa=np.array([[1], [5]], np.float32), wb=np.array([3], np.float32), one=[1],
    ))  # fmt: skip
    inputs: dict[str, Any] = {
        "a": np.ones((4, 2), np.float32),
        "b": np.ones(4, np.float32),
        "c": np.ones((4, 1), np.int64),
    }
    for asked in (engine, client):
        found = ablation(asked, "table", inputs, ["a", "b", "c"], methods=["occlusion", RANDOM], batch=3)
        assert (found.groups, found.layer) == (4, "a, b, c")
        np.testing.assert_allclose(found.curves["occlusion"].values, [[10, 5, 2, 1, 0]] * 4)
        assert found.rows()[0].method == "occlusion"
    scores = {"a": np.ones((4, 2)) * [1, 5], "b": np.full(4, 3.0)}
    joint = ranks_of(scores, {"a": np.array([0, 1]), "b": np.array(0)})
    np.testing.assert_array_equal(joint["a"][0], [1, 0])
    np.testing.assert_array_equal(joint["b"], [1] * 4)
    with pytest.raises(InvalidArgument, match="groups of a, and scores of a, b"):
        ranks_of(scores, {"a": np.array([0, 1])})


def test_before_a_linear_head_no_ranking_beats_the_method_that_counts_from_what_neurons_become(
    engine: Engine,
) -> None:
    inputs = {"x": np.concatenate([X, OTHERS]).astype(np.float32)}
    for to, best in (("baseline", "neuron_ig"), (0.0, "gradient_x_activation")):
        found = ablation(engine, "net", inputs, "h2", to=cast(Any, to), baselines={"x": 0.3}, target=0)
        for one in found.curves.values():
            assert (found.curves[best].area <= one.area + 1e-5).all()
        x = inputs["x"].astype(np.float64)
        ends = NET.value(np.full_like(x, 0.3)) if to == "baseline" else np.zeros(len(x))
        np.testing.assert_allclose(found.curves[best].values[:, 0], NET.value(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.curves[best].values[:, -1], ends, rtol=1e-5, atol=1e-6)
    for baselines, words in (
        ({"x": X[:2].astype(np.float32)}, "'x' is not one for all samples, nor one for each"),
        ({"h": 0.0}, "h is no input"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            ablation(engine, "net", INPUTS, "h2", to="baseline", baselines=baselines, target=0)


def test_neurons_become_what_they_are_at_the_baseline_of_their_own_sample(
    engine: Engine, client: Client
) -> None:
    for asked, batch in ((engine, 32), (engine, 2), (client, 1)):
        found = ablation(
            asked, "net", INPUTS, "h", to="baseline", baselines={"x": OTHERS.astype(np.float32)}, target=0,
            methods=["gradient_x_activation", RANDOM], batch=batch,
        )  # fmt: skip
        assert found.to == "set to what it is at the baseline"
        for one in found.curves.values():
            np.testing.assert_allclose(one.values[:, 0], NET.value(X), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(one.values[:, -1], NET.value(OTHERS), rtol=1e-5, atol=1e-6)


def test_areas_are_shares_of_the_range_of_all_curves(planted: Ablation) -> None:
    every = np.stack([one.values for one in planted.curves.values()])
    low, high = every.min(axis=(0, 2)), every.max(axis=(0, 2))
    for one in planted.curves.values():
        shares = (one.values - low[:, None]) / (high - low)[:, None]
        np.testing.assert_allclose(planted.range.values(one), shares, rtol=1e-12)
        wanted = np.trapezoid(shares, one.shares, axis=1)
        np.testing.assert_allclose(planted.range.area(one), wanted, rtol=1e-9)
    flat = Curve("deletion", 2, np.array([0, 1, 2]), np.ones((1, 3)), np.zeros((1, 3), np.int64))
    assert np.isnan(Range.of([flat]).area(flat)).all()


def test_methods_without_a_way_are_told_and_others_ranked(engine: Engine) -> None:
    engine.add(
        "steps",
        model("(float[N,3] x) => (float[N,3] y) { h = Exp(x) t = Floor(h) y = CumSum(t, one) }", one=1),
    )
    engine.add("counted", model("(float[N,3] x) => (int64[N,3] y) { h = Exp(x) y = Cast<to = 7>(h) }"))
    x = {"x": RNG.normal(size=(3, 3)).astype(np.float32)}
    for name in ("steps", "counted"):
        found = ablation(
            engine, name, x, "h", target=Target("y", 2), methods=["neuron_ig", "layer_activation"]
        )
        assert found.curves.keys() == {"layer_activation"}
        assert "'y'" in found.failed["neuron_ig"]


@pytest.mark.parametrize("served", [False, True])
def test_methods_that_refuse_the_layer_are_told_and_others_ranked(engine: Engine, *, served: bool) -> None:
    """`full_grad` has no layer, `grad_cam` a map without channels, `guided_grad_cam` one of the input."""
    names = ["full_grad", "grad_cam", "guided_grad_cam", "gradient_x_activation", RANDOM]
    with contextlib.ExitStack() as stack:
        asked: Any = engine
        if served:
            address, _ = stack.enter_context(app.background(engine, Settings(port=0)))
            asked = stack.enter_context(Client(address))
        found = ablation(asked, "planted", IMAGES, "h", methods=names, target=0)
        assert found.curves.keys() == {"gradient_x_activation", RANDOM}
        assert found.groups == 4
        assert "leave layers out" in found.failed["full_grad"]
        assert "[4, 3, 3]" in found.failed["grad_cam"]
        assert "'image'" in found.failed["guided_grad_cam"]
        with pytest.raises(InvalidArgument, match="leave layers out"):
            ablation(asked, "planted", IMAGES, "h", methods=["full_grad"], target=0)
        with pytest.raises(InvalidArgument, match="no method 'fullgrad'; there are: gradient,"):
            ablation(asked, "planted", IMAGES, "h", methods=["fullgrad", RANDOM], target=0)


def test_the_experiment_is_told_in_text_and_json(planted: Ablation) -> None:
    lines = planted.table().splitlines()
    assert lines[0] == "deletion of 4 groups of h, each removed; 6 samples"
    assert len(lines) == 2 + len(METHODS)
    told = cast(dict[str, Any], planted.json())
    assert told["counts"] == [0, 1, 2, 3, 4]
    assert set(told["methods"]) == set(METHODS)
    assert told["methods"]["neuron_ig"]["turned"] == 1
    assert told["methods"]["neuron_ig"]["turned_share"] == 1


def test_what_cannot_be_asked_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="no_such"):
        ablation(engine, "planted", IMAGES, "h", methods=["no_such"])
    with pytest.raises(NotFound, match="nowhere"):
        ablation(engine, "planted", IMAGES, "nowhere")
    with pytest.raises(InvalidArgument, match="no method"):
        ablation(engine, "planted", IMAGES, "h", methods=[])
    with pytest.raises(InvalidArgument, match="no axis 5"):
        ablation(engine, "planted", IMAGES, "h", groups=lambda unit: by_axes(unit, 5))
