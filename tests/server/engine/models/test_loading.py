"""Files that say false things of themselves, or hold what no runtime has, and what they answer all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_attribution.errors import AttributionError, InvalidArgument, ModelError
from onnx_attribution.graph_tools.normalise import dropped_operators
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, Target

ALL = Target(index=(slice(None),))
RNG = np.random.default_rng(7)
W, V = RNG.normal(size=(6, 4)).astype(np.float32), RNG.normal(size=(4, 3)).astype(np.float32)
X = RNG.normal(size=(3, 6)).astype(np.float32)


def parsed(text: str, opset: int = 18, more: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{more}]> {text}')


def asked(
    model: onnx.ModelProto,
    inputs: dict[str, Any],
    method: str = "gradient",
    target: Target = ALL,
    **more: Any,
) -> Attribution:
    stated = {word: more.pop(word) for word in ("batch_axes", "shapes") if word in more}
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model, **stated)
        return engine.attribute(AttributionRequest("net", inputs, method, target=target, **more))


def close(found: Any, expected: Any, rtol: float, atol: float = 0) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=atol)


def slope(f: Any, x: Any, step: float = 1e-6) -> Any:
    """The gradient of `f`, a function in float64, by differences."""
    x = x.astype(np.float64)
    found = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        move = np.zeros_like(x)
        move[at] = step
        found[at] = (f(x + move) - f(x - move)) / (2 * step)
    return found


def dense(
    x: Sequence[int | str | None] | None,
    y: Sequence[Any] | None,
    inside: Sequence[tuple[str, list[Any], int]],
) -> onnx.ModelProto:
    """Two layers, with an input, an output and hidden tensors declared as said."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["h"], "fc1"),
            helper.make_node("Relu", ["h"], ["r"], "act"),
            helper.make_node("MatMul", ["r", "V"], ["y"], "fc2"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(W, "W"), numpy_helper.from_array(V, "V")],
        value_info=[helper.make_tensor_value_info(name, kind, dims) for name, dims, kind in inside],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
FALSE: dict[str, tuple[Any, Any, Any, str]] = {
    "everything says 1": (
        ["N", 6],
        [1, 3],
        [("h", [1, 4], FLOAT), ("r", [1, 4], FLOAT)],
        "'h' is declared [1, 4]",
    ),
    "the output says 1": (["N", 6], [1, 3], [], "'y' is declared [1, 3] and is [N, 3]"),
    "an old size": (["N", 6], ["N", 3], [("h", ["N", 99], FLOAT)], "'h' is declared [N, 99] and is [N, 4]"),
    "another rank": (["N", 6], ["N", 3, 1], [("h", ["N", 2, 2], FLOAT)], "'h' is declared [N, 2, 2]"),
    "another type": (["N", 6], ["N", 3], [("h", ["N", 4], HALF)], ""),
    "an input without rank": (None, ["N", 3], [], ""),
    "no sizes": ([None, None], [None, None], [], ""),
    "sizes of -1": ([-1, 6], [-1, 3], [], ""),
    "a name that says nothing, twice": (["?", "?"], ["?", "?"], [], ""),
}


@pytest.mark.parametrize("case", FALSE)
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift_rescale", "occlusion"])
def test_false_declarations_change_no_number_and_are_told(case: str, method: str) -> None:
    x, y, inside, said = FALSE[case]
    answer = asked(dense(x, y, inside), {"x": X}, method, Target(index=1))

    def net(z: NDArray[np.float64]) -> float:
        return float((np.maximum(z @ W.astype(np.float64), 0) @ V.astype(np.float64))[1])

    if method == "gradient":
        expected: list[Any] = [slope(net, x) for x in X]
    elif method == "occlusion":
        expected = [
            [net(x.astype(np.float64)) - net(np.where(np.arange(6) == k, 0, x)) for k in range(6)] for x in X
        ]
    else:
        layer, change = answer.layers["x"], [net(x) for x in X]
        close(layer.sum - layer.residual, change, rtol=1e-4)
        close(layer.sum, change, rtol=0, atol=0.05)  # 64 steps over the kinks of Relu
        expected = []
    if len(expected):
        close(answer.layers["x"].values, expected, rtol=1e-4, atol=1e-5)
    told = [text for text in answer.warnings if "declares shapes that are false" in text]
    assert bool(told) == bool(said)
    assert said in "".join(told)


