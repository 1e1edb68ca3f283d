"""Built files give the numbers of the definitions in float64, in onnxruntime and in onnx's reference evaluator."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.ir.weights import whole
from onnx_attribution.methods import (
    DeepLiftRescale,
    IntegratedGradients,
    Method,
    NeuronIG,
    Occlusion,
    make,
    registered,
)
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.standalone import Standalone, standalone_model
from onnx_attribution.values import Target
from tests.definitions.network import HIDDEN, SOURCE, Floats, Net, drawn
from tests.programs import parsed

Array = NDArray[Any]
BUILT = (
    "gradient", "gradient_x_activation", "integrated_gradients", "internal_influence", "neuron_ig",
    "deeplift_rescale", "deeplift_reveal_cancel", "deeplift_genomics_default",
    "guided_backprop", "deconvnet", "rectgrad", "lrp",
)  # fmt: skip
ALONE = frozenset({"rectgrad"})
"""Those whose file is of one sample."""


@functools.cache
def of_definitions(seed: int) -> tuple[Net, LoadedModel, Floats, Floats]:
    """Returns the network of the definitions, also as a model, three samples and their baselines."""
    net, x, baseline = drawn(seed)
    return net, LoadedModel(net.model(), Backend("cpu", 1)), x, baseline


def built(
    model: onnx.ModelProto | LoadedModel, method: Method, layers: Sequence[str] = (), **wish: Any
) -> onnx.ModelProto:
    """Returns the file with its weights."""
    loaded = model if isinstance(model, LoadedModel) else LoadedModel(model, Backend("cpu", 1))
    return whole(standalone_model(loaded, Standalone(method, layers, **wish)).model)


def made(model: onnx.ModelProto, **feeds: Array) -> dict[str, Array]:
    """Returns the outputs, in which onnxruntime with default settings and the reference evaluator agree."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    given = {name: array for name, array in feeds.items() if name in names}
    assert given.keys() == names
    found = dict(zip([one.name for one in session.get_outputs()], session.run(None, given), strict=True))
    reference = ReferenceEvaluator(model).run(None, given)
    for (name, array), other in zip(found.items(), reference, strict=True):
        np.testing.assert_allclose(array, other, rtol=1e-5, atol=1e-5, err_msg=name)
    return found


@pytest.mark.parametrize(
    ("name", "changed", "loop"),
    [(name, changed, False) for name in BUILT for changed in (False, True)]
    + [(name, True, True) for name in ("integrated_gradients", "neuron_ig")],
)
def test_the_numbers_are_those_of_the_definition_for_one_two_and_three_samples(
    name: str, changed: bool, loop: bool
) -> None:
    net, model, x, baseline = of_definitions(0)
    own: Any = importlib.import_module(f"tests.definitions.{name}")
    parameters = getattr(own, "CHANGED" if changed else "GIVEN", {})
    for layer in (SOURCE, HIDDEN):
        file = built(model, make(name, parameters), [layer], loop=loop)
        assert {node.domain for node in file.graph.node} <= {"", "ai.onnx"}
        for count in (1,) if name in ALONE else (1, 2, 3):
            some, low = x[:count].astype(np.float32), baseline[:count].astype(np.float32)
            found = made(file, x=some, **{"baseline/x": low})
            wanted = own.attributions(net, layer, x[:count], baseline[:count], **parameters)
            np.testing.assert_allclose(found[f"attribution/{layer}"], wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found["target/value"], net.value(x[:count]), rtol=1e-4, atol=1e-5)
            if f"residual/{layer}" in found:
                change = net.value(x[:count]) - net.value(baseline[:count])
                residual = wanted.reshape(count, -1).sum(axis=1) - change
                np.testing.assert_allclose(found[f"residual/{layer}"], residual, atol=2e-5)


