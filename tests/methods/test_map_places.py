"""Where maps lie: which layer is meant, which axis holds the channels, how a map comes to the size of the input; and
what is made of maps: guided Grad-CAM, and noise."""

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
from tests.definitions.maps import sized
from tests.methods.convolutions import asked, assert_is, convolutional, ends, inputs, nets
from tests.methods.toys import model

METHODS = ("grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "xgrad_cam")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with nets() as made:
        yield made


# --- Which layer, and which axis


def test_without_a_layer_it_is_the_last_with_positions_and_the_answer_says_so(engine: Engine) -> None:
    for method in METHODS:
        answer = asked(engine, "net2", inputs(2), method)
        assert list(answer.layers) == ["r2"]
        assert any("no layer is named: the map is of 'r2'" in words for words in answer.warnings)
        named = asked(engine, "net2", inputs(2), method, "r2")
        np.testing.assert_array_equal(answer.layers["r2"].values, named.layers["r2"].values)
        assert named.warnings == ()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("a = Relu(x) s = Softmax<axis=3>(a) f = Flatten(s) y = Abs(f)", "a"),
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
    ids=[
        "attention, which is no map of features",
        "branches that are joined",
        "a pool",
        "a residual addition",
        "gates of one position",
    ],
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


@pytest.mark.parametrize("method", [*METHODS, "guided_grad_cam", "full_grad"])
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


def test_noise_is_taken_over_guided_grad_cam(engine: Engine) -> None:
    x = inputs(2, 2)
    answer = asked(
        engine, "net2", x, "smoothgrad", "c2", of="guided_grad_cam(upsample=linear)", draws=3, stdev=0.2
    )
    noise = [0.2 * np.random.default_rng([0, k]).standard_normal(x.shape[1:]) for k in range(3)]
    moved = [(x.astype(np.float64) + one).astype(np.float32) for one in noise]
    drawn = [
        asked(engine, "net2", one, "guided_grad_cam", "c2", upsample="linear").layers["x"].values
        for one in moved
    ]
    assert_is(answer.layers["x"].values, np.mean([one.astype(np.float64) for one in drawn], axis=0))


def test_without_a_layer_noise_is_taken_over_the_same_layer(engine: Engine) -> None:
    answer = asked(engine, "net2", inputs(2), "smoothgrad", of="grad-cam", draws=2)
    assert list(answer.layers) == ["r2"]
    assert answer.layers["r2"].values.shape == (3, 1, 4, 3)