def test_rows_that_a_declared_shape_would_sum_stay_apart() -> None:
    model = parsed(
        "g (float[N,2] x) => (float[N,2] y) <float[1,2] a> { a = Exp(x) b = Tanh(x) y = Mul(a, b) }"
    )
    x = np.asarray([[1, 2], [0, 1], [1, 3]], np.float32)
    expected = np.exp(x) * np.tanh(x) + np.exp(x) * (1 - np.tanh(x) ** 2)
    close(asked(model, {"x": x}).layers["x"].values, expected, rtol=1e-5)
    paths = asked(model, {"x": x}, "integrated_gradients").layers["x"].values
    close(paths, np.exp(x) * np.tanh(x), rtol=2e-3)  # the trapezoid's own error at 64 steps


def test_a_loss_that_is_declared_a_scalar_is_one_of_each_row() -> None:
    model = parsed(
        """g (float[N,2] x, int64[N] t) => (float[N] y) <float n> { z = LogSoftmax(x)
        n = NegativeLogLikelihoodLoss<reduction="none">(z, t) e = Exp(n) y = Mul(e, n) }"""
    )
    x, t = np.asarray([[1, 2], [0, 1], [1, 3]], np.float32), np.asarray([0, 1, 1])

    def loss(row: NDArray[np.float64], label: int) -> float:
        n = float(np.log(np.exp(row).sum()) - row[label])
        return float(np.exp(n) * n)

    expected = [slope(lambda r, k=k: loss(r, k), row) for row, k in zip(x, t, strict=True)]
    found = asked(model, {"x": x, "t": t}, target=Target()).layers["x"].values
    close(found, expected, rtol=1e-4)


def test_false_shapes_inside_of_a_loop_are_not_believed() -> None:
    """A sum of squares over the steps; the body says that it carries one row."""
    model = parsed(
        """g (float[S,N,2] x) => (float[N,2] z) <int64 two = {2}, bool yes = {1}, int64 zero = {0}> {
        f = Gather(x, zero) s0 = Sub(f, f)
        z = Loop(two, yes, s0) <body = b (int64 i, bool c, float[1,2] s) => (bool d, float[1,2] n)
            <float[1,2] q> { d = Identity(c) xt = Gather(x, i) q = Mul(xt, xt) n = Add(q, s) }> }""",
        13,
    )
    x = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    answer = asked(model, {"x": x}, batch_axes={"x": 1})
    close(answer.layers["x"].values, 2 * np.moveaxis(x, 1, 0), rtol=1e-5)


def test_sizes_of_one_name_may_differ() -> None:
    model = parsed("n (float[N,T] x, float[N,T] m) => (float[N,T] y) { y = Mul(x, m) }")
    x, m = RNG.normal(size=(2, 6)).astype(np.float32), np.asarray([[2], [3]], np.float32)
    answer = asked(model, {"x": x, "m": m})
    close(answer.layers["x"].values, np.tile(m, (1, 6)), rtol=1e-6)
    close(answer.layers["m"].values, x.sum(axis=1, keepdims=True), rtol=1e-5)


def test_an_input_of_the_batch_s_name_that_is_shared_is_summed_over_the_rows_it_meets() -> None:
    model = parsed("n (float[N,3] x, float[N,3] m) => (float[N,3] y) { y = Mul(x, m) }")
    x, m = RNG.normal(size=(2, 3)).astype(np.float32), RNG.normal(size=(1, 3)).astype(np.float32)
    answer = asked(model, {"x": x, "m": m}, batch_axes={"x": 0, "m": None})
    close(answer.layers["x"].values, np.tile(m, (2, 1)), rtol=1e-6)


