"""The proof of the batch: what is called dynamic, freed or single, and what the proof catches."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnx_attribution.errors import InvalidArgument
from onnx_attribution.graph_tools.batch.prepare import prepare
from onnx_attribution.graph_tools.batch.prove import prove
from onnx_attribution.graph_tools.network import Network, RowAxis
from onnx_attribution.graph_tools.normalise.pipeline import normalise
from onnx_attribution.graph_tools.normalise.plain_form import declared
from onnx_attribution.graph_tools.read.example_inputs import example_inputs
from onnx_attribution.server.engine.backend import Backend

BACKEND = Backend("cpu", 1)


def network(text: str, axes: dict[str, int | None] | None = None) -> Network:
    """The proven network of a model in ONNX text."""
    model = declared(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    example = example_inputs(model, BACKEND.run)
    return prepare(normalise(model, BACKEND.run, [example]).model, BACKEND.run, example, axes)


SAMPLES = "net (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
CASES = {
    "a declared batch that is one": (SAMPLES, "dynamic"),
    "a declared batch that is a sequence": (
        "net (float[T,4] x) => (float[T,4] y) { m = ReduceMean<axes=[0]>(x) y = Sub(x, m) }",
        "single",
    ),
    "a fixed batch without baked shapes": ("net (float[1,4] x) => (float[1,4] y) { y = Tanh(x) }", "freed"),
    "a reshape with the batch baked in": (
        """net (float[1,2,4] x) => (float[1,8] y)
        { s = Constant<value = int64[2] {1, 8}>() y = Reshape(x, s) }""",
        "freed",
    ),
    "samples folded into rows and back": (
        """net (float[1,3,4] x) => (float[1,12] y) {
        s = Constant<value = int64[2] {3, 4}>() r = Reshape(x, s) h = Relu(r)
        b = Constant<value = int64[2] {1, 12}>() y = Reshape(h, b) }""",
        "freed",
    ),
    "an expanded constant beside the batch": (
        """net (float[1,2,3] x) => (float[1,3,3] y) {
        t = Constant<value = float[1,1,3] {1, 2, 3}>() y = Concat<axis=1>(t, x) }""",
        "freed",
    ),
    "a fixed size of a resize": (
        """net (float[1,1,2,2] x) => (float[1,1,4,4] y) {
        s = Constant<value = int64[4] {1, 1, 4, 4}>() y = Resize<mode="nearest">(x, , , s) }""",
        "freed",
    ),
    "a squeeze of every axis of size one": (
        "net (float[1,4,1] x) => (float[1,4] y) { a = Constant<value = int64[1] {2}>() y = Squeeze(x, a) }",
        "freed",
    ),
    "constant states of a recurrent layer": (
        """net (float[3,1,2] x) => (float[3,1,1,1] y) {
        w = Constant<value = float[1,3,2] {1, -1, 0.5, 2, -2, 1}>() h = Constant<value = float[1,1,1] {0.7}>()
        r = Constant<value = float[1,3,1] {1, -0.5, 2}>() y = GRU<hidden_size=1>(x, w, r, , , h) }""",
        "freed",
    ),
    "a reshape to computed sizes of fewer axes than the place of the batch": (
        """net (float[1,2,F,4] x) => (float[G,8] y) {
        t = Transpose<perm = [2, 3, 1, 0]>(x) d = Shape(t) z = Constant<value = int64[1] {0}>() n = Gather(d, z)
        e = Constant<value = int64[1] {8}>() s = Concat<axis=0>(n, e) r = Reshape(t, s)
        q = Transpose<perm = [1, 0]>(r) v = Softmax(q) y = Transpose<perm = [1, 0]>(v) }""",
        "single",
    ),
    "the elements of the one row by constant indices": (
        """net (float[1,3] x) => (float[1,2,2] y) {
        f = Flatten<axis=2>(x) i = Constant<value = int64[1,2,2] {2, 0, 1, -1}>() g = Gather<axis=0>(f, i)
        s = Constant<value = int64[3] {1, 2, 2}>() y = Reshape(g, s) }""",
        "freed",
    ),
    "the one row and its elements by constant indices": (
        """net (float[1,3] x) => (float[1,2] y) {
        i = Constant<value = int64[1,2,2] {0, 2, 0, 1}>() y = GatherND(x, i) }""",
        "freed",
    ),
    "a batch that is mixed with other axes": (
        """net (float[1,4] x) => (float[4,1] y)
        { t = Transpose(x) s = Constant<value = int64[2] {2, 2}>() r = Reshape(t, s)
          n = Softmax<axis=0>(r) b = Constant<value = int64[2] {4, 1}>() y = Reshape(n, b) }""",
        "single",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_outcome_is_that_of_the_proof(name: str) -> None:
    text, outcome = CASES[name]
    assert network(text).batch == outcome


def test_a_rewrite_that_runs_but_mixes_the_samples_is_caught() -> None:
    """A baked reshape after a transpose runs with any batch and gives other numbers."""
    found = network(
        """net (float[1,2,3] x) => (float[1,6] y) {
        t = Transpose<perm=[1,0,2]>(x) s = Constant<value = int64[2] {1, 6}>() y = Reshape(t, s) }"""
    )
    assert found.batch == "single"


def test_states_that_are_inputs_come_with_the_samples() -> None:
    """Shared by all rows they would fit as well."""
    found = network(
        """net (float[1,3,1] x, float[2,1,1] h) => (float[3,2,1,1] y) {
        w = Constant<value = float[2,3,1] {1, -1, 0.5, 2, -2, 1}>() t = Transpose<perm=[1,0,2]>(x)
        r = Constant<value = float[2,3,1] {1, -0.5, 2, 1, 1, -1}>()
        y = GRU<direction="bidirectional", hidden_size=1>(t, w, r, , , h) }"""
    )
    assert (found.batch, dict(found.input_axes)) == ("freed", {"x": 0, "h": 1})


def test_no_size_is_declared_behind_a_shape_that_is_computed_at_run_time() -> None:
    """The rows of `r` come in twos, which free cannot know; a runtime reuses memory by the sizes that are declared."""
    found = network(
        """net (float[1,T,4] x) => (float[1,T,4] y) {
        u = Shape<start=1, end=2>(x) zero = Constant<value = int64[1] {0}>() p = Mul(u, zero)
        pads = Concat<axis=0>(p, p, p, p, p, p) c = Pad(x, pads) n = Shape<start=0, end=1>(c)
        two = Constant<value = int64[1] {2}>() m = Mul(n, two) rest = Constant<value = int64[1] {-1}>()
        s = Concat<axis=0>(rest, m, two) t = Transpose<perm=[1,0,2]>(c) r = Reshape(t, s) v = Softmax<axis=0>(r)
        four = Constant<value = int64[1] {4}>() q = Concat<axis=0>(rest, n, four)
        w = Reshape(v, q) y = Transpose<perm=[1,0,2]>(w) }"""
    )
    shapes = {
        value.name: [d.dim_param for d in value.type.tensor_type.shape.dim]
        for value in found.model.graph.value_info
    }
    assert found.batch == "freed"
    assert all("rows" not in shapes[name] for name in ("r", "v"))


def test_the_rows_of_hidden_tensors_are_found_on_other_axes_and_in_groups() -> None:
    found = network(
        """net (float[N,3,4] x) => (float[N,3,4] y) {
        t = Transpose<perm=[1,0,2]>(x) s = Constant<value = int64[2] {-1, 4}>() r = Reshape(x, s)
        u = Transpose<perm=[1,0,2]>(t) c = Constant<value = int64[3] {-1, 3, 4}>() v = Reshape(r, c)
        y = Add(u, v) }"""
    )
    prove(found, BACKEND.run, ["t", "r"])
    assert found.rows["t"] == RowAxis(1, 1)
    assert found.rows["r"] == RowAxis(0, 3)


def test_a_hidden_tensor_without_separable_rows_is_marked() -> None:
    found = network(
        """net (float[N,4] x) => (float[N,4] y) { g = ReduceSum<keepdims=1>(x) c = Constant<value = float {0}>()
        z = Mul(g, c) t = Tanh(x) y = Add(t, z) }"""
    )
    prove(found, BACKEND.run, ["g"])
    assert found.rows["g"] is None


def test_a_batch_axis_can_be_stated() -> None:
    text = "net (float[T,N,4] x) => (float[N,4] y) { y = ReduceMean<axes=[0], keepdims=0>(x) }"
    found = network(text, {"x": 1})
    assert (found.batch, dict(found.input_axes)) == ("dynamic", {"x": 1})


@pytest.mark.parametrize(
    ("axes", "words"), [({"z": 0}, "no input 'z'"), ({"x": 2}, "no axis 2; its rank is 2")]
)
def test_a_stated_axis_that_does_not_exist_is_refused(axes: dict[str, int | None], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        network(SAMPLES, axes)


def test_an_input_that_all_rows_share_has_no_batch_axis() -> None:
    found = network("net (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }")
    assert dict(found.input_axes) == {"x": 0, "w": None}


def test_the_real_files_have_the_batch_that_was_proven(shared: Path) -> None:
    """One of each kind: declared, freed behind baked shapes, and a recurrent net whose first axis is the sequence."""
    expected = {"mnist-relu-2x10": "dynamic", "fastestdet": "freed", "cntk-bilstm": "single"}
    for name, outcome in expected.items():
        model = declared(onnx.load(str(shared / "models" / name / "model.onnx")))
        example = example_inputs(model, BACKEND.run)
        ready = normalise(model, BACKEND.run, [example]).model
        assert prepare(ready, BACKEND.run, example).batch == outcome, name


def test_an_axis_of_which_one_entry_does_not_run_holds_no_samples() -> None:
    """A filter of three frames does not run on one, so that the frames are none, beside an input of one `batch`."""
    net = network(
        """net (float[batch,1,T] x, float[batch,2] e) => (float y) {
        w = Constant<value = float[1,1,3] {1, 2, 3}>() c = Conv(x, w) s = ReduceSum<keepdims=0>(c)
        m = ReduceSum<keepdims=0>(e) y = Mul(s, m) }"""
    )
    assert net.batch == "single"
    assert set(net.input_axes.values()) == {None}
    assert net.example["x"].shape[2] >= 3
