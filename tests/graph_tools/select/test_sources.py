"""The default sources: embeddings of tokens, float inputs, and integers where they become floats; and what is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.graph_tools.ir.convert import graph_of
from onnx_attribution.graph_tools.select.sources import default_sources, held
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Target
from tests.method_names import METHODS, SUMMING_METHODS
from tests.methods.toys import explain, model, values

rng = np.random.default_rng(11)


def parsed(body: str, **weights: Any) -> onnx.ModelProto:
    """A model from ONNX text, with the shapes that can be inferred."""
    return onnx.shape_inference.infer_shapes(model(body, **weights))


def test_float_inputs_are_the_sources_if_they_lead_to_the_target() -> None:
    net = parsed("""(float[N,4] x, float[N,4] z, int64[N,1] i) => (float[N,1] y, float[N,4] other) {
        y = GatherElements<axis = 1>(x, i)
        other = Relu(z)
    }""")
    graph = graph_of(net)
    assert default_sources(graph, "y") == ["x"]
    assert default_sources(graph, "other") == ["z"]


EMBEDDING = """(int64[N,3] ids) => (float[N,3,2] y)
    <float[5,2] table = {1,2,3,4,5,6,7,8,9,0}> { e = Gather(table, ids) y = Tanh(e) }"""
TWO_EMBEDDINGS = """(int64[N,3] ids, int64[N,3] kinds) => (float[N,3,2] y)
    <float[5,2] table = {1,2,3,4,5,6,7,8,9,0}, float[2,2] types = {1,2,3,4}> {
        e = Gather(table, ids)
        t = Gather(types, kinds)
        s = Add(e, t)
        n = Tanh(s)
        y = Add(n, s)
    }"""


@pytest.mark.parametrize(("body", "source"), [(EMBEDDING, "e"), (TWO_EMBEDDINGS, "s")])
def test_the_source_of_a_token_model_is_the_first_tensor_that_all_that_is_looked_up_crosses(
    body: str, source: str
) -> None:
    assert default_sources(graph_of(parsed(body)), "y") == [source]


E, P, W = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)), rng.normal(size=(4, 2))
COS, TWO = rng.normal(size=(5, 4)), np.array([2])
WEIGHTS = {"E": E, "P": P, "W": W, "COS": COS, "two": TWO, "one": np.array([1]), "minus": np.array(-1e9),
           "V": rng.normal(size=(3, 2)), "depth": np.array(7), "ends": np.array([0.0, 1.0]),
           "all": np.arange(7).reshape(1, 1, 7), "lots": rng.normal(size=(7, 2))}  # fmt: skip
POOLED = "s = ReduceSum<keepdims = 0>(h, one) y = MatMul(s, W)"
CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "a float mask": (
        "(int64[N,3] ids, double[N,3] mask) => (double[N,2] y) { e = Gather(E, ids) m = Unsqueeze(mask, two) "
        f"h = Mul(e, m) {POOLED} }}", ["e"], ["mask"],
    ),
    "a mask of integers": (
        "(int64[N,3] ids, int64[N,3] mask) => (double[N,2] y) { e = Gather(E, ids) f = Cast<to = 11>(mask) "
        f"m = Unsqueeze(f, two) h = Mul(e, m) {POOLED} }}", ["e"], ["mask"],
    ),
    "a mask that is made of the tokens": (
        "(int64[N,3] ids) => (double[N,2] y) { e = Gather(E, ids) f = Cast<to = 11>(ids) m = Unsqueeze(f, two) "
        f"h = Mul(e, m) {POOLED} }}", ["e"], ["ids"],
    ),
    "a bias of the scores": (
        "(int64[N,3] ids, double[1,3,3] bias) => (double[N,2] y) { e = Gather(E, ids) t = Transpose<perm = [0,2,1]>(e) "
        f"q = MatMul(e, t) b = Add(q, bias) p = Softmax(b) h = MatMul(p, e) {POOLED} }}", ["e"], ["bias"],
    ),
    "a cache": (
        "(int64[N,3] ids, double[N,P,4] past) => (double[N,2] y) { e = Gather(E, ids) "
        f"h = Concat<axis = 1>(past, e) {POOLED} }}", ["e"], ["past"],
    ),
    "angles of places": (
        "(int64[N,3] ids, int64[1,3] place) => (double[N,2] y) { e = Gather(E, ids) c = Gather(COS, place) "
        f"h = Mul(e, c) {POOLED} }}", ["e"], ["place"],
    ),
    "words and places": (
        "(int64[N,3] ids, int64[N,3] place) => (double[N,2] y) { e = Gather(E, ids) p = Gather(P, place) "
        f"h = Add(e, p) {POOLED} }}", ["h"], [],
    ),
    "words and places of all samples": (
        "(int64[N,3] ids, int64[1,3] place) => (double[N,2] y) { e = Gather(E, ids) p = Gather(P, place) "
        f"h = Add(e, p) {POOLED} }}", ["e"], ["place"],
    ),
    "the text twice": (
        "(int64[N,3] left, int64[N,3] right) => (double[N,2] y) { a = Gather(E, left) b = Gather(E, right) "
        f"c = Tanh(a) d = Tanh(b) h = Mul(c, d) {POOLED} }}", ["a", "b"], [],
    ),
    "two texts through weights": (
        "(int64[N,4] left, int64[N,4] right) => (double[N,4,2] y) { a = Gather(E, left) b = Gather(E, right) "
        "c = MatMul(a, W) d = MatMul(b, W) y = Sub(c, d) }", ["a", "b"], [],
    ),
    "features beside a category": (
        "(int64[N] kind, double[N,3] x) => (double[N,2] y) { e = Gather(E, kind) c = MatMul(e, W) d = MatMul(x, V) "
        "y = Add(c, d) }", ["x", "e"], [],
    ),
    "features joined to a category": (
        "(int64[N] kind, double[N,3] x) => (double[N,2] y) { e = Gather(E, kind) j = Concat<axis = 1>(e, x) "
        "y = MatMul(j, lots) }", ["x", "e"], [],
    ),
    "embeddings given as floats beside kinds": (
        "(double[N,3,4] embedded, int64[N,3] kinds) => (double[N,2] y) { t = Gather(P, kinds) "
        f"h = Add(embedded, t) {POOLED} }}", ["embedded", "t"], [],
    ),
    "one-hot": (
        "(int64[N,3] ids, double[N,3] mask) => (double[N,2] y) { o = OneHot(ids, depth, ends) e = MatMul(o, E) "
        f"m = Unsqueeze(mask, two) h = Mul(e, m) {POOLED} }}", ["o"], ["mask"],
    ),
    "one-hot by comparison": (
        "(int64[N,3] ids) => (double[N,2] y) { u = Unsqueeze(ids, two) q = Equal(u, all) o = Cast<to = 11>(q) "
        f"h = MatMul(o, E) {POOLED} }}", ["o"], [],
    ),
    "an image of integers and its scale": (
        "(uint8[N,3] image, double[N,1] scale) => (double[N,2] y) { f = Cast<to = 11>(image) d = MatMul(f, V) "
        "y = Mul(d, scale) }", ["f"], ["scale"],
    ),
    "floats and a setting": (
        "(double[N,3] x, int64 rate) => (double[N,2] y) { d = MatMul(x, V) r = Cast<to = 11>(rate) y = Div(d, r) }",
        ["x"], ["rate"],
    ),
    "integers among floats": (
        "(double[N,3] x, int64[N,3] count) => (double[N,2] y) { f = Cast<to = 11>(count) c = MatMul(f, V) "
        "d = MatMul(x, V) y = Mul(c, d) }",
        ["x", "f"], [],
    ),
    "tokens given as floats": (
        "(double[N,3] ids, double[N,3] mask) => (double[N,2] y) { i = Cast<to = 7>(ids) e = Gather(E, i) "
        f"m = Unsqueeze(mask, two) h = Mul(e, m) {POOLED} }}", ["e"], ["mask"],
    ),
    "bytes given as floats": (
        "(double[N,3] ids) => (double[N,2] y) { u = Identity(ids) i = Cast<to = 6>(u) "
        f"o = OneHot(i, depth, ends) h = MatMul(o, E) {POOLED} }}", ["o"], [],
    ),
    "bytes given as floats and compared": (
        "(double[N,3] ids, double[N,3] mask) => (double[N,2] y) { i = Cast<to = 7>(ids) u = Unsqueeze(i, two) "
        "q = Equal(u, all) o = Cast<to = 11>(q) e = MatMul(o, E) m = Unsqueeze(mask, two) "
        f"h = Mul(e, m) {POOLED} }}", ["o"], ["mask"],
    ),
    "an embedding of integers that is read twice, and rounded later": (
        "(int64[N,3] ids) => (double[N,3,2] y) { q = Gather(Q, ids) t = Transpose<perm = [0,2,1]>(q) "
        "side = Cast<to = 11>(q) n = Shape(side) f = Cast<to = 1>(t) a = Transpose<perm = [0,2,1]>(f) r = Tanh(a) "
        "i, s, z = DynamicQuantizeLinear(r) m = MatMulInteger(i, B, z) c = Cast<to = 11>(m) d = Cast<to = 11>(s) "
        "h = Mul(c, d) y = Reshape(h, same) }", ["f"], [],
    ),
    "floats that are counted": (
        "(double[N,3] x) => (double[N,2] y) { i = ArgMax<axis = 1>(x) o = OneHot(i, depth, ends) "
        f"h = MatMul(o, E) {POOLED} }}", ["x"], [],
    ),
    "an embedding of integers": (
        "(int64[N,3] ids) => (double[N,2] y) { q = Gather(Q, ids) f = Cast<to = 11>(q) h = Neg(f) " + POOLED + " }",
        ["f"], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_default_sources_are_the_tokens_and_what_is_held_is_named(case: str) -> None:
    body, sources, left = CASES[case]
    graph = graph_of(
        parsed(
            body,
            Q=np.arange(28).reshape(7, 4),
            B=np.arange(8, dtype=np.int8).reshape(4, 2),
            same=np.zeros(3, np.int64),
            **WEIGHTS,
        )
    )
    found = default_sources(graph, "y")
    assert found == sources
    assert held(graph, found, "y") == left


# --- Answers


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


NUMBERS = """(int64[N,2] a, int64[N,2] b) => (double[N,1] z) {
    fa = Cast<to = 11>(a) fb = Cast<to = 11>(b) p = MatMul(fa, A) q = MatMul(fb, B) z = Add(p, q)
}"""


CONTRIBUTING = ["gradient_x_activation", *sorted(SUMMING_METHODS & set(METHODS) - {"kernel_shap"})]


@pytest.mark.parametrize("method", CONTRIBUTING)
def test_integers_without_a_table_are_explained_all_of_them(engine: Engine, method: str) -> None:
    """z = a1 + 2 a2 + 10 b1 + 20 b2, so that at ones the change from zeros is 33."""
    net = model(NUMBERS, A=np.array([[1.0], [2.0]]), B=np.array([[10.0], [20.0]]))
    ones = np.ones((1, 2), np.int64)
    answer = explain(engine, net, {"a": ones, "b": ones}, method)
    np.testing.assert_allclose(values(answer, "fa"), [[1, 2]], rtol=1e-9)
    np.testing.assert_allclose(values(answer, "fb"), [[10, 20]], rtol=1e-9)
    assert sum(layer.sum[0] for layer in answer.layers.values()) == pytest.approx(33)
    if method != "gradient_x_activation":
        assert answer.target.value - answer.target.baseline_value == pytest.approx(33)


MASKED = CASES["a float mask"][0]


def masked(engine: Engine, method: str = "integrated_gradients", **options: Any) -> Attribution:
    inputs: Mapping[str, Any] = {
        "ids": np.array([[1, 2, 3], [4, 5, 0]]), "mask": np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    }  # fmt: skip
    return explain(engine, model(MASKED, **WEIGHTS), inputs, method, target=Target(index=1), **options)


@pytest.mark.parametrize("method", CONTRIBUTING)
def test_the_words_are_explained_from_zeros_and_a_held_mask_is_named(engine: Engine, method: str) -> None:
    """y is the sum of the words that are not masked through W, so that each contributes its own product."""
    answer = masked(engine, method)
    ids, mask = np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    np.testing.assert_allclose(values(answer, "e"), E[ids] * W[:, 1] * mask[..., None], rtol=1e-9, atol=1e-12)
    nothing = np.nan if method == "gradient_x_activation" else 0
    np.testing.assert_allclose(answer.target.baseline_value, [nothing] * 2, atol=1e-12)
    (warning,) = [w for w in answer.warnings if "held" in w]
    assert "the input 'mask' is held and not explained" in warning
    assert "'e' is explained" in warning


def test_sources_that_are_named_are_no_reason_to_warn(engine: Engine) -> None:
    assert not any("held" in w for w in masked(engine, source=("e",)).warnings)
    assert not any("held" in w for w in masked(engine, source=("mask",)).warnings)


def test_the_baseline_of_words_is_their_embedding_at_other_tokens(engine: Engine) -> None:
    answer = masked(engine, baselines={"ids": np.zeros((2, 3), np.int64)})
    ids, mask = np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    np.testing.assert_allclose(values(answer, "e"), (E[ids] - E[0]) * W[:, 1] * mask[..., None], atol=1e-9)


def test_a_baseline_of_what_no_source_is_made_of_is_refused(engine: Engine) -> None:
    with pytest.raises(Exception, match="'mask' has a baseline but is no source"):
        masked(engine, baselines={"mask": 0.0})


def test_a_cache_of_length_zero_leaves_the_words_to_be_explained(engine: Engine) -> None:
    net = model(CASES["a cache"][0], **WEIGHTS)
    inputs = {"ids": np.array([[1, 2, 3]]), "past": np.zeros((1, 0, 4))}
    answer = explain(engine, net, inputs, "integrated_gradients", target=Target(index=0))
    np.testing.assert_allclose(values(answer, "e"), E[[[1, 2, 3]]] * W[:, 0], rtol=1e-9)


def test_tokens_and_what_is_made_of_them_are_listed_as_layers(engine: Engine) -> None:
    engine.add("masked", model(MASKED, **WEIGHTS))
    found = [(x.name, x.operator, x.dtype, x.cut) for x in engine.layers("masked")]
    assert found[:4] == [
        ("ids", "input", "int64", False), ("mask", "input", "float64", False), ("e", "Gather", "float64", True),
        ("h", "Mul", "float64", True),
    ]  # fmt: skip
    assert [x.name for x in engine.layers("masked", "input")] == ["ids", "mask"]


def test_occlusion_names_the_inputs_that_all_samples_share_and_that_it_holds(engine: Engine) -> None:
    net = model(CASES["floats and a setting"][0], V=WEIGHTS["V"])
    engine.add("rated", net, batch_axes={"x": 0, "rate": None})
    inputs = {"x": np.ones((2, 3)), "rate": np.array(2)}
    answer = engine.attribute(AttributionRequest("rated", inputs, "occlusion", target=Target(index=0)))
    assert list(answer.layers) == ["x"]
    assert any("the input 'rate' is held" in w for w in answer.warnings)