def test_sizes_are_found_on_which_alone_a_file_runs() -> None:
    """A flattened picture of 48 x 192, as a classifier of text lines has it."""
    weight = numpy_helper.from_array(RNG.normal(size=(48 * 192, 2)).astype(np.float32), "w")
    model = parsed(
        "n (float[-1,1,H,W] x) => (float[M,2] y) { f = Flatten(x) y = MatMul(f, w) }".replace("-1", "B")
    )
    model.graph.initializer.append(weight)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model)
        assert engine.info("net").inputs[0].shape == ("B", 1, "H", "W")


# --- operators that no runtime has


CUT = """n (float[1,6] x) => (int32[1,1] count) <float[6,6] w> { h = MatMul(x, w) s = Sigmoid(h)
    boxes = Identity(h) count = TRT.EfficientNMS_TRT(boxes, s) }"""


def cut_model(text: str = CUT) -> onnx.ModelProto:
    model = parsed(text, 17, ', "TRT" : 1')
    model.graph.initializer.append(numpy_helper.from_array(RNG.normal(size=(6, 6)).astype(np.float32), "w"))
    return model


def test_what_lies_before_an_operator_that_nobody_has_is_explained() -> None:
    model = cut_model()
    w = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    answer = asked(model, {"x": X[:1]}, target=Target("s", 2))
    expected = slope(lambda x: float(1 / (1 + np.exp(-(x @ w)[2]))), X[0])
    close(answer.layers["x"].values[0], expected, rtol=1e-4, atol=1e-6)
    assert any("does not have TRT.EfficientNMS_TRT" in text and "'s'" in text for text in answer.warnings)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ("count", "'count' lies behind TRT.EfficientNMS_TRT .*extract_model"),
        (None, "name the target: 'h', 's'|'s'"),
    ],
)
def test_a_target_behind_it_is_refused_with_what_can_be_named(tensor: str | None, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        asked(cut_model(), {"x": X[:1]}, target=Target(tensor))


def test_a_file_that_begins_with_it_is_refused_with_what_to_do() -> None:
    text = "n (float[1,6] x) => (float[1,6] y) { t = TRT.Tokenise(x) y = MatMul(t, w) }"
    with pytest.raises(
        ModelError, match=r"TRT\.Tokenise \(node '.*'\), and nothing .*extract_model with 't'"
    ):
        asked(cut_model(text), {"x": X[:1]})


def test_a_branch_and_a_function_that_hold_it_are_cut_too() -> None:
    text = """n (float[1,6] x, bool b) => (float[1,6] y) { t = Tanh(x)
        y = If (b) <then_branch = p () => (float[1,6] c) { c = TRT.Foo(t) },
                    else_branch = q () => (float[1,6] d) { d = Tanh(t) }> }"""
    answer = asked(cut_model(text), {"x": X[:1], "b": np.asarray(True)}, target=Target("t", 0))
    expected = np.zeros(6)
    expected[0] = 1 - np.tanh(X[0, 0].astype(np.float64)) ** 2
    close(answer.layers["x"].values[0], expected, rtol=1e-5)


# --- outputs that are no tensors


def test_elements_of_a_sequence_are_targets_and_the_sequence_is_none() -> None:
    model = parsed(
        """n (float[N,3] x) => (seq(float[N,1]) all, float[N,1] y) <int64 one = {1}> { t = Tanh(x)
        a, b, c = Split<axis = 1, num_outputs = 3>(t) all = SequenceConstruct(a, b, c) m = SequenceAt(all, one)
        y = Mul(m, m) }"""
    )
    x = X[:2, :3]
    tanh = np.tanh(x.astype(np.float64))
    expected = np.zeros((2, 3))
    expected[:, 1] = 2 * tanh[:, 1] * (1 - tanh[:, 1] ** 2)
    close(asked(model, {"x": x}, target=Target()).layers["x"].values, expected, rtol=1e-5)
    for method in ("gradient", "occlusion", "deeplift_rescale"):
        with pytest.raises(
            InvalidArgument, match="'all' is a sequence and no tensor; name what it holds: 'a', "
        ):
            asked(model, {"x": x}, method, Target("all", 1))


@pytest.mark.parametrize("split", ["SplitToSequence<axis = 1>(t, one)", "SplitToSequence<axis = 1>(t)"])
def test_parts_of_a_split_that_is_the_only_output_have_names(split: str) -> None:
    model = parsed(
        f"n (float[N,3] x) => (seq(float[N,1]) all) <int64 one = {{1}}> {{ t = Tanh(x) all = {split} }}"
    )
    with pytest.raises(InvalidArgument, match="name the target: 'all/part_0', 'all/part_1', 'all/part_2'"):
        asked(model, {"x": X[:2, :3]}, target=Target())
    found = asked(model, {"x": X[:2, :3]}, target=Target("all/part_2", 0)).layers["x"].values
    expected = np.zeros((2, 3))
    expected[:, 2] = 1 - np.tanh(X[:2, 2].astype(np.float64)) ** 2
    close(found, expected, rtol=1e-5)


# --- numbers that are drawn


def test_a_target_behind_noise_is_told_to_be_random_and_one_beside_it_is_not() -> None:
    model = parsed(
        """n (float[N,6] x) => (float[N,4] y, float[N,4] h) { h = MatMul(x, W) e = RandomNormalLike(h)
        y = Add(h, e) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    behind = asked(model, {"x": X}, target=Target("y", 1))
    assert any("'y' is random: RandomNormalLike" in text for text in behind.warnings)
    beside = asked(model, {"x": X}, target=Target("h", 1))
    close(beside.layers["x"].values, np.tile(W[:, 1], (3, 1)), rtol=1e-5)
    assert beside.warnings == ()


@pytest.mark.parametrize("training", [False, True])
def test_a_training_flag_that_is_an_input_decides(training: bool) -> None:
    model = parsed(
        "n (float[N,6] x, bool t) => (float[N,4] y) <float r = {0.5}> { d = Dropout(x, r, t) y = MatMul(d, W) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(W, "W"))
    answer = asked(model, {"x": X, "t": np.asarray(training)}, target=Target(index=1))
    found = answer.layers["x"].values
    plain = np.tile(W[:, 1], (3, 1))
    if training:
        kept = found != 0
        close(found[kept], 2 * plain[kept], rtol=1e-5)
    else:
        close(found, plain, rtol=1e-5)
    assert any("random" in text for text in answer.warnings) == training


def test_statistics_of_a_batch_in_training_are_those_of_the_definition() -> None:
    model = parsed(
        """n (float[4,3] x) => (float[4,3] y) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 0}, float[3] m = {9, 9, 9},
        float[3] v = {5, 5, 5}> { y, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v) }""",
        15,
    )
    x = RNG.normal(size=(4, 3)).astype(np.float32)

    def net(z: NDArray[np.float64]) -> float:
        hat = (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5)
        return float((hat * [1, 2, 3] + [0, 1, 0])[1, 2])

    found = asked(model, {"x": x}, target=Target(index=(1, 2)), batch_axes={"x": None})
    close(found.layers["x"].values.reshape(4, 3), slope(net, x), rtol=1e-3, atol=1e-5)


def test_a_refusal_of_a_file_says_which_output_differs_and_by_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Sin"

    monkeypatch.setattr(dropped_operators, "rewrite_dropped", wrong)
    with pytest.raises(
        AttributionError, match=r"differs from the file: output 'y' by .*, where its largest element"
    ):
        asked(
            parsed("n (float[N,3] x) => (float[N,3] y) { y = Tanh(x) }"),
            {"x": X[:, :3]},
            target=Target(index=1),
        )
