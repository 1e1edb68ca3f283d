"""Occlusion against its definition, a loop with one run of the file for each sample and group, and closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_attribution.errors import InvalidArgument, NotDifferentiable
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import (
    Array,
    Attribution,
    AttributionRequest,
    Target,
)

Floats = NDArray[np.float64]
Group = Mapping[str, Array]
"""Which elements of one sample of each input are replaced."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def occluded(
    engine: Engine, model: onnx.ModelProto | Path, inputs: Mapping[str, Any], **changes: Any
) -> Attribution:
    """The engine's answer about a model that is added for it."""
    engine.add("net", model, **{k: changes.pop(k) for k in ("shapes", "example") if k in changes})
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    return engine.attribute(AttributionRequest("net", arrays, "occlusion", **changes))


def defined(
    model: onnx.ModelProto | Path,
    inputs: Mapping[str, Array],
    baselines: Mapping[str, Any],
    groups: Sequence[Group],
    value: Callable[[list[Any]], float],
) -> Floats:
    """`[samples, groups]`: the value of the file's outputs at each sample, less that with each group replaced."""
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    found = np.zeros((count, len(groups)))
    for k in range(count):
        sample = {name: np.array(array[k : k + 1]) for name, array in inputs.items()}
        for g, group in enumerate(groups):
            moved = {name: array.copy() for name, array in sample.items()}
            for name, mask in group.items():
                moved[name][0][mask] = np.broadcast_to(baselines[name], moved[name][0].shape)[mask]
            found[k, g] = value(session.run(None, sample)) - value(session.run(None, moved))
    return found


def singles(name: str, shape: tuple[int, ...]) -> list[Group]:
    """Every element as its own group."""
    masks = np.eye(int(np.prod(shape)), dtype=bool).reshape(-1, *shape)
    return [{name: mask} for mask in masks]


def wide(array: Array) -> Floats:
    return np.asarray(array, np.float64)


def text(body: str, *domains: str) -> onnx.ModelProto:
    """A model in ONNX text; with the operators of ai.onnx.ml where they are named."""
    imports = ", ".join(['"" : 17', *(f'"{domain}" : 3' for domain in domains)])
    return onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> net {body}")


# --- Models that have no gradient


def forest() -> onnx.ModelProto:
    """Two trees of three nodes over four features: `(x0 <= 0 ? 1 : 2) + (x2 <= 0.5 ? (x1 <= -0.2 ? 4 : 8) : 16)`."""
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0, 0, 0, 1, 1, 1, 1, 1], nodes_nodeids=[0, 1, 2, 0, 1, 2, 3, 4],
        nodes_featureids=[0, 0, 0, 2, 1, 0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        nodes_values=[0.0, 0, 0, 0.5, -0.2, 0, 0, 0],
        nodes_truenodeids=[1, 0, 0, 1, 2, 0, 0, 0], nodes_falsenodeids=[2, 0, 0, 4, 3, 0, 0, 0],
        target_treeids=[0, 0, 1, 1, 1], target_nodeids=[1, 2, 2, 3, 4], target_ids=[0] * 5,
        target_weights=[1.0, 2, 4, 8, 16],
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "forest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def trees(x: Floats) -> Floats:
    """What the forest says, in numpy."""
    second = np.where(x[:, 2] <= 0.5, np.where(x[:, 1] <= -0.2, 4, 8), 16)
    return np.where(x[:, 0] <= 0, 1, 2) + second


def test_a_tree_ensemble_has_the_differences_of_its_formula(engine: Engine, rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 4)).astype(np.float32)
    low = np.array([0.3, -1, 0.2, 5], np.float32)
    answer = occluded(engine, forest(), {"x": x}, baselines={"x": low})
    expected = np.zeros((6, 4))
    for feature in range(4):
        moved = x.copy()
        moved[:, feature] = low[feature]
        expected[:, feature] = trees(wide(x)) - trees(wide(moved))
    np.testing.assert_array_equal(answer.layers["x"].values, expected)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(answer.target.value, trees(wide(x)))
    assert np.isnan(answer.layers["x"].residual).all()
    assert np.isnan(answer.layers["x"].error_estimate).all()


