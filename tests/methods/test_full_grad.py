"""FullGrad: terms that sum to the target, what counts as a bias, and the map that is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.definitions.full_grad import normalised
from tests.definitions.maps import sized
from tests.methods.convolutions import assert_is, convolutional, inputs
from tests.methods.toys import model

SMALL = {
    name: array.astype(np.float32)
    for name, array in {
        "k": np.random.default_rng(0).normal(size=(4, 3, 2, 2)),
        "kb": np.random.default_rng(1).normal(size=4),
        "t": np.random.default_rng(2).normal(size=(4, 2, 2, 2)),
        "tb": np.random.default_rng(3).normal(size=2),
        "scale": np.array([0.5, 2.0, -1.0, 1.5]),
        "offset": np.array([0.1, -0.2, 0.3, 0.4]),
        "mean": np.array([0.3, -0.1, 0.2, 0.5]),
        "variance": np.array([1.0, 0.5, 2.0, 0.25]),
        "w": np.random.default_rng(4).normal(size=(40, 3)) / 6,
        "wb": np.array([0.5, -0.25, 1.0]),
        "one": np.array([[[0.5]], [[-0.25]]]),
        "two": np.array(0.75),
    }.items()
}
MIXED = """(float[N,3,5,4] x) => (float[N,3] y) {
    c = Conv(x, k, kb)
    n = BatchNormalization<epsilon = 0.01>(c, scale, offset, mean, variance)
    r = Relu(n)
    p = MaxPool<kernel_shape = [2, 2], strides = [1, 1]>(r)
    d = ConvTranspose(p, t, tb)
    e = Sub(one, d)
    f = LeakyRelu<alpha = 0.2>(e)
    g = Sub(f, two)
    q = Clip(g, low, high)
    s = Flatten(q)
    z = Gemm<beta = 0.5>(s, w, wb)
    y = Add(z, wb)
}"""
BIASED = ["c", "n", "d", "e", "g", "q", "z", "y"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        for rank in (1, 2, 3):
            made.add(f"net{rank}", convolutional(rank))
        limits = {"low": np.float32(-1), "high": np.float32(1.5)}
        sizes = {**SMALL, "w": np.random.default_rng(4).normal(size=(24, 3)).astype(np.float32)}
        made.add("mixed", model(MIXED, **sizes, **limits))
        made.add("toy", model(
            "(double[N,1] x) => (double[N,1] f) { z = Add(x, minus) r = Relu(z) t = Mul(r, three) f = Add(t, half) }",
            minus=np.array([-1.0]), three=np.array([3.0]), half=np.array([0.5]),
        ))  # fmt: skip
        made.add(
            "bent",
            model(
                "(double[N,3] x) => (double[N,3] y) { z = Add(x, b) q = Mul(z, z) y = Exp(q) }", b=np.ones(3)
            ),
        )
        yield made


def asked(engine: Engine, name: str, x: Any, method: str = "full_grad_terms", **changed: Any) -> Any:
    target = changed.pop("target", 1)
    return engine.attribute(AttributionRequest(name, {"x": x}, method, target=target, **changed))


def test_the_toy_has_the_terms_worked_out_by_hand(engine: Engine) -> None:
    answer = asked(engine, "toy", np.array([[2.0]]), target=0)
    assert {name: layer.values.item() for name, layer in answer.layers.items()} == {"x": 6, "z": -3, "f": 0.5}
    assert answer.joint_residual is not None
    assert answer.joint_residual.item() == 0
    assert answer.warnings == ()


def test_every_kind_of_bias_is_found_and_terms_sum_to_the_target(engine: Engine) -> None:
    x = np.random.default_rng(5).normal(size=(3, 3, 5, 4)).astype(np.float32)
    answer = asked(engine, "mixed", x)
    assert list(answer.layers) == ["x", *BIASED]
    total = sum(layer.sum for layer in answer.layers.values())
    np.testing.assert_allclose(total, answer.target.value, rtol=1e-5, atol=1e-6)
    assert answer.joint_residual is not None
    np.testing.assert_allclose(answer.joint_residual, total - answer.target.value, atol=1e-12)
    assert all(np.abs(layer.values).max() > 1e-3 for layer in answer.layers.values())  # none is idle
    assert answer.warnings == ()


def test_in_half_types_terms_sum_to_the_target_up_to_their_rounding(engine: Engine) -> None:
    """Tensors are rounded to eleven bits on the way."""
    half = {
        name: array.astype(np.float16)
        for name, array in SMALL.items()
        if name not in ("one", "two", "t", "tb")
    }
    nodes = """c = Conv(x, k, kb) n = BatchNormalization(c, scale, offset, mean, variance) r = Relu(n)
        s = Flatten(r) z = Gemm(s, w, wb)"""
    half["w"] = np.random.default_rng(4).normal(size=(48, 3)).astype(np.float16) / np.float16(6)
    engine.add("half", model(f"(float16[N,3,5,4] x) => (float16[N,3] z) {{ {nodes} }}", **half))
    x = np.random.default_rng(5).normal(size=(3, 3, 5, 4)).astype(np.float16)
    answer = asked(engine, "half", x)
    assert list(answer.layers) == ["x", "c", "n", "z"]
    size = sum(
        np.abs(layer.values).sum(axis=tuple(range(1, layer.values.ndim))) for layer in answer.layers.values()
    )
    assert (np.abs(answer.joint_residual) < 5e-3 * size).all()
    assert answer.warnings == ()


def test_terms_are_gradients_times_biases(engine: Engine) -> None:
    x = np.random.default_rng(5).normal(size=(3, 3, 5, 4)).astype(np.float32)
    found = asked(engine, "mixed", x).layers
    own = engine.attribute(AttributionRequest("mixed", {"x": x}, "gradient", ["x", *BIASED], target=1)).layers
    held: Any = engine.attribute(
        AttributionRequest("mixed", {"x": x}, "layer_activation", ["g", "q"], target=1)
    ).layers
    wide = {name: np.asarray(array, np.float64) for name, array in SMALL.items()}
    norm = wide["offset"] - wide["mean"] * wide["scale"] / np.sqrt(wide["variance"] + 0.01)
    inner = (held["g"].values > -1) & (held["g"].values < 1.5)
    biases: dict[str, Any] = {
        "x": x, "c": wide["kb"][:, None, None], "n": norm[:, None, None], "d": wide["tb"][:, None, None],
        "e": wide["one"], "g": -wide["two"], "q": np.where(inner, 0, held["q"].values),
        "z": 0.5 * wide["wb"], "y": wide["wb"],
    }  # fmt: skip
    for name, bias in biases.items():
        assert_is(found[name].values, own[name].values.astype(np.float64) * bias)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_samples_targets_and_hidden_targets_have_terms_of_their_own(engine: Engine, rank: int) -> None:
    x = inputs(rank)
    targets: Any = [0, Target("d", 2), Target("c2", (1, *[0] * rank))]
    several = engine.attribute(AttributionRequest(f"net{rank}", {"x": x}, "full_grad", targets=targets))
    for k, target in enumerate(targets):
        for n in range(3):
            alone = asked(engine, f"net{rank}", x[n : n + 1], "full_grad", target=target)
            np.testing.assert_allclose(
                several.layers["x"].values[k, n], alone.layers["x"].values[0], rtol=1e-4, atol=1e-5
            )


def test_what_is_not_proportional_is_said(engine: Engine) -> None:
    x = np.array([[0.3, -0.2, 0.1]])
    for method in ("full_grad_terms", "full_grad"):
        (words,) = asked(engine, "bent", x, method, target=0).warnings
        assert "the terms sum to" in words
        assert "neither proportional to its input nor adds a bias" in words
    total = asked(engine, "bent", x, target=0)
    assert total.joint_residual is not None
    assert abs(total.joint_residual[0]) > 0.1


@pytest.mark.parametrize("sign", ["signed", "positive", "absolute"])
@pytest.mark.parametrize("how", ["nearest", "linear", "linear_corners"])
def test_the_map_is_the_sum_of_normalised_terms_at_the_size_of_the_input(
    engine: Engine, sign: str, how: str
) -> None:
    x = inputs(2)
    terms = asked(engine, "net2", x).layers
    wanted = np.zeros((3, 1, 6, 5))
    for name in ("x", "c1", "c2"):  # d and t are dense
        for n, own in enumerate(terms[name].values.astype(np.float64)):
            term = normalised(own, sign).sum(axis=0)
            wanted[n, 0] += sized(term, (6, 5), how)
    found = asked(engine, "net2", x, "full_grad", sign=sign, upsample=how).layers["x"].values
    assert_is(found, wanted)


def test_without_biases_it_is_simple_full_grad(engine: Engine) -> None:
    x = inputs(2)
    gradients = engine.attribute(
        AttributionRequest("net2", {"x": x}, "gradient", ["x", "c1", "c2"], target=1)
    ).layers
    wanted = np.zeros((3, 1, 6, 5))
    for name in ("x", "c1", "c2"):
        for n, own in enumerate(gradients[name].values.astype(np.float64)):
            own = own * x[n] if name == "x" else own
            wanted[n, 0] += sized(normalised(own, "absolute").sum(axis=0), (6, 5), "linear_corners")
    found = asked(engine, "net2", x, "full_grad", multiply_by_biases=False)
    assert_is(found.layers["x"].values, wanted)
    assert found.warnings == ()


def test_without_its_range_a_signed_map_of_one_size_sums_to_the_terms(engine: Engine) -> None:
    nodes = "z = Add(x, b) r = Relu(z) m = GlobalAveragePool(r) f = Flatten(m) y = MatMul(f, v)"
    weights = {"b": np.random.default_rng(0).normal(size=(2, 1, 1)), "v": np.array([[2.0], [-3.0]])}
    proto = model(
        f"(float[N,2,3,3] x) => (float[N,1] y) {{ {nodes} }}",
        **{name: array.astype(np.float32) for name, array in weights.items()},
    )
    engine.add("same", proto)
    x = np.random.default_rng(1).normal(size=(2, 2, 3, 3)).astype(np.float32)
    found = asked(engine, "same", x, "full_grad", sign="signed", normalise=False, target=0)
    np.testing.assert_allclose(found.layers["x"].sum, found.target.value, rtol=1e-5)


def test_layers_are_refused(engine: Engine) -> None:
    with pytest.raises(
        InvalidArgument, match="full_grad is of its source and of every bias behind; leave layers out"
    ):
        asked(engine, "net2", inputs(2), "full_grad", layers=["c1"])


def test_noise_is_taken_over_terms_and_maps(engine: Engine) -> None:
    x = inputs(2, 2)
    for of in ("full_grad", "full_grad_terms"):
        answer = asked(engine, "net2", x, "smoothgrad", of=of, draws=3, stdev=0.2)
        moved = [x + 0.2 * np.random.default_rng([0, k]).standard_normal(x.shape[1:]) for k in range(3)]
        drawn = [asked(engine, "net2", one.astype(np.float32), of).layers for one in moved]
        assert list(answer.layers) == list(drawn[0])
        for name, layer in answer.layers.items():
            assert_is(layer.values, np.mean([one[name].values.astype(np.float64) for one in drawn], axis=0))
