"""A head is found whatever a file spells it as, and new classes leave every bit of the old logits as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_attribution.errors import ModelError, NotFound, Reason
from onnx_attribution.graph_tools.programs.head import CLASSES, Head, classes_told, find_head, widened
from onnx_attribution.graph_tools.read.load import load
from tests.graph_tools.programs.heads import HEADS, IMAGE, VECTOR, C, D, evaluated, model_of, rows_of, run

Array = NDArray[Any]
NAMES = ["zebra", "quagga"]


def labelled(kind: str) -> str:
    """The text of a file, up to its logits m, whose output z is of this kind."""
    return VECTOR.replace("float[N,4] y", f"{kind} z") + "m = Gemm <transB=1> (h, w, b) "


def new_weights(head: Head) -> tuple[Array, Array]:
    random = np.random.default_rng(7)
    return random.normal(size=(2, head.weight.shape[1])), random.normal(size=2)


def wide(model: onnx.ModelProto) -> onnx.ModelProto:
    head = find_head(model)
    return widened(model, head, NAMES, *new_weights(head))


def features(x: Array) -> Array:
    """What the heads of the files read, in float64, the mean over positions."""
    h = np.maximum(x.astype(np.float64), 0)
    return h.mean(axis=(2, 3)) if h.ndim == 4 else h.reshape(len(h), -1)


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_the_linear_map_that_the_file_computes(name: str) -> None:
    model = model_of(HEADS[name])
    head = find_head(model)
    x = rows_of(model, 3)
    (y,) = run(model, x)
    tolerance = 2e-2 if x.dtype == np.float16 else 1e-5  # of the type's own rounding
    np.testing.assert_allclose(
        y.reshape(3, C).astype(np.float64),
        features(x) @ head.weight.T + head.bias,
        rtol=tolerance,
        atol=tolerance,
    )
    assert head.positions == ("before" in name or "all positions" in name or "mean" in name)


@pytest.mark.parametrize("name", HEADS)
def test_old_logits_keep_every_bit_and_new_ones_are_the_linear_map(name: str) -> None:
    model = model_of(HEADS[name])
    head, changed = find_head(model), wide(model)
    onnx.checker.check_model(changed, full_check=True)
    weight, bias = new_weights(head)
    for count in (1, 5):
        x = rows_of(model, count)
        for runner in (run, evaluated):
            (old,), (new,) = runner(model, x), runner(changed, x)
            assert new.shape[-1] == C + 2
            np.testing.assert_array_equal(new[..., :C], old)
            wanted = features(x) @ weight.T + bias
            tolerance = 3e-2 if x.dtype == np.float16 else 1e-5  # of the type's own rounding
            np.testing.assert_allclose(new[..., C:].reshape(count, 2), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", HEADS)
def test_classes_are_added_to_those_that_were_added_one_alone_too(name: str) -> None:
    model = model_of(HEADS[name])
    head = find_head(model)
    weight, bias = new_weights(head)
    once = widened(model, head, NAMES[:1], weight[:1], bias[:1])
    again = find_head(once)
    assert (again.features, again.logits, again.axis, again.positions) == (
        head.features, head.logits, head.axis, head.positions,
    )  # fmt: skip
    near = 1e-3 if head.dtype == np.float16 else 1e-6  # of the type's own rounding
    np.testing.assert_allclose(again.weight, np.concatenate([head.weight, weight[:1]]), rtol=near, atol=near)
    np.testing.assert_allclose(again.bias, np.concatenate([head.bias, bias[:1]]), rtol=near, atol=near)
    twice = widened(once, again, NAMES[1:], weight[1:], bias[1:])
    onnx.checker.check_model(twice, full_check=True)
    x = rows_of(model, 5)
    for runner in (run, evaluated):
        (old,), (middle,), (new,) = (runner(one, x) for one in (model, once, twice))
        np.testing.assert_array_equal(middle[..., :C], old)
        np.testing.assert_array_equal(new[..., : C + 1], middle)
        assert new.shape[-1] == C + 2


@pytest.mark.parametrize("rows", [1, 2, 7, 33])
@pytest.mark.parametrize("size", [3, 64, 513])
def test_old_logits_keep_every_bit_at_any_size(rows: int, size: int) -> None:
    random = np.random.default_rng(size)
    for kind, _shape in (
        ("Gemm <transB=1> (x, w, b)", "{0},{1}"),
        ("MatMul (x, w)", "{1},{0}"),
        ("Conv (x, w, b)", ""),
    ):
        for classes in (2, 15, 16, 100):
            unit = (size, 2, 3) if "Conv" in kind else (size,)
            w = random.normal(size=(classes, size)).astype(np.float32)
            w = w[:, :, None, None] if "Conv" in kind else w.T.copy() if "MatMul" in kind else w
            tail = "c = {} p = GlobalAveragePool (c) y = Flatten (p)" if "Conv" in kind else "y = {}"
            text = f"net (float[N,{','.join(map(str, unit))}] x) => (float[N,{classes}] y) {{ {tail.format(kind)} }}"
            model = model_of(text, {"w": w, "b": random.normal(size=classes).astype(np.float32)})
            x = random.normal(size=(rows, *unit)).astype(np.float32)
            for runner in (run, evaluated):
                if runner is evaluated and "Conv" in kind and size > 64:
                    continue  # a loop in Python
                (old,), (new,) = runner(model, x), runner(wide(model), x)
                np.testing.assert_array_equal(new[:, :classes], old)


def test_only_what_must_changes_in_the_file() -> None:
    model = model_of(VECTOR + "m = MatMul (h, wt) a = Add (m, b) y = Softmax (a) }")
    assert find_head(model).scored == ("y",)
    model.graph.output.add(name="h").type.CopyFrom(model.graph.input[0].type)
    changed = widened(
        model, find_head(model), NAMES, np.ones((2, D)), np.ones(2), {"onnx_attribution.classes": "x"}
    )
    assert {one.key: one.value for one in changed.metadata_props} == {
        "kept": "as it was",
        "onnx_attribution.classes": "x",
    }
    assert changed.opset_import == model.opset_import
    assert changed.ir_version == model.ir_version
    assert [z.name for z in changed.graph.output] == ["y", "h"]
    sizes = [[d.dim_param or d.dim_value for d in z.type.tensor_type.shape.dim] for z in changed.graph.output]
    assert sizes == [["N", C + 2], ["N", D]]
    x = rows_of(model, 3)
    y, h = run(changed, x)
    np.testing.assert_array_equal(h, run(model, x)[1])
    logits = np.maximum(x, 0).astype(np.float64)
    logits = np.concatenate(
        [logits @ find_head(model).weight.T + find_head(model).bias, logits @ np.ones((D, 2)) + 1], 1
    )
    wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(y, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_file_that_lists_its_weights_as_inputs_stays_valid() -> None:
    model = model_of(VECTOR + "y = Gemm <transB=1> (h, w, b) }", opset=7)
    model.ir_version = 3
    for one in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    changed = wide(model)
    onnx.checker.check_model(changed, full_check=True)
    x = rows_of(model, 2)
    np.testing.assert_array_equal(run(changed, x)[0][:, :C], run(model, x)[0])


def test_the_head_of_functions_is_found() -> None:
    text = VECTOR + "y = own.head (h, w, b) }"
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "own": 1]>' + text
        + '<domain: "own", opset_import: ["": 21]> head (a, w, b) => (y) { y = Gemm <transB=1> (a, w, b) }'
    )  # fmt: skip
    whole = model_of(VECTOR + "y = Gemm <transB=1> (h, w, b) }")
    model.graph.initializer.extend(whole.graph.initializer)
    x = rows_of(model, 3)
    np.testing.assert_array_equal(run(wide(model), x)[0][:, :C], run(whole, x)[0])


def test_decisions_and_labels_know_the_new_classes() -> None:
    strings = np.asarray(["ant", "bee", "cat", "dog"], object)
    tables = {"names": strings, "numbers": np.arange(4)}
    x = rows_of(model_of(HEADS["Gemm"]), 40)
    (logits,) = run(wide(model_of(HEADS["Gemm"])), x)
    best = logits.argmax(axis=1)
    assert {4, 5} & set(best)
    all_names = np.asarray([*strings, *NAMES], object)
    for kind, tail, wanted in (
        ("int64[N]", "z = ArgMax <axis=1, keepdims=0> (m) }", best),
        ("int64[N,1]", "v, z = TopK <axis=1> (m, one) }", best[:, None]),
        ("string[N]", "i = ArgMax <axis=1, keepdims=0> (m) z = Gather (names, i) }", all_names[best]),
        ("int64[N]", "i = ArgMax <axis=1, keepdims=0> (m) z = Gather (numbers, i) }", best),
        (
            "string[N]",
            "i = ArgMax <axis=1, keepdims=0> (m) z = ai.onnx.ml.LabelEncoder <keys_int64s=[0,1,2,3], "
            'values_strings=["ant","bee","cat","dog"]> (i) }',
            all_names[best],
        ),
        (
            "string[1,N]",
            "i = ArgMax <axis=1, keepdims=0> (m) z = ai.onnx.ml.ArrayFeatureExtractor (names, i) }",
            all_names[best][None],
        ),
    ):
        model = model_of(labelled(kind) + tail, {**tables, "one": np.asarray([1])})
        (found,) = run(wide(model), x)
        np.testing.assert_array_equal(found, wanted)


def test_a_map_of_probabilities_holds_the_new_classes() -> None:
    text = (
        labelled("seq(map(string,float))")
        + "p = Softmax (m) z = ai.onnx.ml.ZipMap <classlabels_strings=[{}]> (p) }"
    )
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 3]>'
        + text.replace("{}", '"ant","bee","cat","dog"')
    )
    model.graph.initializer.extend(model_of(HEADS["Gemm"]).graph.initializer)
    (found,) = run(wide(model), rows_of(model, 2))
    assert all({*one} == {"ant", "bee", "cat", "dog", *NAMES} for one in found)
    assert all(abs(sum(one.values()) - 1) < 1e-5 for one in found)


REFUSED = {
    "a later layer": (VECTOR + "m = Gemm <transB=1> (h, w) y = MatMul (m, square) }", "is no head"),
    "a nonlinearity": (VECTOR + "m = Gemm <transB=1> (h, w, b) y = Relu (m) }", "the Relu .* is not linear"),
    "places of classes": (
        VECTOR + "m = Gemm <transB=1> (h, w, b) p = Softmax (m) y = Slice (p, first, four, classes_axis) }",
        "Slice .* takes some of the classes",
    ),
    "a number for each class": (
        VECTOR + "m = Gemm <transB=1> (h, w, b) p = Softmax (m) y = Mul (p, s) }",
        "the constant 's', which has a number for each class",
    ),
    "positions": (
        "net (float[N,6,3,2] x) => (float[N,4,3,2] y) { h = Relu (x) y = Conv (h, k, b) }",
        "scores every position",
    ),
    "a peak over positions": (
        IMAGE + "c = Conv (h, k, b) p = GlobalMaxPool (c) y = Flatten (p) }",
        "scores every position",
    ),
    "positions and classes in one axis": (
        "net (float[N,6,3,2] x) => (float[N,24] y) { h = Relu (x) c = Conv (h, k, b) y = Flatten (c) }",
        "scores every position",
    ),
    "a shape without the axis": (
        "net (float[N,6] x) => (float[M] y) { h = Relu (x) c = Gemm <transB=1> (h, w, b) y = Reshape (c, minus1) }",
        "no axis any more",
    ),
    "another operator's weights": ("net (float[N,6] x) => (float[N,6] y) { y = Relu (x) }", "no linear head"),
    "two tensors": ("net (float[4,6] x) => (float[4,4] y) { t = Transpose (x) y = MatMul (x, t) }", "in one tensor"),
    "one class": ("net (float[N,6] x) => (float[N,1] y) { y = MatMul (x, column) }", "makes one number"),
    "a convolution of more": (
        "net (float[N,6,3,2] x) => (float[N,4,1,1] y) { y = Conv (x, large, b) }",
        "1x1, without strides, pads and groups; this is 3x2",
    ),
    "other scores": (
        VECTOR.replace("N,4", "N,10") + "m = Gemm <transB=1> (h, w, b) y = Concat <axis=1> (m, x) }",
        "Concat .* joins the scores",
    ),
    "an operator that is not known": (
        VECTOR + "m = Gemm <transB=1> (h, w, b) y = CumSum (m, zero) }",
        "CumSum .* is not known",
    ),
    "labels that do not count": (
        labelled("int64[N]") + "i = ArgMax <axis=1, keepdims=0> (m) z = Gather (odd, i) }",
        "whole numbers as labels that do not count from 0",
    ),
    "a label of the same name": (
        labelled("string[N]") + "i = ArgMax <axis=1, keepdims=0> (m) z = Gather (known, i) }",
        "has a label 'zebra' already",
    ),
}  # fmt: skip
CONSTANTS = {
    "square": np.ones((4, 4), np.float32),
    "column": np.ones((6, 1), np.float32),
    "large": np.ones((4, 6, 3, 2), np.float32),
    "odd": np.asarray([1, 3, 5, 7]),
    "known": np.asarray(["ant", "bee", "cat", "zebra"], object),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_take_more_classes_is_refused_by_name(name: str) -> None:
    text, words = REFUSED[name]
    model = model_of(text, CONSTANTS)

    def change() -> None:
        head = find_head(model, "m" if "later" in name else None)
        widened(model, head, NAMES, *new_weights(head))  # labels clash with names

    with pytest.raises(ModelError, match=words) as caught:
        change()
    assert caught.value.reason == Reason.HEAD_INVALID


def test_a_named_node_that_is_no_head_is_refused_with_the_one_before_it() -> None:
    text = VECTOR + "y0 = Gemm <transB=1> (h, w, b) y = Softmax (y0) }"
    model = model_of(text)
    model.graph.node[1].name = "scores"
    with pytest.raises(ModelError, match=r"'y' is a Softmax: .* the head before it may be 'scores'"):
        find_head(model, "y")
    assert find_head(model, "scores").logits == find_head(model, "y0").logits == "y0"
    with pytest.raises(NotFound, match="no tensor or node 'dense'"):
        find_head(model, "dense")


def test_of_two_heads_one_is_named() -> None:
    model = model_of(
        "net (float[N,6] x) => (float[N,4] y, float[N,4] z) { y = Gemm <transB=1> (x, w, b) z = MatMul (x, wt) }"
    )
    with pytest.raises(ModelError, match="several heads: 'z', 'y'"):
        find_head(model)
    changed = widened(model, find_head(model, "z"), NAMES, np.ones((2, D)), np.ones(2))
    assert [one.shape[1] for one in run(changed, rows_of(model, 2))] == [C, C + 2]


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    model = model_of(HEADS["Gemm"])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    read = load(tmp_path / "m.onnx")
    x = rows_of(read, 3)
    np.testing.assert_array_equal(run(wide(read), x)[0][:, :C], run(read, x)[0])


def test_names_that_a_file_holds_are_read_where_they_fit() -> None:
    model = model_of(HEADS["Gemm"])
    kept = '{"y": ["a", "b", "c", "d"], "h": ["e"], "none": ["f"], "x": 3}'
    for text, wanted in (
        (kept, {"h": ("e",)}),
        ('{"y": [1, 2, 3, 4, 5, 6]}', {"y": tuple("123456")}),
        *((broken, {}) for broken in ("", "[", "[1]", "3", "[" * 100_000)),
    ):
        changed = widened(model, find_head(model), NAMES, np.ones((2, D)), np.ones(2), {CLASSES: text})
        assert classes_told(changed) == wanted
