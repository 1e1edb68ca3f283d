"""The program of edits, run by onnx's reference evaluator and by onnxruntime, beside numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_attribution.errors import ModelError
from onnx_attribution.graph_tools.programs.ablate import ablate_program, mask_of, scale_of, value_of
from onnx_attribution.graph_tools.programs.signature import Program
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.models.loaded import LoadedModel
from tests.programs import parsed

Floats = NDArray[np.float32]
RNG = np.random.default_rng(7)
X = RNG.normal(size=(3, 4)).astype(np.float32)
CHAIN = "g (float[N,4] x) => (float[N,4] y) { h = Tanh(x) s = Exp(h) t = Add(h, s) y = Mul(t, x) }"


def loaded(text: str) -> LoadedModel:
    return LoadedModel(parsed(text), Backend("cpu"))


def run(program: Program, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs by the reference evaluator; onnxruntime's must be close."""
    found = dict(zip(program.outputs, ReferenceEvaluator(program.model).run(None, dict(feeds)), strict=True))
    own: dict[str, Any] = Backend("cpu").session(program.model).run(feeds)
    for name in program.outputs:
        np.testing.assert_allclose(own[name], found[name], rtol=1e-5, atol=1e-6)
    return found


def test_each_row_has_its_own_edit_and_all_that_reads_the_layer_sees_it() -> None:
    program = ablate_program(loaded(CHAIN).network, ["h"], ["y", "h"])
    assert set(program.inputs) == {"x", mask_of("h"), value_of("h")}
    mask = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    value = RNG.normal(size=(3, 4)).astype(np.float32)
    found = run(program, {"x": X, mask_of("h"): mask, value_of("h"): value})
    h = np.where(mask, value, np.tanh(X))
    np.testing.assert_allclose(found["h"], h, rtol=1e-5)
    np.testing.assert_allclose(found["y"], (h + np.exp(h)) * X, rtol=1e-5)


def test_a_layer_behind_another_is_edited_after_it() -> None:
    program = ablate_program(loaded(CHAIN).network, ["s", "h"], ["y"], scaled=["s"])
    mask_h, mask_s = RNG.random((2, 3, 4)) < 0.5
    value = RNG.normal(size=(3, 4)).astype(np.float32)
    scale = RNG.normal(size=(3, 4)).astype(np.float32)
    feeds = {"x": X, mask_of("h"): mask_h, value_of("h"): value}
    feeds |= {mask_of("s"): mask_s, value_of("s"): value, scale_of("s"): scale}
    h = np.where(mask_h, value, np.tanh(X))
    s = np.where(mask_s, value, np.exp(h) * scale)
    np.testing.assert_allclose(run(program, feeds)["y"], (h + s) * X, rtol=1e-5)


def test_an_input_and_a_source_are_edited_where_they_are_given() -> None:
    mask, value = np.eye(3, 4, dtype=bool), np.full((3, 4), 2, np.float32)
    edit = {mask_of("x"): mask, value_of("x"): value}
    found = run(ablate_program(loaded(CHAIN).network, ["x"], ["y", "x"]), {"x": X, **edit})
    x = np.where(mask, value, X)
    np.testing.assert_array_equal(found["output/x"], x)
    np.testing.assert_allclose(found["y"], (np.tanh(x) + np.exp(np.tanh(x))) * x, rtol=1e-5)
    program = ablate_program(loaded(CHAIN).network, ["h"], ["y"], sources=["h"])
    given = RNG.normal(size=(3, 4)).astype(np.float32)
    found = run(program, {"x": X, "h": given, mask_of("h"): mask, value_of("h"): value})
    h = np.where(mask, value, given)
    np.testing.assert_allclose(found["y"], (h + np.exp(h)) * X, rtol=1e-5)


def test_inner_graphs_read_the_edited_tensor() -> None:
    text = """g (float[N,4] x, bool flag) => (float[N,4] y) {
        h = Tanh(x)
        y = If(flag) <
            then_branch = yes () => (float[N,4] a) { a = Exp(h) },
            else_branch = no () => (float[N,4] b) { b = Mul(h, x) }
        >
    }"""
    model = LoadedModel(parsed(text), Backend("cpu"), given={"x": X, "flag": np.array(True)})
    for layer, flag in (("h", True), ("h", False), ("x", False)):
        program = ablate_program(model.network, [layer], ["y"])
        mask, value = np.eye(3, 4, dtype=bool), np.full((3, 4), 0.5, np.float32)
        feeds = {"x": X, "flag": np.array(flag), mask_of(layer): mask, value_of(layer): value}
        x = np.where(mask, value, X) if layer == "x" else X
        h = np.where(mask, value, np.tanh(x)) if layer == "h" else np.tanh(x)
        np.testing.assert_allclose(run(program, feeds)["y"], np.exp(h) if flag else h * x, rtol=1e-5)


KINDS = (
    "float16",
    "float",
    "double",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)


@pytest.mark.parametrize("kind", KINDS)
def test_elements_of_every_type_are_chosen_exactly(kind: str) -> None:
    given = "float" if kind == "double" else "double"
    model = loaded(
        f"g ({given}[N,4] x) => ({given}[N,4] y) {{ h = Cast<to = {number(kind)}>(x) y = CastLike(h, x) }}"
    )
    program = ablate_program(model.network, ["h"], ["y"])
    x = np.array([[0, 1, 2, 3], [4, 5, 6, 7]]).astype("float32" if given == "float" else "float64")
    mask = np.array([[1, 0, 1, 0], [0, 1, 0, 1]], bool)
    put = np.full((2, 4), 1).astype(model.tensors["h"].dtype)
    found = Backend("cpu").session(program.model).run({"x": x, mask_of("h"): mask, value_of("h"): put})
    clean = (x != 0).astype(np.float32) if kind == "bool" else x
    np.testing.assert_array_equal(found["y"], np.where(mask, 1, clean))


def number(kind: str) -> int:
    return int(onnx.TensorProto.DataType.Value(kind.upper()))


def test_what_is_not_edited_may_be_infinite_and_what_is_replaced_nan() -> None:
    model = loaded("g (float[N,2] x) => (float[N,2] y) { h = Log(x) y = Relu(h) }")
    program = ablate_program(model.network, ["h"], ["h"], scaled=["h"])
    x = np.array([[0, -1], [np.inf, 1]], np.float32)
    feeds = {
        "x": x,
        mask_of("h"): np.array([[0, 1], [0, 0]], bool),
        value_of("h"): np.ones((2, 2), np.float32),
    }
    with np.errstate(all="ignore"):
        found = run(program, {**feeds, scale_of("h"): np.ones((2, 2), np.float32)})
    np.testing.assert_array_equal(found["h"], [[-np.inf, 1], [np.inf, 0]])


def test_a_model_with_the_programs_names_is_refused_by_name() -> None:
    model = loaded(
        'g (float[N,2] x) => (float[N,2] y) { h = Relu(x) "intervention/h/mask" = Exp(h) '
        'y = Neg("intervention/h/mask") }'
    )
    with pytest.raises(ModelError, match="intervention/h/mask"):
        ablate_program(model.network, ["h"], ["y"])
