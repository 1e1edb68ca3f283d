"""Interventions by the engine, beside models whose weights are edited by hand and run by onnxruntime, and numpy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_attribution.errors import InvalidArgument, NotFound
from onnx_attribution.interventions import MEAN, Edit, Patch, Ranked
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Target
from tests.definitions.network import drawn
from tests.methods.toys import model

Floats = NDArray[Any]
NET, X, OTHERS = drawn(3)
F32 = X.astype(np.float32)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", NET.model())
        yield made


def hidden(edit: Callable[[Floats], Floats]) -> Floats:
    """The target of the network with its hidden layer edited."""
    return NET.from_hidden(edit(NET.hidden(X)))


def put(where: Any, what: Any) -> Callable[[Floats], Floats]:
    def edit(h: Floats) -> Floats:
        h = h.copy()
        h[(slice(None), *where)] = what
        return h

    return edit


HIDDEN = NET.hidden(X)
CASES: list[tuple[str, Edit | list[Edit], Callable[[Floats], Floats]]] = [
    ("remove one", Edit("h", 1), put((1,), 0)),
    ("remove all", Edit("h"), lambda h: 0 * h),
    ("set", Edit("h", [0, 2], to=1.5), put(([0, 2],), 1.5)),
    ("set each sample", Edit("h", 3, to=np.arange(12.0).reshape(3, 4)), put((3,), np.array([3, 7, 11]))),
    ("set a row", Edit("h", slice(1, 3), to=np.arange(4.0)), put((slice(1, 3),), [1, 2])),
    ("scale", Edit("h", slice(2, None), scale=-0.5), lambda h: h * [1, 1, -0.5, -0.5]),
    ("mean", Edit("h", 2, to=MEAN), put((2,), HIDDEN[:, 2].mean())),
    ("patch", Edit("h", 0, to=Patch(1)), put((0,), HIDDEN[1, 0])),
    ("patch each", Edit("h", 0, to=Patch([2, 0, 1])), put((0,), HIDDEN[[2, 0, 1], 0])),
    ("mask", Edit("h", np.array([True, False, False, True])), put(([0, 3],), 0)),
    ("mask of samples", Edit("h", np.eye(3, 4, dtype=bool)), lambda h: np.where(np.eye(3, 4), 0, h)),
    ("ranked", Edit("h", Ranked(np.array([3, 1, 2, 0]), 1, 3)), put(([1, 2],), 0)),
    ("ranked up", Edit("h", Ranked(np.array([3, 1, 2, 0]), 3)), put((0,), 0)),
    (
        "in order", [Edit("h", 1, to=2.0), Edit("h", scale=3.0), Edit("h", 0)],
        lambda h: put((0,), 0)(put((1,), 2)(h) * 3),
    ),
    ("nothing", [], lambda h: h),
]  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "definition"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_an_edit_of_a_hidden_layer_is_that_of_numpy(
    engine: Engine, edit: Edit | list[Edit], definition: Callable[[Floats], Floats]
) -> None:
    found = engine.intervene("net", {"x": F32}, [edit])
    np.testing.assert_allclose(found.target.value, NET.value(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.values[0], hidden(definition), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.effects[0], hidden(definition) - NET.value(X), rtol=1e-4, atol=1e-6)


def test_all_together_are_as_each_alone_and_layers_and_inputs_mix(engine: Engine) -> None:
    mixed = [Edit("x", 0, to=Patch([1, 2, 0])), Edit("h", 1, scale=2.0)]
    edits = [*(case[1] for case in CASES), mixed, Edit("x", [1, 4])]
    found = engine.intervene("net", {"x": F32}, edits)
    for number, edit in enumerate(edits):
        np.testing.assert_allclose(
            engine.intervene("net", {"x": F32}, [edit]).values[0], found.values[number], rtol=1e-6, atol=1e-7
        )
    x = X.copy()
    x[:, 0] = X[[1, 2, 0], 0]
    h = NET.hidden(x) * [1, 2, 1, 1]
    np.testing.assert_allclose(found.values[-2], NET.from_hidden(h), rtol=1e-5, atol=1e-6)
    x = X.copy()
    x[:, [1, 4]] = 0
    np.testing.assert_allclose(found.values[-1], NET.value(x), rtol=1e-5, atol=1e-6)


def test_donors_give_patches_and_means(engine: Engine) -> None:
    donors = {"x": OTHERS.astype(np.float32)}
    edits = [Edit("h", to=Patch(2)), Edit("h", 1, to=MEAN), Edit("h", to=Patch())]
    found = engine.intervene("net", {"x": F32}, edits, donors=donors)
    theirs = NET.hidden(OTHERS)
    np.testing.assert_allclose(found.values[0], NET.from_hidden(theirs)[[2, 2, 2]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.values[1], hidden(put((1,), theirs[:, 1].mean())), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.values[2], NET.value(OTHERS), rtol=1e-5, atol=1e-6)


def test_further_outputs_are_answered_with_and_without(engine: Engine) -> None:
    found = engine.intervene("net", {"x": F32}, [Edit("h", 1), []], outputs=["h", "z2", "x"])
    np.testing.assert_allclose(found.outputs_before["h"], HIDDEN, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.outputs["h"], [put((1,), 0)(HIDDEN), HIDDEN], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.outputs["z2"][0], NET.z2(put((1,), 0)(HIDDEN)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.outputs["x"], [F32, F32])


@pytest.mark.parametrize("memory", [1, 1000, 1 << 30])
def test_the_size_of_runs_moves_no_number(memory: int) -> None:
    with Engine(provider="cpu", threads=1, memory_budget=memory) as engine:
        engine.add("net", NET.model())
        found = engine.intervene("net", {"x": F32}, [case[1] for case in CASES])
        for number, (_, _, definition) in enumerate(CASES):
            np.testing.assert_allclose(found.values[number], hidden(definition), rtol=1e-5, atol=1e-6)


def test_samples_one_by_one_are_as_together(engine: Engine) -> None:
    fixed = NET.model()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    engine.add("single", fixed, batch_axes={"x": None})
    edits = [case[1] for case in CASES if case[0] != "nothing"]
    edits += [Edit("h", np.eye(3, 4, dtype=bool)[:, None]), Edit("x", 0, to=3.0)]
    assert engine.info("single").batch == "single"
    one = engine.intervene("single", {"x": F32}, edits, outputs=["h"])
    many = engine.intervene(
        "net", {"x": F32}, [*edits[:-2], Edit("h", np.eye(3, 4, dtype=bool)), edits[-1]], outputs=["h"]
    )
    np.testing.assert_allclose(one.values, many.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.outputs["h"], many.outputs["h"], rtol=1e-5, atol=1e-6)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (Edit("nowhere"), NotFound, "nowhere"),
    (Edit("w2"), InvalidArgument, "w2"),
    (Edit("h", 4), InvalidArgument, r"interventions\[0\], layer 'h': the layer index 4 is out of range along axis 0"),
    (Edit("h", (0, 0)), InvalidArgument, "more parts than axes"),
    (Edit("h", cast(Any, "a")), InvalidArgument, "'a' is no integer"),
    (Edit("h", np.ones(3, bool)), InvalidArgument, r"the layer mask has shape \[3\]"),
    (Edit("h", np.ones((2, 4), bool)), InvalidArgument, "2 in number; there are 3 samples"),
    (Edit("h", np.ones(4)), InvalidArgument, "the mask has type float64"),
    (Edit("h", to=np.ones(3)), InvalidArgument, r"the values of one sample has shape \[3\]"),
    (Edit("h", to=np.ones((2, 4))), InvalidArgument, "2 in number; there are 3 samples"),
    (Edit("h", to=1e300), InvalidArgument, "outside float32"),
    (Edit("h", to=np.array("a")), InvalidArgument, "float32"),
    (Edit("h", to=Patch(3)), InvalidArgument, "no donor 3; legal are 0 to 2"),
    (Edit("h", to=Patch([0, 1])), InvalidArgument, "rows of Patch are 2 in number"),
    (Edit("h", Ranked(np.ones(4))), InvalidArgument, "the numbers have type float64"),
    (Edit("h", Ranked(np.arange(3))), InvalidArgument, r"the numbers of one sample has shape \[3\]"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "kind", "words"), REFUSED, ids=[str(k) for k in range(len(REFUSED))])
def test_what_cannot_be_is_named(engine: Engine, edit: Edit, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        engine.intervene("net", {"x": F32}, [edit])


def test_what_is_no_intervention_is_refused() -> None:
    for given, words in (
        ([], "no intervention"),
        ("h", "list of edits"),
        ([3], r"interventions\[0\]"),
        ([["h"]], "no edit"),
    ):
        with Engine(provider="cpu") as engine, pytest.raises(InvalidArgument, match=words):
            engine.intervene("net", {"x": F32}, cast(Any, given))
    for wrong in ({"to": "zero"}, {"scale": "2"}, {"scale": np.nan}, {"to": 1.0, "scale": 2.0}):
        with pytest.raises(InvalidArgument, match="'h'"):
            Edit("h", **wrong)


def test_a_layer_behind_the_target_is_refused_unless_it_leads_to_an_output(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="'h2' does not lead to 'z2'"):
        engine.intervene("net", {"x": F32}, [Edit("h2")], target=Target("z2", 0))
    found = engine.intervene("net", {"x": F32}, [Edit("h2")], target=Target("z2", 0), outputs=["y"])
    np.testing.assert_array_equal(found.effects, 0)
    np.testing.assert_array_equal(found.outputs["y"], 0)


def test_a_target_without_an_index_is_the_largest_before_the_edit(engine: Engine) -> None:
    found = engine.intervene("net", {"x": F32}, [Edit("h", 0), Edit("h")], target=Target("z2"))
    z2 = NET.z2(HIDDEN)
    best = z2.argmax(axis=1)
    np.testing.assert_array_equal(found.largest_before, best)
    after = NET.z2(put((0,), 0)(HIDDEN))
    np.testing.assert_allclose(found.values[0], after[range(3), best], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.largest, [after.argmax(axis=1), [NET.b2.argmax()] * 3])


def test_nan_stays_in_its_sample_and_has_no_largest(engine: Engine) -> None:
    engine.add("root", model("(float[N,2] x) => (float[N,2] y) { h = Neg(x) y = Sqrt(h) }"))
    x = np.array([[-1, -4], [-9, -1]], np.float32)
    found = engine.intervene(
        "root", {"x": x}, [Edit("h", np.array([[1, 0], [0, 0]], bool), to=-1.0)], target=0
    )
    np.testing.assert_array_equal(found.values, [[np.nan, 3]])
    np.testing.assert_array_equal(found.largest, [[-1, 0]])
    np.testing.assert_array_equal(found.largest_before, [1, 0])


# --- trained models, edited by hand


def run(proto: onnx.ModelProto, x: Floats) -> Floats:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: one[None]})[0] for one in x])


def without_channels(
    proto: onnx.ModelProto, weight: str, channels: list[int], axis: int = 1
) -> onnx.ModelProto:
    """The model in which the layer that reads them has no weights for these channels."""
    found = copy.deepcopy(proto)
    for one in found.graph.initializer:
        if one.name == weight:
            array = numpy_helper.to_array(one).copy()
            array[(slice(None),) * axis + (channels,)] = 0
            one.CopyFrom(numpy_helper.from_array(array, weight))
            return found
    raise KeyError(weight)


def digits(models: Path) -> Floats:
    images = np.load(models / "_samples" / "mnist_t10k_first2000.npz")["x"][:5, None]
    return np.asarray((images / 255 - 0.1307) / 0.3081, np.float32)


def photographs(models: Path) -> Floats:
    return np.asarray(np.load(models / "cifar10-wide-kw" / "examples.npz")["x"])


@pytest.mark.parametrize(
    ("name", "read", "cases"),
    [
        (
            "mnist-cnn-pytorch", digits,
            [("11", "conv2.weight", [3]), ("11", "conv2.weight", [0, 9]), ("18", "fc2.weight", [7, 8, 30])],
        ),
        ("cifar10-wide-kw", photographs, [("10", "3", [1]), ("10", "3", [4, 15]), ("22", "7", [*range(0, 100, 9)])]),
    ],
)  # fmt: skip
def test_removed_channels_of_trained_networks_are_those_without_weights(
    engine: Engine,
    shared: Path,
    name: str,
    read: Callable[[Path], Floats],
    cases: list[tuple[str, str, list[int]]],
) -> None:
    file, x = shared / "models" / name / "model.onnx", read(shared / "models")
    proto = onnx.load(file)
    engine.add(name, file)
    edits = [Edit(layer, channels) for layer, _, channels in cases]
    source, output = proto.graph.input[0].name, proto.graph.output[0].name
    found = engine.intervene(name, {source: x}, edits, outputs=[output])
    for number, (_, weight, channels) in enumerate(cases):
        expected = run(without_channels(proto, weight, channels), x)
        np.testing.assert_allclose(found.outputs[output][number], expected, rtol=1e-5, atol=2e-5)
        assert np.abs(expected - found.outputs_before[output]).max() > 0.1


# --- inputs of other kinds


def test_inputs_of_integers_and_text_are_edited(engine: Engine) -> None:
    engine.add("tokens", model("(int64[N,3] ids) => (float[N,2] y) { e = Gather(table, ids) y = ReduceSum(e, one) }",
        table=np.arange(10, dtype=np.float32).reshape(5, 2), one=[1]))  # fmt: skip
    ids = np.array([[0, 1, 2], [4, 4, 4]])
    edits = [
        Edit("ids", 1),
        Edit("ids", to=3),
        Edit("ids", slice(1, None), to=Patch([1, 0])),
        Edit("ids", to=7),
    ]
    found = engine.intervene("tokens", {"ids": ids}, edits[:3], target=Target("y", 1))
    expected = [ids.copy() for _ in range(3)]
    expected[0][:, 1], expected[1][:], expected[2][:, 1:] = 0, 3, ids[::-1, 1:]
    np.testing.assert_array_equal(found.target.value, (2 * ids + 1).sum(axis=1))
    np.testing.assert_array_equal(found.values, [(2 * one + 1).sum(axis=1) for one in expected])
    with pytest.raises(InvalidArgument, match=r"interventions\[1\].*cannot be run"):
        engine.intervene("tokens", {"ids": ids}, [edits[0], edits[3]], target=Target("y", 1))
    for edit, words in (
        (Edit("ids", to=0.5), "int64"),
        (Edit("ids", scale=2), "int64"),
        (Edit("ids", to=MEAN), "int64"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            engine.intervene("tokens", {"ids": ids}, [edit], target=Target("y", 1))
    text = """<ir_version: 9, opset_import: ["": 17, "ai.onnx.ml": 3]> g (string[N,1] word) => (float[N,1] y) {
        y = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_floats = [1.0, 5.0], default_float = -1.0>(word)
    }"""
    engine.add("words", onnx.parser.parse_model(text))
    given = {"word": np.array([["a"], ["b"]])}
    changed: list[Edit | list[Edit]] = [
        Edit("word"),
        Edit("word", to=np.array("b")),
        Edit("word", to=Patch([1, 0])),
        [],
    ]
    found = engine.intervene("words", given, changed)
    np.testing.assert_array_equal(found.values, [[-1, -1], [5, 5], [5, 1], [1, 5]])
    with pytest.raises(InvalidArgument, match=r"'word'.* text"):
        engine.intervene("words", given, [Edit("word", to=3.0)])


def test_samples_that_share_something_are_run_one_by_one(engine: Engine) -> None:
    engine.add(
        "mixed",
        model("(float[N,3] x) => (float[N,3] y) { h = Exp(x) m = ReduceMax<keepdims = 1>(h) y = Div(h, m) }"),
    )
    x = np.array([[0, 1, 2], [3, 4, 5]], np.float32)
    found = engine.intervene(
        "mixed", {"x": x}, [Edit("h", 2), Edit("h", to=Patch([1, 0])), Edit("x", 0)], target=1
    )
    h = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(found.target.value, h[:, 1] / h[:, 2], rtol=1e-5)
    np.testing.assert_allclose(found.values[0], [1, 1], rtol=1e-5)
    np.testing.assert_allclose(found.values[1], (h[:, 1] / h[:, 2])[::-1], rtol=1e-5)
    assert any("one by one" in words for words in found.warnings)