@pytest.mark.parametrize("name", ["neuron_ig", "integrated_gradients"])
@pytest.mark.parametrize("quadrature", ["trapezoid", "left", "right"])
@pytest.mark.parametrize("loop", [False, True], ids=["together", "loop"])
def test_steps_as_an_input_are_those_of_a_file_of_fixed_steps(name: str, quadrature: str, loop: bool) -> None:
    net, model, x, baseline = of_definitions(1)
    own: Any = importlib.import_module(f"tests.definitions.{name}")
    feeds = {"x": x.astype(np.float32), "baseline/x": baseline.astype(np.float32)}
    file = built(model, make(name, {"quadrature": quadrature}), [SOURCE], loop=loop, steps_input=True)
    for steps in (1, 2, 5):
        found = made(file, **feeds, steps=np.array([steps]))
        wanted = own.attributions(net, SOURCE, x, baseline, steps=steps, quadrature=quadrature)
        np.testing.assert_allclose(found["attribution/x"], wanted, rtol=1e-4, atol=1e-5)
        fixed = made(built(model, make(name, {"quadrature": quadrature, "steps": steps}), [SOURCE]), **feeds)
        if steps > 1:
            np.testing.assert_allclose(
                found["error_estimate/x"], fixed["error_estimate/x"], rtol=1e-4, atol=2e-5
            )
        else:
            assert np.isnan(found["error_estimate/x"]).all()
            assert "error_estimate/x" not in fixed


PRODUCT = """net (float[N,2] x) => (float[N,2] y)
    <int64[1] one = {1}, float[2] c = {1, -3}> { p = ReduceProd(x, one) y = Mul(p, c) }"""