CLASSIFIED = """(float[N,3] x) => (int64[N] label) <float[3,4] W = {1,-2,0,1, 0,1,3,-1, 2,0,-1,1}> {
    scores = MatMul(x, W)
    label = ArgMax<axis = 1, keepdims = 0>(scores)
}"""


def test_the_target_of_a_model_of_labels_is_the_floats_before_them(
    engine: Engine, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(3, 3)).astype(np.float32)
    answer = occluded(engine, text(CLASSIFIED), {"x": x}, target=Target(index=2))
    assert answer.target.tensor == "scores"
    assert "no output holds floats; the target is 'scores'" in answer.warnings
    np.testing.assert_allclose(wide(answer.layers["x"].values), x * [0, 3, -1], rtol=1e-5, atol=1e-6)


def test_a_label_is_a_target_where_it_is_named(engine: Engine, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 3)).astype(np.float32)
    answer = occluded(engine, text(CLASSIFIED), {"x": x}, target=Target("label"))
    expected = defined(text(CLASSIFIED), {"x": x}, {"x": 0}, singles("x", (3,)), lambda out: float(out[0][0]))
    assert expected.any()
    np.testing.assert_array_equal(answer.layers["x"].values, expected)


STRINGS = """(string[N,1] city, float[N,1] age, bool[N,2] flags) => (float[N,1] y)
    <float[4,1] W = {2,3,5,7}> {
        code = ai.onnx.ml.LabelEncoder<keys_strings = ["Bern", "Rome"], values_floats = [1.0, 4.0],
            default_float = -2.0>(city)
        numbers = Cast<to = 1>(flags)
        row = Concat<axis = 1>(code, age, numbers)
        z = MatMul(row, W)
        y = Mul(z, age)
    }"""
PEOPLE: dict[str, Array] = {
    "city": np.array([["Bern"], ["Rome"], ["Oslo"]]),
    "age": np.array([[30], [0], [50]], np.float32),
    "flags": np.array([[True, False], [True, True], [False, True]]),
}


