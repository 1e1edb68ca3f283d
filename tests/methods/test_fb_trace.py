"""fb_trace: the mass that is kept, supports that are nested, thresholds by a budget, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.client.support import kept
from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.methods import FbTrace
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.standalone import Standalone, standalone_model
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.methods.toys import Floats, model

RNG = np.random.default_rng(0)
TOY = model(
    "(double[N,2] x) => (double[N,1] y) { z = MatMul(x, w) h = Relu(z) y = MatMul(h, v) }",
    w=np.array([[1.0, 1], [2, -1]]),
    v=np.ones((2, 1)),
)
W1, W2, W3 = RNG.normal(size=(30, 40)), RNG.normal(size=(40, 40)), RNG.normal(size=(40, 3))
B1, B2, B3 = 0.1 * RNG.normal(size=40), 0.1 * RNG.normal(size=40), RNG.normal(size=3)
X = np.abs(RNG.normal(size=(4, 30)))


def dense(scale: float = 1.0) -> onnx.ModelProto:
    """Three layers; what the first is multiplied by, the second is divided by."""
    return model(
        """(double[N,30] x) => (double[N,3] y) {
            z1 = Gemm(x, w1, b1) h1 = Relu(z1) z2 = Gemm(h1, w2, b2) h2 = Relu(z2) y = Gemm(h2, w3, b3)
        }""",
        w1=W1 * scale, b1=B1 * scale, w2=W2 / scale, b2=B2, w3=W3, b3=B3,
    )  # fmt: skip


def convolved() -> onnx.ModelProto:
    """Two convolutions with a max pool between, and the sum with a way around the second."""
    rng = np.random.default_rng(1)
    return model(
        """(float[N,2,12,12] x) => (float[N,4,6,6] y) {
            c1 = Conv <pads = [1,1,1,1]> (x, k1, b1) h1 = Relu(c1)
            p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (h1)
            c2 = Conv <pads = [1,1,1,1]> (p, k2) h2 = Relu(c2) y = Add(h2, p)
        }""",
        k1=rng.normal(size=(4, 2, 3, 3)).astype(np.float32), b1=rng.normal(size=4).astype(np.float32),
        k2=rng.normal(size=(4, 4, 3, 3)).astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("toy", TOY)
        made.add("dense", dense())
        made.add("convolved", convolved())
        yield made


def ask(
    engine: Engine,
    name: str,
    x: Any,
    layers: Any = ("x",),
    index: Any = 0,
    form: str = "positive",
    **given: Any,
) -> Attribution:
    request = AttributionRequest(
        name, {"x": np.asarray(x)}, "fb_trace", list(layers), target=Target(index=index), form=form, **given
    )
    return engine.attribute(request)


def shares(answer: Attribution, name: str = "x") -> Floats:
    return np.asarray(answer.layers[name].values, np.float64)


@pytest.mark.parametrize(
    ("tau", "at_x", "mass"),
    [(0.3, [0, 0.8], 0.8), (0.1, [0.2, 0.8], 1), (0, [0.2, 0.8], 1), (0.9, [0, 0], 0)],
)
def test_the_toy(engine: Engine, tau: float, at_x: list[float], mass: float) -> None:
    answer = ask(engine, "toy", [[1.0, 2]], ["x", "h"], tau=tau)
    np.testing.assert_allclose(shares(answer), [at_x], rtol=1e-6)
    np.testing.assert_allclose(shares(answer, "h"), [[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(answer.layers["x"].sum, [mass], rtol=1e-6)
    np.testing.assert_allclose(answer.target.value, [5])


def test_what_is_just_at_the_threshold_is_kept(engine: Engine) -> None:
    np.testing.assert_allclose(shares(ask(engine, "toy", [[1.0, 2]], tau=0.2)), [[0.2, 0.8]], rtol=1e-6)


def test_without_a_threshold_it_is_lrp_by_positive_terms_and_nothing_is_lost(engine: Engine) -> None:
    names = ["x", "h1", "h2"]
    answer = ask(engine, "dense", X, names, index=1, tau=0.0)
    request = AttributionRequest(
        "dense", {"x": X}, "lrp", names, target=Target(index=1), rule="zplus", zero_bias=True, epsilon=0.0
    )
    lrp = engine.attribute(request)
    for name in names:
        np.testing.assert_allclose(
            shares(answer, name) * lrp.target.value[:, None], shares(lrp, name), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(answer.layers[name].sum, np.ones(4), rtol=1e-9)


def test_a_unit_that_only_its_bias_makes_loses_its_mass(engine: Engine) -> None:
    net = model(
        "(double[N,2] x) => (double[N,1] y) { z = Gemm(x, w, b) h = Relu(z) y = MatMul(h, v) }",
        w=np.array([[1.0, -1], [1, -1]]), b=np.array([0.0, 5]), v=np.ones((2, 1)),
    )  # fmt: skip
    engine.add("biased", net)
    answer = ask(engine, "biased", [[1.0, 1]], ["x", "h"], tau=0.0)
    np.testing.assert_allclose(shares(answer, "h"), [[0.4, 0.6]])
    np.testing.assert_allclose(answer.layers["x"].sum, [0.4])


@pytest.mark.parametrize("name", ["dense", "convolved"])
def test_supports_are_nested_and_the_mass_falls_with_the_threshold_and_the_depth(
    engine: Engine, name: str
) -> None:
    x = X if name == "dense" else RNG.normal(size=(2, 2, 12, 12))
    names, index = (["x", "h1", "h2"], 0) if name == "dense" else (["x", "h1", "p"], (1, 3, 3))
    found = [ask(engine, name, x, names, index, tau=tau) for tau in (0.0, 1e-4, 1e-3, 1e-2, 0.05)]
    for less, more in pairwise(found):
        for layer in names:
            assert (shares(more, layer) <= shares(less, layer) * (1 + 1e-5)).all()
        masses = [more.layers[layer].sum for layer in names]
        assert (masses[0] <= masses[1] + 1e-6).all()
        assert (masses[-1] <= 1 + 1e-6).all()
    sizes = [kept(one)["x"].support.sum() for one in found]
    assert sizes[0] > sizes[-2] > 0


@pytest.mark.parametrize("scale", [2.0**-20, 1e3])
def test_the_scale_of_a_layer_moves_nothing(engine: Engine, scale: float) -> None:
    engine.add("scaled", dense(scale))
    for tau in (0.0, 0.01):
        plain = shares(ask(engine, "dense", X, tau=tau))
        np.testing.assert_allclose(shares(ask(engine, "scaled", X, tau=tau)), plain, rtol=1e-9, atol=1e-15)


def test_a_chain_of_200_layers_stays_finite(engine: Engine) -> None:
    rng = np.random.default_rng(2)
    body = "".join(f"a{k + 1} = MatMul(h{k}, w) h{k + 1} = Relu(a{k + 1}) " for k in range(200))
    body = body.replace("(h0,", "(x,").replace("h200 =", "y =")
    engine.add(
        "chain",
        model(f"(double[N,16] x) => (double[N,16] y) {{ {body} }}", w=rng.normal(size=(16, 16)) + 0.5),
    )
    x = np.abs(rng.normal(size=(2, 16)))
    whole, cut = (ask(engine, "chain", x, tau=tau) for tau in (0.0, 1e-3))
    assert (whole.target.value > 1e50).all()
    np.testing.assert_allclose(whole.layers["x"].sum, [1, 1], rtol=1e-9)
    assert np.isfinite(shares(cut)).all()
    assert (cut.layers["x"].sum <= 1 + 1e-9).all()


def test_the_support_lies_within_the_receptive_field(engine: Engine) -> None:
    x = RNG.normal(size=(1, 2, 12, 12))
    for form in ("positive", "signed"):
        found = shares(ask(engine, "convolved", x, index=(2, 1, 4), form=form, tau=0.0))[0]
        rows, columns = (np.flatnonzero(found.any(axis=axes)) for axes in ((0, 2), (0, 1)))
        # rows 0 to 2 of the pool are rows 0 to 5 before it, and one more for the first convolution
        assert rows.min() >= 0
        assert rows.max() <= 6
        assert columns.min() >= 5
        assert columns.max() <= 11
        assert (found != 0).sum() > 10


def test_samples_have_thresholds_of_their_own_and_the_numbers_that_they_have_alone(engine: Engine) -> None:
    x = np.concatenate(
        [X, X * [[1.0], [-1], [1], [0.1]], 0 * X[:1]]
    )  # of both signs, and one without a unit that counts
    for tau in (None, 0.02):
        together = ask(engine, "dense", x, ["x", "h1"], tau=tau)
        for k in range(len(x)):
            alone = ask(engine, "dense", x[k : k + 1], ["x", "h1"], tau=tau)
            for name in ("x", "h1"):
                np.testing.assert_allclose(shares(alone, name)[0], shares(together, name)[k], rtol=1e-9)
            np.testing.assert_allclose(alone.target.value, together.target.value[k])


@pytest.mark.parametrize("form", ["positive", "signed"])
@pytest.mark.parametrize("budget", [0.04, 0.1, 0.5])
def test_a_budget_keeps_as_many_positions_as_it_has_room_for(
    engine: Engine, form: str, budget: float
) -> None:
    x = RNG.normal(size=(2, 2, 12, 12))
    answer = ask(engine, "convolved", x, index=(1, 3, 3), form=form, budget=budget)
    whole = ask(engine, "convolved", x, index=(1, 3, 3), form=form, tau=0.0)
    for k in range(2):
        count = int((shares(answer)[k] != 0).any(axis=0).sum())
        room = min(int(budget * 144), int((shares(whole)[k] != 0).any(axis=0).sum()))
        assert room - 2 <= count <= room  # a threshold to 2 % may leave out one or two that are close
    assert any("the thresholds are of the budget" in words for words in answer.warnings)


def test_the_budget_is_of_the_sources_whatever_is_asked_for(engine: Engine) -> None:
    alone, beside = ask(engine, "dense", X, ["h1"]), ask(engine, "dense", X, ["x", "h1"])
    np.testing.assert_allclose(shares(alone, "h1"), shares(beside, "h1"), rtol=1e-12)


def test_all_layers_say_how_the_mass_flows(engine: Engine) -> None:
    found = kept(ask(engine, "convolved", RNG.normal(size=(1, 2, 12, 12)), ["*"], (1, 3, 3), tau=0.01))
    assert found["p"].units == 144
    assert 0 < found["p"].support[0] <= 100
    assert 0 < found["h1"].mass[0] <= found["p"].mass[0] <= 1 + 1e-6


def test_a_max_pool_passes_to_the_first_of_equal_maxima(engine: Engine) -> None:
    body = "(float[N,1,4] x) => (float[N,1,2] y) { y = MaxPool <kernel_shape = [2], strides = [2]> (x) }"
    engine.add("pool", model(body))
    found = shares(ask(engine, "pool", [[[3.0, 3, 1, 2]], [[0, 1, 2, 2]]], index=(0, slice(0, 2)), tau=0.0))
    np.testing.assert_allclose(found[:, 0], [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])


LINEAR: dict[str, tuple[str, list[float], list[float]]] = {
    "terms of both signs": ("Add(x, q)", [2.0, -1], [1, 0]),
    "terms that share": ("Add(x, q)", [2.0, 3], [1, 1]),
    "a difference": ("Sub(x, q)", [2.0, -1], [1, 1]),
    "a constant factor below 0": ("Mul(x, below)", [2.0, -1], [0, 1]),
    "a constant term": ("Add(x, one)", [2.0, -0.5], [1, 0]),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators_share_by_positive_terms(engine: Engine, name: str) -> None:
    body, x, wanted = LINEAR[name]
    net = model(
        f"(double[N,2] x) => (double[N,2] y) {{ q = Mul(x, two) y = {body} }}",
        two=np.array([2.0]), one=np.array([1.0]), below=np.array([-1.0]),
    )  # fmt: skip
    engine.add("linear", net)
    found = [shares(ask(engine, "linear", [x], index=k, tau=0.0, first="positive"))[0, k] for k in (0, 1)]
    if (
        name == "a difference"
    ):  # x - 2 x: where x is above 0 the term x, else -2 x, which reaches x as a term below 0
        wanted = [1, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_an_average_shares_by_what_it_averages(engine: Engine) -> None:
    body = "(float[N,1,2,2] x) => (float[N,1,1,1] y) { h = Relu(x) y = GlobalAveragePool(h) }"
    engine.add("mean", model(body))
    found = shares(ask(engine, "mean", [[[[1.0, -4], [3, 0]]]], tau=0.0))
    np.testing.assert_allclose(found[0, 0], [[0.25, 0], [0.75, 0]], rtol=1e-6)


def test_magnitudes_at_the_source_where_a_number_is_below_0(engine: Engine) -> None:
    x = np.array([[1.0, -1.5], [3, 1]])
    found = {
        first: shares(ask(engine, "toy", x, tau=0.0, first=first))
        for first in ("positive", "absolute", "auto")
    }
    # the second unit is x1 - x2 = 2.5, by both of its terms; the first, 1 - 3, is not active
    np.testing.assert_allclose(found["absolute"][0], [0.4, 0.6])
    np.testing.assert_allclose(found["auto"], [found["absolute"][0], found["positive"][1]])
    assert not np.allclose(found["absolute"][1], found["positive"][1])


def test_the_signed_form_tells_what_speaks_against_the_target(engine: Engine) -> None:
    answer = ask(engine, "dense", X, ["x", "h2"], index=1, form="signed", tau=0.02)
    h = np.maximum(np.maximum(X @ W1 + B1, 0) @ W2 + B2, 0)
    terms = h * W3[:, 1]
    wanted = terms / np.abs(terms).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares(answer, "h2"), np.where(np.abs(wanted) >= 0.02, wanted, 0), rtol=1e-9)
    assert (shares(answer) < 0).any()


def test_what_it_cannot_say_is_refused(engine: Engine) -> None:
    request = AttributionRequest(
        "dense", {"x": X}, "fb_trace", target=Target(index=0, minus=1), form="positive"
    )
    with pytest.raises(InvalidArgument, match=r"not from a difference"):
        engine.attribute(request)
    body = "(double[N,3] x) => (double[N,3] y) { h = MatMul(x, w) y = Softmax(h) }"
    engine.add("softmax", model(body, w=np.eye(3)))
    with pytest.raises(
        NotDifferentiable, match=r"fb_trace of the form positive has no rule for Softmax .*logit=True"
    ):
        ask(engine, "softmax", np.ones((1, 3)))
    with pytest.raises(InvalidArgument, match=r"tau is 2; it must lie between 0 and 1"):
        ask(engine, "toy", [[1.0, 2]], tau=2)
    with pytest.raises(InvalidArgument, match=r"cannot be built into a file: its thresholds"):
        standalone_model(
            LoadedModel(TOY, Backend("cpu", 1)), Standalone(FbTrace(), ["x"], ["x"], Target("y", 0))
        )


def test_nothing_is_kept_of_equal_shares_that_are_too_many_and_the_answer_says_so(engine: Engine) -> None:
    body = "(double[N,40] x) => (double[N,1] y) { y = ReduceSum <keepdims = 1> (x, axes) }"
    engine.add("even", model(body, axes=np.array([1])))
    for form in ("positive", "signed"):
        answer = ask(engine, "even", np.ones((1, 40)), form=form)
        assert not shares(answer).any()
        assert any("nothing is kept in sample 0" in words for words in answer.warnings)


@pytest.mark.parametrize(("axis", "positions"), [(None, 144), (-1, 144), (1, 36)])
def test_channels_that_lie_last_are_one_position(engine: Engine, axis: int | None, positions: int) -> None:
    body = "(float[N,12,12,3] x) => (float[N,1] y) { y = ReduceSum <keepdims = 0> (x, axes) }"
    engine.add("last", model(body.replace("float[N,1]", "float[N]"), axes=np.array([1, 2, 3])))
    x = RNG.uniform(size=(1, 12, 12, 3))
    request = AttributionRequest("last", {"x": x}, "fb_trace", channel_axis=axis, budget=0.25)
    found = engine.attribute(request)
    assert f"of {positions} positions" in found.warnings[-1]


@pytest.mark.parametrize("tau", [None, 1e-7])
def test_half_types_hold_what_begins_and_the_target(engine: Engine, tau: float | None) -> None:
    body = """(float16[N,30] x) => (float16[N,3] y) {
        z1 = Gemm(x, w1, b1) h1 = Relu(z1) z2 = Gemm(h1, w2, b2) h2 = Relu(z2) y = Gemm(h2, w3, b3) }"""
    weights = {"w1": W1, "b1": B1, "w2": W2, "b2": B2, "w3": W3, "b3": B3}
    engine.add("half", model(body, **{name: w.astype(np.float16) for name, w in weights.items()}))
    found = ask(engine, "half", X.astype(np.float16), tau=tau, budget=0.2)
    wide = ask(engine, "dense", X, tau=tau, budget=0.2)
    np.testing.assert_allclose(found.target.value, wide.target.value, rtol=0.02)
    assert ((shares(found) > 0).sum(axis=1) >= 5).all()
    if tau is not None:  # nothing is near the threshold
        np.testing.assert_allclose(shares(found), shares(wide), rtol=0.05, atol=1e-4)  # 3 digits


def test_maps_of_other_classes_are_alike_in_the_positive_form_and_not_in_the_signed(engine: Engine) -> None:
    """The digits: positive terms alone spread what they carry in much the same way, whatever it began with."""
    folder = Path(__file__).parents[1] / "data" / "digits"
    engine.add("digits", folder / "digits.onnx")
    x, alike = np.load(folder / "digits.npz")["images"][:20], {}
    for form in ("positive", "signed"):
        request = AttributionRequest(
            "digits",
            {"image": x},
            "fb_trace",
            targets=[Target(index=k) for k in range(10)],
            form=form,
            tau=0.0,
        )
        maps = np.asarray(engine.attribute(request).layers["image"].values, np.float64).reshape(10, 20, -1)
        found = [np.atleast_2d(np.corrcoef(maps[:, sample]))[np.triu_indices(10, 1)] for sample in range(20)]
        alike[form] = float(np.median(found))
    assert alike["positive"] > 0.9
    assert abs(alike["signed"]) < 0.3