def test_each_sample_has_a_target_of_its_own_and_one_baseline_serves_all() -> None:
    file = built(parsed(PRODUCT), IntegratedGradients(steps=2))
    x = np.array([[1, 2], [3, 4], [5, -6]], np.float32)
    found = made(file, x=x, target=np.array([0, 1, -1]), **{"baseline/x": np.zeros((1, 2), np.float32)})
    factor = np.array([1, -3, -3])
    change = x.prod(axis=1) * factor
    np.testing.assert_allclose(found["attribution/x"], np.tile(change[:, None] / 2, 2), rtol=1e-6)
    np.testing.assert_allclose(found["target/value"], change, rtol=1e-6)
    np.testing.assert_array_equal(found["target/baseline"], [0, 0, 0])
    np.testing.assert_allclose(found["residual/x"], [0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("method", [NeuronIG(steps=2), DeepLiftRescale(), make("gradient")])
def test_an_index_that_is_not_there_ends_the_run(method: Method) -> None:
    session = onnxruntime.InferenceSession(built(parsed(PRODUCT), method).SerializeToString())
    x = np.ones((1, 2), np.float32)
    feeds = {"x": x, "baseline/x": 0 * x, "target": np.array([2])}
    feeds = {one.name: feeds[one.name] for one in session.get_inputs()}
    with pytest.raises(Exception, match="index"):
        session.run(None, feeds)


def test_weights_of_the_target_take_the_place_of_an_index() -> None:
    x, u = np.array([[1, 2], [3, 4]], np.float32), np.array([[1, 1], [0, 2]], np.float32)
    for loop in (False, True):
        file = built(parsed(PRODUCT), NeuronIG(steps=2), by_weight=True, loop=loop)
        found = made(file, x=x, **{"target/weight": u, "baseline/x": np.zeros_like(x)})
        np.testing.assert_allclose(found["target/value"], x.prod(axis=1) * (u @ [1, -3]), rtol=1e-6)


def test_a_target_and_a_baseline_can_be_fixed() -> None:
    file = built(parsed(PRODUCT), NeuronIG(steps=2), target=Target(index=1, minus=0), baselines={"x": 1.0})
    assert [one.name for one in file.graph.input] == ["x"]
    x = np.array([[2, 2], [3, 1]], np.float32)
    found = made(file, x=x)
    np.testing.assert_allclose(found["target/baseline"], [-4, -4])
    np.testing.assert_allclose(found["attribution/x"].sum(axis=1), -4 * (x.prod(axis=1) - 1), rtol=1e-6)


@pytest.mark.parametrize("loop", [False, True], ids=["together", "loop"])
@pytest.mark.parametrize("method", [NeuronIG(steps=4), IntegratedGradients(steps=4), DeepLiftRescale()])
def test_samples_along_a_second_axis_and_inputs_of_settings_are_laid_out(method: Method, loop: bool) -> None:
    text = """net (float[S,N,2] x, int64[1] place) => (float[N,2] y)
        { h = Tanh(x) g = Gather<axis = 0>(h, place) zero = Constant<value = int64[1] {0}>()
          y = Squeeze(g, zero) }"""
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    model = LoadedModel(parsed(text), Backend("cpu", 1), axes={"x": 1, "place": None})
    found = made(
        whole(standalone_model(model, Standalone(method, ["x"], loop=loop)).model),
        x=x,
        place=np.array([2]),
        target=np.array([0, 1, 0]),
        **{"baseline/x": np.zeros((4, 1, 2), np.float32)},
    )
    wanted = np.zeros(x.shape)
    for sample, index in enumerate([0, 1, 0]):
        wanted[2, sample, index] = np.tanh(x[2, sample, index], dtype=np.float64)
    tolerance = 2e-2 if isinstance(method, NeuronIG | IntegratedGradients) else 1e-5  # of 4 steps
    np.testing.assert_allclose(found["attribution/x"], wanted, atol=tolerance)
    assert ((found["attribution/x"] != 0) == (wanted != 0)).all()


@pytest.mark.parametrize("loop", [False, True], ids=["together", "loop"])
@pytest.mark.parametrize("method", [NeuronIG(steps=16), IntegratedGradients(steps=16)])
def test_a_spectral_rule_is_exact_on_a_smooth_network_where_the_trapezoid_is_not(
    method: Method, loop: bool
) -> None:
    text = "net (float[N,2] x) => (float[N,1] y) <float[2,1] w = {1, 2}> { h = MatMul(x, w) y = Tanh(h) }"
    x = np.array([[0.3, -1], [1, 0.5]], np.float32)
    change = np.tanh(x.astype(float) @ [1, 2])
    wanted = x * [1, 2] * (change / (x @ [1, 2]))[:, None]  # along a line, h is a multiple of its end
    feeds = {"x": x, "baseline/x": 0 * x}
    found = made(built(parsed(text), method, ["x"], spectral=True, loop=loop), **feeds)
    np.testing.assert_allclose(found["attribution/x"], wanted, atol=2e-6)
    assert (found["error_estimate/x"] < 1e-3).all()
    assert (np.abs(made(built(parsed(text), method, ["x"]), **feeds)["attribution/x"] - wanted) > 1e-4).any()


def test_inputs_that_are_a_cut_only_together_have_a_joint_residual() -> None:
    text = "net (float[N,2] a, float[N,2] b) => (float[N,2] y) { p = Mul(a, b) y = Exp(p) }"
    a, b = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32) / 2
    for method in (NeuronIG(steps=32), DeepLiftRescale()):
        file = built(parsed(text), method, target=Target(index=1))
        found = made(file, a=a, b=b, **{"baseline/a": 0 * a, "baseline/b": 0 * b})
        total = found["attribution/a"].sum(axis=1) + found["attribution/b"].sum(axis=1)
        wanted = np.exp(np.prod([a, b], axis=0, dtype=np.float64))[:, 1] - 1
        np.testing.assert_allclose(total, wanted, atol=1e-4)
        np.testing.assert_allclose(found["residual"], total - wanted, atol=1e-5)


def test_a_hidden_source_takes_its_baseline_from_that_of_the_inputs() -> None:
    net, x, baseline = drawn(0)
    own: Any = importlib.import_module("tests.definitions.integrated_gradients")
    for loop in (False, True):
        file = built(net.model(), IntegratedGradients(steps=16), [HIDDEN], loop=loop)
        assert [one.name for one in file.graph.input] == ["x", "baseline/x"]
        found = made(file, x=x.astype(np.float32), **{"baseline/x": baseline.astype(np.float32)})
        wanted = own.attributions(net, HIDDEN, x, baseline, steps=16)
        np.testing.assert_allclose(found["attribution/h"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [NeuronIG(steps=4), DeepLiftRescale(), make("gradient")])
def test_tokens_have_the_baseline_of_their_embedding(method: Method) -> None:
    text = """net (int64[N,S] ids) => (float[N,2] y)
        <float[3,2] table = {1, 2, -1, 1, 0, 3}, int64[1] one = {1}>
        { e = Gather(table, ids) s = Mul(e, e) y = ReduceSum<keepdims = 0>(s, one) }"""
    ids = np.array([[0, 1, 2], [2, 2, 1]])
    feeds = {"ids": ids, "target": np.array([0, 1]), "baseline/e": np.zeros((1, 1, 2), np.float32)}
    table = np.array([[1, 2], [-1, 1], [0, 3]], np.float64)
    e, chosen = table[ids], np.eye(2)[[0, 1]][:, None, :]
    file = built(parsed(text), method)
    feeds = {one.name: feeds[one.name] for one in file.graph.input}
    found = made(file, **feeds)
    wanted = 2 * e * chosen if method.name == "gradient" else e * e * chosen
    np.testing.assert_allclose(found["attribution/e"], wanted, atol=1e-5)


@pytest.mark.parametrize("loop", [False, True], ids=["together", "loop"])
def test_branches_that_read_an_input_read_the_rows(loop: bool) -> None:
    text = """net (float[N,2] x, bool flag) => (float[N,2] y) {
        y = If (flag) <then_branch = t () => (float[N,2] a) { a = Mul(x, x) },
                       else_branch = e () => (float[N,2] b) { b = Neg(x) }> }"""
    x = np.array([[1, 2], [3, -4]], np.float32)
    model = LoadedModel(parsed(text), Backend("cpu", 1), axes={"x": 0, "flag": None})
    file = whole(standalone_model(model, Standalone(NeuronIG(steps=3), ["x"], loop=loop)).model)
    for flag, wanted in ((True, x * x), (False, -x)):
        found = made(file, x=x, flag=np.array(flag), target=np.array([0, 1]), **{"baseline/x": 0 * x})
        np.testing.assert_allclose(found["attribution/x"], wanted * np.eye(2), atol=1e-5)


def test_a_model_whose_rows_cannot_share_a_run_evaluates_its_steps_one_after_the_other() -> None:
    text = """net (float[1,3] x) => (float[1,3] y) <int64[2] flat = {3, 1}, int64[2] back = {1, 3}>
        { c = Reshape(x, flat) s = Softmax<axis = 0>(c) y = Reshape(s, back) }"""
    found = standalone_model(LoadedModel(parsed(text), Backend("cpu", 1)), Standalone(NeuronIG(steps=64)))
    assert any("one sample a run" in note for note in found.notes)
    x = np.array([[1, -2, 3]], np.float32)
    made_of = made(whole(found.model), x=x, target=np.array([2]), **{"baseline/x": 0 * x})
    change = np.exp(3) / np.exp(x.astype(np.float64)).sum() - 1 / 3
    np.testing.assert_allclose(made_of["attribution/x"].sum(), change, rtol=1e-3)
    np.testing.assert_allclose(made_of["target/value"] - made_of["target/baseline"], [change], rtol=1e-5)


@pytest.mark.parametrize("loop", [False, True], ids=["together", "loop"])
def test_half_types_are_added_up_in_float32_and_double_stays_double(loop: bool) -> None:
    for kind, dtype, tolerance in (("float16", np.float16, 5e-3), ("double", np.float64, 1e-9)):
        file = built(
            parsed(f"net ({kind}[N,2] x) => ({kind}[N,2] y) {{ y = Mul(x, x) }}"), NeuronIG(), loop=loop
        )
        x: Array = np.array([[1, 2], [3, -4]], dtype)
        found = made(file, x=x, target=np.array([0, 1]), **{"baseline/x": 0 * x})
        assert found["attribution/x"].dtype == (np.float32 if dtype is np.float16 else dtype)
        wanted = x.astype(float) ** 2 * np.eye(2)
        np.testing.assert_allclose(found["attribution/x"], wanted, rtol=tolerance, atol=1e-9)


def test_a_change_through_an_operator_without_a_secant_is_nan() -> None:
    text = """net (float[N,4] x) => (float[N,2] y) <int64[1] two = {2}>
        { values, places = TopK<axis = 1>(x, two) p = Cast<to = 1>(places) y = Add(values, p) }"""
    file = built(parsed(text), DeepLiftRescale(), target=Target(index=0))
    x = np.array([[4, 3, 2, 1]], np.float32)
    assert np.isfinite(made(file, x=x, **{"baseline/x": 0.5 * x})["attribution/x"]).all()
    assert np.isnan(made(file, x=x, **{"baseline/x": x[:, ::-1]})["attribution/x"]).all()


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"method": Occlusion()}, "cannot be built into a file"),
        ({"method": NeuronIG(tolerance=0.1)}, "choose steps instead"),
        ({"method": DeepLiftRescale(), "steps_input": True}, "no steps"),
        ({"method": NeuronIG(steps=9), "spectral": True}, "8, 16, 32 or 64 steps"),
        ({"method": NeuronIG(quadrature="gausslegendre"), "steps_input": True}, "trapezoid, left and right"),
        ({"method": NeuronIG(), "baselines": {"y": 0.0}}, "no source"),
        ({"method": NeuronIG(), "baselines": {"x": np.zeros((2, 2))}}, "one row for all samples"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        built(parsed(PRODUCT), **wish)


def test_every_method_is_built_or_refused_by_name() -> None:
    own = {name for name, cls in registered().items() if cls.__module__.startswith("onnx_attribution.")}
    for name in own - set(BUILT):
        with pytest.raises(InvalidArgument, match=name):
            built(parsed(PRODUCT), make(name))


@pytest.mark.parametrize("loop", [False, True], ids=["together", "loop"])
@pytest.mark.parametrize("method", [NeuronIG(steps=2), DeepLiftRescale(), make("gradient_x_activation")])
def test_a_layer_that_folds_an_axis_into_the_samples_keeps_its_shape(method: Method, loop: bool) -> None:
    text = """net (float[N,3,2] x) => (float[N,3,2] y)
        <int64[2] flat = {-1, 2}, int64[3] deep = {-1, 3, 2}, float[2] c = {2, -1}>
        { r = Reshape(x, flat) h = Mul(r, c) s = Reshape(h, deep) y = Mul(s, s) }"""
    x = np.random.default_rng(0).normal(size=(3, 3, 2)).astype(np.float32)
    index = np.array([[0, 1], [2, 0], [-1, -1]])
    file = built(parsed(text), method, ["h"], loop=loop)
    feeds = {"x": x, "target": index, "baseline/x": 0 * x[:1]}
    found = made(file, **{one.name: feeds[one.name] for one in file.graph.input})
    wanted: Array = np.zeros(x.shape)
    for sample, place in enumerate(index):
        wanted[sample, place[0], place[1]] = (x[sample, place[0], place[1]] * [2, -1][place[1]]) ** 2
    wanted = wanted.reshape(9, 2) * (2 if method.name == "gradient_x_activation" else 1)
    np.testing.assert_allclose(found["attribution/h"], wanted, rtol=1e-5, atol=1e-6)
    if "residual/h" in found:
        np.testing.assert_allclose(found["residual/h"], np.zeros(3), atol=1e-5)
