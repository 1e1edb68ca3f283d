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

from onnx_attribution.errors import Cancelled, InvalidArgument, ModelError, NotDifferentiable, Overloaded
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend, Session
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.rows import evaluate
from onnx_attribution.values import (
    Accepted,
    Array,
    Attribution,
    AttributionRequest,
    Completed,
    Progress,
    Revision,
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


# --- Groups and windows


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


def test_a_linear_model_has_weight_times_difference(engine: Engine, pair: dict[str, Array]) -> None:
    answer = occluded(engine, text(LINEAR), pair, baselines={"a": 0.5, "b": np.array([[1, 2], [3, 4.0]])})
    np.testing.assert_array_equal(answer.layers["a"].values, (wide(pair["a"]) - 0.5) * [1, -2, 3])
    weights = np.array([[5, 7], [-11, 13]])
    np.testing.assert_array_equal(answer.layers["b"].values, (wide(pair["b"]) - [[1, 2], [3, 4]]) * weights)


def test_equal_numbers_are_one_group_across_inputs(engine: Engine, pair: dict[str, Array]) -> None:
    """Group 7 holds the first of `a` and the diagonal of `b`; every element of it has the whole effect."""
    groups = {"a": np.array([7, 2, 2]), "b": np.array([[7, 9], [2, 7]])}
    answer = occluded(engine, text(LINEAR), pair, groups=groups)
    a, b = wide(pair["a"]) * [1, -2, 3], wide(pair["b"]) * [[5, 7], [-11, 13]]
    seven, two, nine = a[:, 0] + b[:, 0, 0] + b[:, 1, 1], a[:, 1] + a[:, 2] + b[:, 1, 0], b[:, 0, 1]
    np.testing.assert_array_equal(answer.layers["a"].values, np.stack([seven, two, two], 1))
    np.testing.assert_array_equal(
        answer.layers["b"].values, np.stack([seven, nine, two, seven], 1).reshape(3, 2, 2)
    )


def test_groups_broadcast_and_sources_without_groups_go_element_by_element(
    engine: Engine, pair: dict[str, Array]
) -> None:
    answer = occluded(engine, text(LINEAR), pair, source=["a", "b"], groups={"b": np.array([[0], [1]])})
    rows = (wide(pair["b"]) * [[5, 7], [-11, 13]]).sum(axis=2, keepdims=True)
    np.testing.assert_array_equal(answer.layers["b"].values, np.broadcast_to(rows, (3, 2, 2)))
    np.testing.assert_array_equal(answer.layers["a"].values, wide(pair["a"]) * [1, -2, 3])
    alone = occluded(engine, text(LINEAR), pair, groups={"b": np.array([[[0], [1]]])})  # with a batch axis
    assert list(alone.layers) == ["b"]
    np.testing.assert_array_equal(alone.layers["b"].values, answer.layers["b"].values)


def test_samples_of_one_number_each_are_features(engine: Engine) -> None:
    model = text("(float[N] x, int64[N] k) => (float[N] y) { c = Cast<to = 1>(k) y = Mul(x, c) }")
    inputs = {"x": np.array([1, 2, 3.0]), "k": np.array([4, 5, 0])}
    answer = occluded(engine, model, inputs, baselines={"x": 0.5})
    np.testing.assert_array_equal(answer.layers["x"].values, [2, 7.5, 0])
    np.testing.assert_array_equal(answer.layers["k"].values, [4, 10, 0])
    both = occluded(engine, model, inputs, groups={"x": np.array(7), "k": np.array(7)}, baselines={"k": 1})
    np.testing.assert_array_equal(both.layers["x"].values, [4, 10, 0])


def averaged(effects: Floats, windows: Sequence[NDArray[np.bool_]]) -> Floats:
    """The mean, over the windows that cover an element, of their effects."""
    masks = np.stack(windows).astype(np.float64)
    return np.asarray(np.einsum("kg,g...->k...", effects, masks) / masks.sum(axis=0))


@pytest.mark.parametrize(
    ("window", "strides", "corners"),
    [
        ((3, 4), None, [(i, j) for i in (0, 3, 6) for j in (0, 4)]),
        ((1, 4, 4), (1, 3, 2), [(i, j) for i in (0, 3, 6) for j in (0, 2, 4)]),
    ],
)
def test_windows_of_an_image_are_replaced_and_averaged_where_they_overlap(
    engine: Engine,
    digits_path: Path,
    digits_data: tuple[NDArray[np.float32], NDArray[np.int64]],
    window: tuple[int, ...],
    strides: tuple[int, ...] | None,
    corners: list[tuple[int, int]],
) -> None:
    """The last windows are cut off at the edge, as in Captum's Occlusion."""
    images: Array = digits_data[0][:3]
    given = {"windows": {"image": window}, "strides": {} if strides is None else {"image": strides}}
    answer = occluded(engine, digits_path, {"image": images}, target=Target(index=4), **given)
    masks = []
    for top, left in corners:
        mask = np.zeros((1, 8, 8), bool)
        mask[:, top : top + window[-2], left : left + window[-1]] = True
        masks.append(mask)
    effects = defined(
        digits_path, {"image": images}, {"image": 0.0}, [{"image": mask} for mask in masks],
        lambda out: float(out[0][0, 4]),
    )  # fmt: skip
    expected = averaged(effects, masks)
    np.testing.assert_allclose(wide(answer.layers["image"].values), expected, rtol=1e-4, atol=1e-5)


def test_a_hidden_layer_is_occluded_where_it_is_named(
    engine: Engine, digits_path: Path, digits_data: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    """The last layer is linear in `relu3`: weight times activation, with the baseline at `relu3` itself."""
    images = digits_data[0][:2]
    weights = next(
        onnx.numpy_helper.to_array(i)
        for i in onnx.load(digits_path).graph.initializer
        if i.dims and i.dims[0] == 10 and len(i.dims) == 2
    )
    answer = occluded(
        engine, digits_path, {"image": images}, layers=["relu3"], target=Target(index=[3, 8]),
        baselines={"relu3": 0.25},
    )  # fmt: skip
    hidden = engine.predict("net", {"image": images}, ["relu3"])["relu3"]
    expected = (wide(hidden) - 0.25) * weights[[3, 8]]
    np.testing.assert_allclose(wide(answer.layers["relu3"].values), expected, rtol=1e-3, atol=1e-5)
    assert answer.layers["relu3"].cut


MIXED = """(float[1,4] x) => (float[1,2] y) <int64[1] rows = {0}, float[4,2] V = {1,2,3,4,5,6,7,8}> {
    m = ReduceMax<keepdims = 1, axes = [0]>(x)
    c = CumSum(x, zero)
    h = Mul(c, m)
    y = MatMul(h, V)
}"""


def test_samples_that_cannot_share_a_run_have_the_same_values(
    engine: Engine, rng: np.random.Generator
) -> None:
    """Both maximum and running sum over the batch are the identity for one row: `h = x * x`."""
    model = text(MIXED)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
    x = rng.normal(size=(3, 1, 4)).astype(np.float32)
    answer = occluded(engine, model, {"x": x}, target=Target(index=1), groups={"x": np.array([0, 0, 1, 2])})
    assert answer.batch == "single"
    each = wide(x) ** 2 * [2, 4, 6, 8]
    pair = each[..., :2].sum(axis=-1, keepdims=True)
    expected = np.concatenate([pair, pair, each[..., 2:]], -1)
    np.testing.assert_allclose(
        wide(answer.layers["x"].values), expected, rtol=0, atol=1e-6 * each.sum(-1).max()
    )


# --- Refusals


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
        NotDifferentiable, match=r"TreeEnsembleRegressor \(node .*; the method occlusion needs no"
    ):
        engine.attribute(request)


def test_an_input_that_is_a_map_is_refused_with_the_tensor_to_begin_at(engine: Engine, shared: Path) -> None:
    with pytest.raises(
        ModelError, match=r"'float_input' is a map, .*DictVectorizer .*'variable' as its input"
    ):
        occluded(engine, shared / "models" / "tree-vectorize-pipeline" / "model.onnx", {})


# --- Runs


def events(engine: Engine, x: Array, **changes: Any) -> list[Any]:
    engine.add("net", forest())
    return list(engine.stream(AttributionRequest("net", {"x": x}, "occlusion"), **changes))


def test_a_stream_says_how_far_the_groups_are(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.normal(size=(5, 4)).astype(np.float32)
    whole = events(engine, x)[-2].attribution
    monkeypatch.setattr(evaluate, "MAX_ROWS", 8)
    found = events(engine, x)
    assert isinstance(found[0], Accepted)
    assert found[0].planned_evaluations == 5 * 4 + 2 * 5
    assert [e.done for e in found if isinstance(e, Progress)] == [18, 26, 30]
    assert {e.planned for e in found if isinstance(e, Progress)} == {30}
    assert isinstance(found[-2], Revision)
    assert found[-1] == Completed("exact", 0)
    np.testing.assert_array_equal(found[-2].attribution.layers["x"].values, whole.layers["x"].values)


def test_a_cancelled_stream_runs_no_further(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_ROWS", 2)
    asked = []

    def stop() -> Any:
        asked.append(1)
        return "cancelled" if len(asked) == 3 else None

    with pytest.raises(Cancelled):
        events(engine, rng.normal(size=(5, 4)).astype(np.float32), stop=stop)
    assert len(asked) == 3


def test_runs_become_smaller_until_the_memory_suffices(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.normal(size=(5, 4)).astype(np.float32)
    whole = events(engine, x)[-2].attribution
    run, rows = Session.run, []

    def small(self: Session, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        rows.append(len(inputs["x"]))
        if rows[-1] > 6:
            raise Overloaded("the memory does not suffice")
        return run(self, inputs, outputs)

    monkeypatch.setattr(Session, "run", small)
    found = engine.attribute(AttributionRequest("net", {"x": x}, "occlusion"))
    assert max(rows) == 20
    np.testing.assert_array_equal(found.layers["x"].values, whole.layers["x"].values)


# --- Real models


def probability(label: int) -> Callable[[list[Any]], float]:
    """The entry of a ZipMap, which follows the label."""
    return lambda out: float(out[1][0][label])


FLOATS = {
    "rf-iris": ("float_input", np.array([[5.1, 3.5, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]), probability(2)),
    "coffee-tree-ensemble": ("float_input", np.random.default_rng(0).random((2, 286)) * 3, probability(1)),
    "lightgbm-pipeline-iris": ("input", np.array([[5.1, 3.5], [7.2, 2.4]]), probability(1)),
    "tree-classifier-sk": (
        "input",
        np.random.default_rng(0).random((2, 32)) * 2,
        lambda out: float(out[1][0, 1]),
    ),
    "knn-multi": ("input", np.array([[0.3, -0.2, 1.0]]), probability(0)),
}


@pytest.mark.parametrize("name", FLOATS)
def test_trees_and_neighbours_have_the_differences_of_their_file(
    engine: Engine, shared: Path, name: str
) -> None:
    path = shared / "models" / name / "model.onnx"
    source, x, value = FLOATS[name]
    x = x.astype(np.float32)
    label = {"rf-iris": 2, "knn-multi": 0}.get(name, 1)
    answer = occluded(
        engine, path, {source: x}, target=Target("proba_0" if "sk" in name else None, index=label)
    )
    expected = defined(path, {source: x}, {source: 0}, singles(source, x.shape[1:]), value)
    found = wide(answer.layers[source].values).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_features_of_a_passenger_have_the_differences_of_their_file(engine: Engine, shared: Path) -> None:
    path = shared / "models" / "titanic-pipeline" / "model.onnx"
    people: dict[str, Array] = {
        "pclass": np.array([["1"], ["3"]], object),
        "sex": np.array([["female"], ["male"]], object),
        "age": np.array([[29], [40]], np.float32),
        "fare": np.array([[211.3], [7.0]], np.float32),
        "embarked": np.array([["S"], ["Q"]], object),
    }
    low: dict[str, Any] = {"pclass": "2", "sex": "", "age": 30.0, "fare": 0.0, "embarked": ""}
    answer = occluded(engine, path, people, target=Target(index=1), baselines={"pclass": "2", "age": 30.0})
    groups = [g for name in people for g in singles(name, (1,))]
    expected = defined(path, people, low, groups, probability(1))
    found = np.concatenate([wide(answer.layers[name].values) for name in people], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected[0]).min() > 1e-4


def test_tokens_of_a_beam_search_have_the_differences_of_their_file(engine: Engine, shared: Path) -> None:
    path = shared / "models" / "tiny-gpt2-beamsearch" / "model.onnx"
    settings: dict[str, Array] = {
        **{
            n: np.array([k], np.int32) for n, k in {"max_length": 10, "min_length": 1, "num_beams": 2}.items()
        },
        "num_return_sequences": np.array([1], np.int32),
        **{n: np.array([1], np.float32) for n in ("length_penalty", "repetition_penalty")},
    }
    ids = np.array([[3, 5, 7, 9, 11], [2, 4, 6, 8, 1]], np.int32)
    engine.add("beams", path)
    inputs = {"input_ids": ids, **settings}
    answer = engine.attribute(
        AttributionRequest("beams", inputs, "occlusion", target=Target("sequences", (0, 6)))
    )
    assert list(answer.layers) == ["input_ids"]  # the settings are shared by all samples
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def seventh(row: Array) -> float:
        return float(session.run(None, {"input_ids": row[None], **settings})[0][0, 0, 6])

    expected = np.zeros((2, 5))
    for k, place in np.ndindex(2, 5):
        moved = ids[k].copy()
        moved[place] = 0
        expected[k, place] = seventh(ids[k]) - seventh(moved)
    assert expected.any()
    np.testing.assert_array_equal(answer.layers["input_ids"].values, expected)
    with pytest.raises(
        InvalidArgument, match=r"no output of the model holds floats .*occlusion takes an output"
    ):
        engine.attribute(AttributionRequest("beams", inputs, "gradient"))


def test_windows_of_a_recurrent_speech_model_have_the_differences_of_its_file(
    engine: Engine, shared: Path, rng: np.random.Generator
) -> None:
    path = shared / "models" / "silero-vad-v5" / "model.onnx"
    inputs: dict[str, Array] = {
        "input": rng.normal(size=(1, 512)).astype(np.float32) * 0.1,
        "state": rng.normal(size=(2, 1, 128)).astype(np.float32) * 0.1,
        "sr": np.array(16000),
    }
    answer = occluded(
        engine, path, inputs, windows={"input": (128,)}, target=Target("output"), shapes={"input": (1, 512)},
        example={"sr": inputs["sr"]},
    )  # fmt: skip
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    at_x = float(session.run(["output"], inputs)[0].item())
    found = wide(answer.layers["input"].values).reshape(4, 128)
    for part in range(4):
        moved = {**inputs, "input": inputs["input"].copy()}
        moved["input"][0, 128 * part : 128 * part + 128] = 0
        expected = at_x - float(session.run(["output"], moved)[0].item())
        np.testing.assert_allclose(found[part], expected, rtol=1e-3, atol=1e-8)


SEVERAL_KINDS = {
    "acasxu-1-1": "linear_7_Add",
    "bert-toy-fused": "prediction_scores",
    "derived-mnist-qoperator-int8": "dense_2",
    "dtln-model2": "conv1d_3",
    "matmul-integer-dynamic": "output_1",
    "mlnet-imputer-tree": "label",
    "silero-vad-v3": "hn",
    "voicevox-duration": "phoneme_length",
}
"""Models of fixed and dynamic batches, of one and of 201 inputs, of integers, fused, quantised, recurrent."""


@pytest.mark.parametrize("name", SEVERAL_KINDS)
def test_interleaved_groups_of_all_inputs_have_the_differences_of_the_file(
    engine: Engine, shared: Path, name: str
) -> None:
    """The elements of every input are dealt to three groups in turn; the target is the output's first element."""
    path, output = shared / "models" / name / "model.onnx", SEVERAL_KINDS[name]
    engine.add("net", path)
    loaded = LoadedModel(path, Backend("cpu", 2))
    inputs = dict(loaded.network.example)
    masks: dict[str, NDArray[np.int64]] = {}  # with the batch axis
    groups: dict[str, NDArray[np.int64]] = {}
    for source in loaded.features((), output):
        axis, shape = loaded.network.input_axes[source], inputs[source].shape
        numbers = np.arange(inputs[source].size).reshape(shape) % 3  # one sample
        masks[source] = numbers
        groups[source] = numbers if axis is None else numbers.squeeze(axis)
    rank = engine.predict("net", inputs, [output])[output].ndim
    first = Target(output, (0,) * (rank - (loaded.rows_of([output])[output] is not None)))
    answer = engine.attribute(AttributionRequest("net", inputs, "occlusion", target=first, groups=groups))

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def value(fed: Mapping[str, Array]) -> float:
        found = session.run([output], {x.name: fed[x.name] for x in session.get_inputs()})[0]
        return float(np.asarray(found).reshape(-1)[0])

    effects = np.zeros(3)
    for k in range(3):
        low = {n: np.where(mask == k, inputs[n].dtype.type(0), inputs[n]) for n, mask in masks.items()}
        effects[k] = value(inputs) - value({**inputs, **low})
    assert effects.any()
    for source, numbers in groups.items():
        found = wide(answer.layers[source].values).reshape(numbers.shape)
        scale = max(float(np.abs(effects).max()), 1)
        np.testing.assert_allclose(found, effects[numbers], rtol=1e-4, atol=1e-5 * scale)
