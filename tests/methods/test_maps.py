"""Class activation maps of convolutional layers: their definitions at every rank of positions, the toys, the cases in
which they are equal, which layer is meant, and how a map comes to the size of the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.methods import make
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest, Target
from tests.definitions import grad_cam, grad_cam_pp, hires_cam, layer_cam, xgrad_cam
from tests.definitions.maps import Weigh, mapped, sized
from tests.methods.toys import Floats, model

WEIGHTS: dict[str, Any] = {
    "grad_cam": grad_cam.weights,
    "grad_cam_pp": grad_cam_pp.weights,
    "hires_cam": hires_cam.weights,
    "layer_cam": layer_cam.weights,
    "xgrad_cam": xgrad_cam.weights,
}
SIGNS = ("signed", "positive", "absolute")


def convolutional(rank: int, *, last: bool = False) -> onnx.ModelProto:
    """Two convolutions over so many axes of positions, a head on their outputs; `last`: the maps of `tokens`, whose
    channels are the last axis."""
    rng = np.random.default_rng(rank)
    sizes = (6, 5, 4)[:rank]
    left = tuple(size - 2 for size in sizes)
    axes = ",".join(map(str, sizes))
    kernel = (2,) * rank
    moved = ",".join(map(str, (0, *range(2, rank + 2), 1)))
    tokens, end = (f"tokens = Transpose<perm=[{moved}]>(r2)", "tokens") if last else ("", "r2")
    nodes = f"""
        c1 = Conv(x, k1, b1)
        r1 = Relu(c1)
        c2 = Conv(r1, k2, b2)
        r2 = Relu(c2)
        {tokens}
        f = Flatten({end})
        d = Gemm(f, w, b)
        t = Tanh(d)
        y = MatMul(t, v)"""
    floats: dict[str, Any] = {
        "k1": rng.normal(size=(4, 3, *kernel)), "b1": 0.3 * rng.normal(size=4),
        "k2": rng.normal(size=(5, 4, *kernel)) / 2, "b2": 0.3 * rng.normal(size=5),
        "w": rng.normal(size=(5 * int(np.prod(left)), 6)) / 8, "b": rng.normal(size=6),
        "v": rng.normal(size=(6, 3)),
    }  # fmt: skip
    if last:  # the same head of what lies in another order
        floats["w"] = np.moveaxis(floats["w"].reshape(5, -1, 6), 0, 1).reshape(-1, 6)
    weights = {name: array.astype(np.float32) for name, array in floats.items()}
    return model(f"(float[N,3,{axes}] x) => (float[N,3] y) {{ {nodes} }}", **weights)


def inputs(rank: int, samples: int = 3) -> Floats:
    return np.random.default_rng(10 + rank).normal(size=(samples, 3, *(6, 5, 4)[:rank])).astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        for rank in (1, 2, 3):
            made.add(f"net{rank}", convolutional(rank))
            made.add(f"tokens{rank}", convolutional(rank, last=True))
        made.add("given", GIVEN)
        yield made


def asked(engine: Engine, name: str, x: Any, method: str, layers: Any = (), **changed: Any) -> Any:
    layers = [layers] if isinstance(layers, str) else layers
    target = changed.pop("target", 1)
    return engine.attribute(AttributionRequest(name, {"x": x}, method, layers, target=target, **changed))


def ends(engine: Engine, name: str, x: Any, layer: str, target: Any = 1) -> tuple[Floats, Floats]:
    """Gradient and values of a layer, `[samples, channels, *positions]`, of methods that are tested elsewhere."""
    gradient = asked(engine, name, x, "gradient", layer, target=target).layers[layer].values
    values = asked(engine, name, x, "layer_activation", layer, target=target).layers[layer].values
    return gradient.astype(np.float64), values.astype(np.float64)


def defined(pair: tuple[Floats, Floats], weigh: Weigh, **parameters: bool) -> Floats:
    return np.stack([mapped(g, a, weigh, **parameters) for g, a in zip(*pair, strict=True)])


def assert_is(found: Any, wanted: Floats) -> None:
    """Equal up to the rounding of float32; what is 0.05 % off is not."""
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6 * scale)
    assert not scale or np.abs(1.0005 * wanted - wanted).max() > 1e-5 * scale


# --- Definitions


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_maps_are_their_definition(engine: Engine, rank: int, method: str, sign: str) -> None:
    x = inputs(rank)
    for layer in ("r1", "c2"):  # of values from 0 up, and of both signs
        pair = ends(engine, f"net{rank}", x, layer)
        for changed in ({}, {"attr_dim_summation": False}, {"relu_attributions": True}):
            answer = asked(engine, f"net{rank}", x, method, layer, sign=sign, **changed)
            found = answer.layers[layer].values
            assert found.shape == (
                3,
                1 if changed.get("attr_dim_summation", True) else pair[0].shape[1],
                *pair[0].shape[2:],
            )
            assert_is(found, defined(pair, WEIGHTS[method](sign), **changed))


@pytest.mark.parametrize("form", ["authors", "jacobgil"])
@pytest.mark.parametrize("sign", SIGNS)
def test_both_forms_of_grad_cam_pp_are_their_definitions(engine: Engine, form: str, sign: str) -> None:
    x = inputs(2)
    found = asked(engine, "net2", x, "grad_cam_pp", "r2", form=form, sign=sign).layers["r2"].values
    assert_is(found, defined(ends(engine, "net2", x, "r2"), grad_cam_pp.weights(sign, form)))


@pytest.mark.parametrize("method", sorted(WEIGHTS))
@pytest.mark.parametrize("rank", [1, 2])
def test_channels_may_lie_last(engine: Engine, rank: int, method: str) -> None:
    x = inputs(rank)
    first = asked(engine, f"net{rank}", x, method, "r2").layers["r2"].values
    there = asked(engine, f"tokens{rank}", x, method, "tokens", channel_axis=-1).layers["tokens"].values
    np.testing.assert_allclose(there, np.moveaxis(first, 1, -1), rtol=1e-6, atol=1e-7)


def test_samples_and_targets_have_the_maps_that_they_have_alone(engine: Engine) -> None:
    x = inputs(2)
    hidden = Target("t", 4)
    several = engine.attribute(
        AttributionRequest("net2", {"x": x}, "grad_cam", ["r2", "r1"], targets=[0, 2, hidden])
    )
    for k, target in enumerate((0, 2, hidden)):
        for layer in ("r2", "r1"):
            assert_is(
                several.layers[layer].values[k],
                defined(ends(engine, "net2", x, layer, target), grad_cam.weights()),
            )
            for n in range(3):
                alone = asked(engine, "net2", x[n : n + 1], "grad_cam", layer, target=target)
                np.testing.assert_allclose(
                    several.layers[layer].values[k, n], alone.layers[layer].values[0], rtol=1e-5, atol=1e-6
                )


def test_sums_only_are_the_sums_of_maps(engine: Engine) -> None:
    x = inputs(2)
    for method in WEIGHTS:
        changed: dict[str, Any] = {"upsample": "linear", "relu_attributions": True}
        whole = asked(engine, "net2", x, method, "r2", **changed).layers["r2"]
        sums = asked(engine, "net2", x, method, "r2", sums_only=True, **changed).layers["r2"]
        np.testing.assert_allclose(sums.sum, whole.sum, rtol=1e-6)
        np.testing.assert_allclose(whole.sum, whole.values.sum(axis=(1, 2, 3)), rtol=1e-5)


# --- Toys: methods.md's, of which every number is known by hand

A = np.array([[[1.0, 2], [0, 1]], [[2, 0], [1, 1]]])
G = np.array([[[1.0, -1], [1, -3]], [[0.5, 0.5], [0.5, 0.5]]])
FIXED = "(double[N,2,2,2] x) => (double[N,1] y) { p = Mul(x, G) f = Flatten(p) y = ReduceSum(f, one) }"
GIVEN = model(FIXED, G=G, one=np.array([1]))
TOYS: list[tuple[str, dict[str, Any], list[list[float]]]] = [
    ("grad_cam", {}, [[0.5, -1], [0.5, 0]]),
    ("grad_cam", {"sign": "positive"}, [[1.5, 1], [0.5, 1]]),
    ("grad_cam", {"relu_attributions": True}, [[0.5, 0], [0.5, 0]]),
    ("grad_cam_pp", {"form": "jacobgil"}, [[4 / 3, 2 / 3], [0.5, 5 / 6]]),
    ("grad_cam_pp", {}, [[2, 2], [0.5, 1.5]]),  # the weights are 1 and 1/2
    ("hires_cam", {}, [[2, -2], [0.5, -2.5]]),
    ("layer_cam", {}, [[2, 0], [0.5, 0.5]]),
]


@pytest.mark.parametrize(("method", "changed", "wanted"), TOYS, ids=str)
def test_toys_have_the_numbers_worked_out_by_hand(
    engine: Engine, method: str, changed: dict[str, Any], wanted: list[list[float]]
) -> None:
    found = asked(engine, "given", A[None], method, "x", target=None, **changed).layers["x"].values
    tolerance = 1e-5 if changed.get("form") == "jacobgil" else 1e-12  # its 1e-6
    np.testing.assert_allclose(found[0, 0], wanted, rtol=tolerance)


def test_weights_of_signed_grad_cam_pp_have_the_signs_of_gradients(engine: Engine) -> None:
    """|alpha| G of the first channel: (1/6 - 1/2 + 1/6 - 3/10) / (1/6 + 1/2 + 1/6 + 1/10)."""
    found = (
        asked(
            engine, "given", A[None], "grad_cam_pp", "x", target=None, sign="signed", attr_dim_summation=False
        )
        .layers["x"]
        .values[0]
    )
    weight = (1 / 6 - 1 / 2 + 1 / 6 - 3 / 10) / (1 / 6 + 1 / 2 + 1 / 6 + 1 / 10)
    np.testing.assert_allclose(found, np.array([weight, 0.5])[:, None, None] * A, rtol=1e-12)


# --- Where methods are equal


def test_with_gradients_from_zero_up_signs_make_no_difference(engine: Engine) -> None:
    engine.add("up", model(FIXED, G=np.abs(G), one=np.array([1])))
    for method in WEIGHTS:
        signed, positive, absolute = (
            asked(engine, "up", A[None], method, "x", sign=sign, target=None).layers["x"].values
            for sign in SIGNS
        )
        np.testing.assert_allclose(positive, signed, rtol=1e-12)
        np.testing.assert_allclose(absolute, signed, rtol=1e-12)


def test_before_a_mean_over_positions_hires_and_xgrad_are_grad_cam(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    nodes = "h = Abs(x) m = GlobalAveragePool(h) f = Flatten(m) y = MatMul(f, w)"
    proto = model(
        f"(float[N,3,4,5] x) => (float[N,2] y) {{ {nodes} }}", w=rng.normal(size=(3, 2)).astype(np.float32)
    )
    engine.add("gap", proto)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = {method: asked(engine, "gap", x, method, "h").layers["h"].values for method in WEIGHTS}
    np.testing.assert_allclose(found["hires_cam"], found["grad_cam"], rtol=1e-5)
    np.testing.assert_allclose(found["xgrad_cam"], found["grad_cam"], rtol=1e-5)
    total = asked(engine, "gap", x, "hires_cam", "h")
    np.testing.assert_allclose(total.layers["h"].sum, total.target.value, rtol=1e-5)


def test_signed_layer_cam_is_hires_cam(engine: Engine) -> None:
    x = inputs(3)
    one, other = (
        asked(engine, "net3", x, m, "c2", sign="signed").layers["c2"].values
        for m in ("layer_cam", "hires_cam")
    )
    np.testing.assert_array_equal(one, other)


# --- Which layer, and which axis


def test_without_a_layer_it_is_the_last_with_positions_and_the_answer_says_so(engine: Engine) -> None:
    for method in WEIGHTS:
        answer = asked(engine, "net2", inputs(2), method)
        assert list(answer.layers) == ["r2"]
        assert any("no layer is named: the map is of 'r2'" in words for words in answer.warnings)
        named = asked(engine, "net2", inputs(2), method, "r2")
        np.testing.assert_array_equal(answer.layers["r2"].values, named.layers["r2"].values)
        assert named.warnings == ()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            "a = Relu(x) b = Sigmoid(x) c = Concat<axis=1>(a, b) m = GlobalAveragePool(c) f = Flatten(m) y = Abs(f)",
            "c",
        ),
        ("a = Relu(x) p = MaxPool<kernel_shape=[2,2]>(a) f = Flatten(p) y = Abs(f)", "p"),
        ("a = Relu(x) b = Add(a, x) m = ReduceMean(b, axes) f = Flatten(m) y = Abs(f)", "b"),
        (
            "a = Relu(x) s = GlobalAveragePool(a) g = Sigmoid(s) q = Mul(a, g) m = ReduceMean(q, axes) "
            "f = Flatten(m) y = Abs(f)",
            "a",
        ),
    ],
    ids=["branches that are joined", "a pool", "a residual addition", "gates of one position"],
)
def test_the_last_layer_with_positions_is_one_that_every_way_crosses(
    engine: Engine, body: str, wanted: str
) -> None:
    weights = {"axes": np.array([2, 3])} if "axes" in body else {}
    name = f"shape of {wanted} {len(body)}"
    engine.add(name, model(f"(float[N,2,4,4] x) => (float[N,M] y) {{ {body} }}", **weights))
    answer = asked(
        engine,
        name,
        np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32),
        "grad_cam",
        target=0,
    )
    assert list(answer.layers) == [wanted]


def test_what_has_no_positions_or_no_such_axis_is_refused_by_name(engine: Engine) -> None:
    engine.add("dense", model("(float[N,3] x) => (float[N,3] y) { y = Tanh(x) }"))
    x = np.ones((2, 3), np.float32)
    with pytest.raises(InvalidArgument, match="no layer between 'x' and 'y' has positions"):
        asked(engine, "dense", x, "grad_cam")
    with pytest.raises(
        InvalidArgument, match=r"'x' has shape \['N', 3\] .* no axis of channels 2; .* 1 to 1"
    ):
        asked(engine, "dense", x, "grad_cam", "x", channel_axis=2)
    with pytest.raises(InvalidArgument, match="no axis of channels 0"):
        asked(engine, "net2", inputs(2), "grad_cam", "r2", channel_axis=0)
    with pytest.raises(InvalidArgument, match="the map of 'd' has 0 axes of positions, which no source has"):
        asked(engine, "net2", inputs(2), "grad_cam", "d", upsample="linear")


def test_a_layer_without_positions_has_one_number_a_sample(engine: Engine) -> None:
    """As Captum has it: the sum of gradient times values."""
    x = inputs(2)
    gradient, values = ends(engine, "net2", x, "d")
    found = asked(engine, "net2", x, "grad_cam", "d").layers["d"].values
    assert_is(found, (gradient * values).sum(axis=1, keepdims=True))


# --- Sizes


@pytest.mark.parametrize("how", ["nearest", "linear", "linear_corners"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_map_at_the_size_of_the_input_is_resized_axis_by_axis(engine: Engine, rank: int, how: str) -> None:
    x = inputs(rank)
    small = asked(engine, f"net{rank}", x, "grad_cam", "r2").layers["r2"].values.astype(np.float64)
    wanted = np.stack([sized(one[0], x.shape[2:], how)[None] for one in small])
    found = asked(engine, f"net{rank}", x, "grad_cam", "r2", upsample=how).layers["r2"].values
    assert found.shape == (3, 1, *x.shape[2:])
    assert_is(found, wanted)


def test_linear_sizes_are_those_of_torch() -> None:
    """torch.nn.functional.interpolate of 1, 2, 4 to 5 positions, linear, align_corners False and True, and to 2."""
    from onnx_attribution.server.engine.methods.maps import resized

    line = np.array([[[1.0, 2.0, 4.0]]])
    np.testing.assert_allclose(resized(line, (5,), "linear")[0, 0], [1, 1.4, 2, 3.2, 4], rtol=1e-12)
    np.testing.assert_allclose(resized(line, (5,), "linear_corners")[0, 0], [1, 1.5, 2, 3, 4], rtol=1e-12)
    np.testing.assert_allclose(resized(line, (2,), "linear")[0, 0], [1.25, 3.5], rtol=1e-12)
    np.testing.assert_allclose(resized(line, (5,), "nearest")[0, 0], [1, 1, 2, 2, 4], rtol=1e-12)


def test_positions_of_an_input_are_found_where_its_channels_lie_last(engine: Engine) -> None:
    """A picture as [height, width, colours], transposed before its convolutions."""
    proto = convolutional(2)
    proto.graph.input[0].name = "picture"
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim[1:], (6, 5, 3), strict=True):
        dim.dim_value = size
    proto.graph.node.insert(0, onnx.helper.make_node("Transpose", ["picture"], ["x"], perm=[0, 3, 1, 2]))
    engine.add("picture", proto)
    x = inputs(2)
    there: Any = engine.attribute(
        AttributionRequest(
            "picture", {"picture": np.moveaxis(x, 1, -1)}, "grad_cam", ["r2"], target=1, upsample="linear"
        )
    )
    here = asked(engine, "net2", x, "grad_cam", "r2", upsample="linear")
    np.testing.assert_allclose(
        there.layers["r2"].values, np.moveaxis(here.layers["r2"].values, 1, -1), rtol=1e-6
    )


# --- Guided Grad-CAM


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_guided_grad_cam_is_guided_backpropagation_times_the_map(engine: Engine, rank: int) -> None:
    x, name = inputs(rank), f"net{rank}"
    guided = asked(engine, name, x, "guided_backprop").layers["x"].values.astype(np.float64)
    assert (guided < 0).any()
    for changed in ({}, {"relu_attributions": False, "upsample": "linear"}, {"sign": "positive"}):
        own: dict[str, Any] = {"relu_attributions": True, "upsample": "nearest", **changed}
        maps = asked(engine, name, x, "grad_cam", "c2", **own).layers["c2"].values.astype(np.float64)
        answer = asked(engine, name, x, "guided_grad_cam", "c2", **changed)
        assert list(answer.layers) == ["x"]
        assert_is(answer.layers["x"].values, guided * maps)
        sums = asked(engine, name, x, "guided_grad_cam", "c2", sums_only=True, **changed)
        np.testing.assert_allclose(sums.layers["x"].sum, answer.layers["x"].sum, rtol=1e-5, atol=1e-6)


def test_guided_grad_cam_takes_one_layer_which_it_names_itself(engine: Engine) -> None:
    answer = asked(engine, "net2", inputs(2), "guided_grad_cam")
    assert any("the map is of 'r2'" in words for words in answer.warnings)
    named = asked(engine, "net2", inputs(2), "guided_grad_cam", "r2")
    np.testing.assert_array_equal(answer.layers["x"].values, named.layers["x"].values)
    with pytest.raises(InvalidArgument, match="of the map of one layer; name one"):
        asked(engine, "net2", inputs(2), "guided_grad_cam", ["r1", "r2"])
    with pytest.raises(
        NotDifferentiable, match="layer 'd' does not lie between the source 'x' and the target 'c2'"
    ):
        asked(engine, "net2", inputs(2), "guided_grad_cam", "d", target=Target("c2", (0, 0, 0)))


# --- Samples that share no run

MIXED = """(float[N,2,4,3] x) => (float[N,2] y) {
    a = Relu(x)
    m = ReduceMean(a, front)
    s = Mul(a, m)
    t = Tanh(s)
    f = Flatten(t)
    y = MatMul(f, w)
}"""


@pytest.mark.parametrize("method", [*WEIGHTS, "guided_grad_cam", "full_grad"])
def test_samples_that_share_no_run_have_the_maps_that_they_have_alone(engine: Engine, method: str) -> None:
    w = np.random.default_rng(3).normal(size=(24, 2)).astype(np.float32)
    engine.add("mixed", model(MIXED, front=np.array([0]), w=w))
    x = np.random.default_rng(4).normal(size=(3, 2, 4, 3)).astype(np.float32)
    layers = "a" if method != "full_grad" else ()
    whole = asked(engine, "mixed", x, method, layers)
    (name,) = whole.layers
    assert any("one by one" in words for words in whole.warnings)
    for n in range(3):
        alone = asked(engine, "mixed", x[n : n + 1], method, layers).layers[name].values
        np.testing.assert_allclose(whole.layers[name].values[n], alone[0], rtol=1e-5, atol=1e-6)
    assert whole.layers[name].values.shape[-2:] == (4, 3)


# --- Noise over maps


@pytest.mark.parametrize("method", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_is_taken_over_maps_with_their_parameters(engine: Engine, method: str) -> None:
    x, given = inputs(2, 2), "grad_cam_pp(sign=signed, form=jacobgil, upsample=linear)"
    answer = asked(engine, "net2", x, method, "r2", of=given, draws=6, stdev=0.3, seed=2)
    maps = []
    for k in range(6):
        noise = 0.3 * np.random.default_rng([2, k]).standard_normal(x.shape[1:])
        own: dict[str, Any] = {"sign": "signed", "form": "jacobgil", "upsample": "linear"}
        moved = (x.astype(np.float64) + noise).astype(np.float32)
        maps.append(
            asked(engine, "net2", moved, "grad_cam_pp", "r2", **own).layers["r2"].values.astype(np.float64)
        )
    draws = np.stack(maps)
    wanted = {
        "smoothgrad": draws.mean(axis=0),
        "smoothgrad_sq": (draws**2).mean(axis=0),
        "vargrad": draws.var(axis=0),
    }
    assert_is(answer.layers["r2"].values, wanted[method])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("grad_cam(sign)", "'sign' in 'grad_cam\\(sign\\)' is not PARAMETER=VALUE"),
        ("grad_cam(sign=upwards)", "sign is 'upwards'; it may be: signed, positive, absolute"),
        ("grad_cam(size=3)", "grad_cam has no parameter 'size'"),
        ("grad_cam(", "'grad_cam\\(' is no method"),
    ],
)
def test_parameters_of_the_other_method_are_read(words: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make("smoothgrad", {"of": words})


def test_without_a_layer_noise_is_taken_over_the_same_layer(engine: Engine) -> None:
    answer = asked(engine, "net2", inputs(2), "smoothgrad", of="grad-cam", draws=2)
    assert list(answer.layers) == ["r2"]
    assert answer.layers["r2"].values.shape == (3, 1, 4, 3)