def test_strings_and_truth_values_are_replaced_too(engine: Engine) -> None:
    """An unknown city counts -2, so that "" does; a feature at its baseline has 0 exactly, without a run."""
    model = text(STRINGS, "ai.onnx.ml")
    answer = occluded(engine, model, PEOPLE)
    objects = {name: a.astype(object) if a.dtype.kind == "U" else a for name, a in PEOPLE.items()}
    groups = [g for name, unit in (("city", 1), ("age", 1), ("flags", 2)) for g in singles(name, (unit,))]
    low: dict[str, Any] = {"city": "", "age": 0, "flags": False}
    expected = defined(model, objects, low, groups, lambda out: float(out[0][0, 0]))
    found = np.concatenate([wide(answer.layers[name].values) for name in ("city", "age", "flags")], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert answer.layers["city"].values[2, 0] == 0
    # 3 cities, 2 ages that are not 0 and 4 flags that are set; each sample at x and at x' before
    assert answer.evaluations == 3 + 2 + 4 + 2 * 3


def test_a_baseline_may_be_text_for_each_sample(engine: Engine) -> None:
    """The city's code goes from 1, 4 and -2 to 4, 4 and 1, weighted by 2 and the age."""
    other = np.array([["Rome"], ["Rome"], ["Bern"]])
    answer = occluded(engine, text(STRINGS, "ai.onnx.ml"), PEOPLE, source=["city"], baselines={"city": other})
    np.testing.assert_allclose(
        wide(answer.layers["city"].values[:, 0]), [-3 * 2 * 30, 0, -3 * 2 * 50], rtol=1e-6
    )


TOKENS = """(int64[N,T] ids, int64[N,T] mask) => (float[N,2] y)
    <float[5,2] table = {1,2,3,4,5,6,7,8,9,0}, int64[1] two = {2}, int64[1] one = {1}> {
        e = Gather(table, ids)
        m = Cast<to = 1>(mask)
        w = Unsqueeze(m, two)
        p = Mul(e, w)
        s = ReduceSum<keepdims = 0>(p, one)
        y = Sigmoid(s)
    }"""


def test_tokens_are_replaced_by_the_token_of_the_baseline(engine: Engine) -> None:
    inputs: dict[str, Array] = {
        "ids": np.array([[1, 2, 4], [0, 3, 3]]),
        "mask": np.array([[1, 1, 0], [1, 0, 1]]),
    }
    low = {"ids": 4}
    answer = occluded(
        engine, text(TOKENS), inputs, source=["ids"], baselines=low, target=Target("s", index=1)
    )
    # the second column of the table is 2, 4, 6, 8, 0: the sum falls by the token's own number where it is not masked
    np.testing.assert_allclose(wide(answer.layers["ids"].values), [[4, 6, 0], [2, 0, 8]], rtol=1e-6)
    both = occluded(engine, text(TOKENS), inputs, target=Target(index=0))
    expected = defined(
        text(TOKENS), inputs, {"ids": 0, "mask": 0}, [*singles("ids", (3,)), *singles("mask", (3,))],
        lambda out: float(out[0][0, 0]),
    )  # fmt: skip
    found = np.concatenate([both.layers["ids"].values, both.layers["mask"].values], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


# --- Refusals

LINEAR = """(float[N,3] a, float[N,2,2] b) => (float[N,1] y)
    <float[3,1] V = {1,-2,3}, float[4,1] W = {5,7,-11,13}, int64[2] flat = {0,-1}> {
        p = MatMul(a, V)
        f = Reshape(b, flat)
        q = MatMul(f, W)
        y = Add(p, q)
    }"""


@pytest.fixture
def pair(rng: np.random.Generator) -> dict[str, Array]:
    """Returns inputs of the linear model in quarters, so that sums are exact."""
    return {
        "a": (rng.integers(-8, 8, (3, 3)) / 4).astype(np.float32),
        "b": (rng.integers(-8, 8, (3, 2, 2)) / 4).astype(np.float32),
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": {"c": np.array([0])}}, r"group or window has no tensor: no tensor or node 'c'"),
        ({"groups": {"y": np.array([0])}, "source": ["a"]}, r"'y' has groups but is no source; .* are 'a'"),
        ({"windows": {"b": (1,)}, "source": ["a"]}, r"'b' has a window but is no source"),
        ({"groups": {"a": np.array([0, 1])}}, r"groups of 'a' have shape \[2\]; they must broadcast to \[3\]"),
        ({"groups": {"a": np.array([0, -1, 1])}}, r"groups of 'a' hold -1; they are integers from 0"),
        ({"groups": {"a": np.array([0.0, 1, 1])}}, r"groups of 'a' have type float64"),
        ({"groups": {"a": np.array([0, 1, 1])}, "windows": {"a": (1,)}}, r"'a' has groups and a window"),
        ({"strides": {"a": (1,)}}, r"'a' has strides but no window"),
        ({"windows": {"a": (1, 1)}}, r"window of 'a' has 2 axes; a sample has 1"),
        ({"windows": {"b": (3, 1)}}, r"window of 'b' is \[3, 1\]; sizes lie between 1 and .* \[2, 2\]"),
        ({"windows": {"b": (0, 1)}}, r"window of 'b' is \[0, 1\]"),
        ({"windows": {"b": (1.5, 1)}}, r"windows of 'b' is \(1.5, 1\); it has one integer for each"),
        ({"windows": {"b": (1, 1)}, "strides": {"b": (2, 1)}}, r"strides of 'b' are \[2, 1\]; they lie between 1"),
        ({"windows": {"b": (1, 1)}, "strides": {"b": (1,)}}, r"strides of 'b' have 1 axes; its window has 2"),
        ({"windows": (1, 1)}, r"windows maps the name of a source"),
        ({"method": "gradient", "windows": {"a": (1,)}}, r"gradient knows no windows; it is a parameter of occlusion"),
        ({"baselines": {"a": "x"}}, r"baseline of 'a' has type str\d*; 'a' holds float32"),
        ({"source": ["V"]}, r"source 'V' is a constant"),
        ({"source": ["a"], "layers": ["p"]}, r"occlusion attributes to its source"),
    ],
)  # fmt: skip
def test_what_cannot_be_occluded_is_refused_by_name(
    engine: Engine, pair: dict[str, Array], changes: dict[str, Any], words: str
) -> None:
    engine.add("net", text(LINEAR))
    arguments = {"method": "occlusion", **changes}
    with pytest.raises(InvalidArgument, match=words):
        engine.attribute(AttributionRequest("net", pair, **arguments))


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"city": 0}, r"baseline of 'city' has type int64; 'city' holds text"),
        ({"flags": 2}, r"baseline of 'flags' holds numbers outside bool"),
        ({"age": np.array(["x"])}, r"baseline of 'age' has type str\d*; 'age' holds float32"),
    ],
)
def test_a_baseline_of_another_type_is_refused(engine: Engine, baseline: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        occluded(engine, text(STRINGS, "ai.onnx.ml"), PEOPLE, baselines=baseline)


def test_a_baseline_that_is_no_token_is_refused(engine: Engine) -> None:
    inputs = {"ids": np.array([[1, 2]]), "mask": np.array([[1, 1]])}
    with pytest.raises(InvalidArgument, match="baseline of 'ids' holds numbers outside int64"):
        occluded(engine, text(TOKENS), inputs, baselines={"ids": 0.5})
    with pytest.raises(
        InvalidArgument, match=r"at the baseline: input 'ids' holds 9; Gather .* looks up 0 to 4"
    ):
        occluded(engine, text(TOKENS), inputs, baselines={"ids": 9})


def test_too_many_groups_are_refused_with_their_number(engine: Engine) -> None:
    model = text("(float[N,3,80,80] x) => (float[N,1] y) { g = GlobalMaxPool(x) f = Flatten(g) "
                 "y = ReduceMax<axes = [1], keepdims = 1>(f) }")  # fmt: skip
    x = np.ones((1, 3, 80, 80), np.float32)
    with pytest.raises(
        InvalidArgument, match=r"19200 groups, .*; at most 16384 .* groups or windows"
    ) as caught:
        occluded(engine, model, {"x": x})
    assert (caught.value.reason, caught.value.metadata["actual"]) == ("REQUEST_TOO_LARGE", "19200")
    assert occluded(engine, model, {"x": x}, windows={"x": (40, 40)}).evaluations == 4 + 2


def test_a_source_behind_another_is_refused(engine: Engine, digits_path: Path) -> None:
    image = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    with pytest.raises(NotDifferentiable, match=r"'relu1' does not lie between the source 'relu1', 'relu2'"):
        occluded(engine, digits_path, image, source=["relu1", "relu2"])


def test_a_target_whose_shape_depends_on_values_is_refused(engine: Engine) -> None:
    model = text("(float[N,3] x) => (int64[2,M] y) { y = NonZero(x) }")
    with pytest.raises(InvalidArgument, match=r"target's shape depends on the values"):
        occluded(engine, model, {"x": np.ones((1, 3), np.float32)}, target=Target("y", index=(0, 0)))


def test_a_method_that_needs_a_gradient_names_the_node_and_the_way_out(engine: Engine) -> None:
    engine.add("net", forest())
    request = AttributionRequest("net", {"x": np.ones((1, 4), np.float32)}, "gradient")
    with pytest.raises(
        NotDifferentiable,
        match=r"TreeEnsembleRegressor \(node .*; the method occlusion or kernel_shap needs no",
    ):
        engine.attribute(request)
