"""A model begins behind the inputs that are maps, at the rows that are made of them: the numbers stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_attribution.errors import ModelError
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest

ML = "ai.onnx.ml"
KINDS = {"floats": TensorProto.FLOAT, "integers": TensorProto.INT64}
KEYS: dict[str, list[Any]] = {"words": ["tall", "wide", "old"], "numbers": [7, 3, 11]}


def net(maker: onnx.NodeProto, keys: int, values: int) -> onnx.ModelProto:
    """`y = 3 row * row` of the row that a node makes of the map `m`."""
    given = helper.make_value_info(
        "m", helper.make_map_type_proto(keys, helper.make_tensor_type_proto(values, []))
    )
    nodes = [
        maker,
        helper.make_node("Cast", ["row"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "three"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "real"], ["y"]),
    ]
    three = helper.make_tensor("three", TensorProto.FLOAT, [], [3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    graph = helper.make_graph(nodes, "net", [given], [y], [three])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets)


def vectorizer(keys: str, values: str) -> onnx.ModelProto:
    attribute = {"words": "string_vocabulary", "numbers": "int64_vocabulary"}[keys]
    maker = helper.make_node("DictVectorizer", ["m"], ["row"], domain=ML)
    maker.attribute.append(helper.make_attribute(attribute, KEYS[keys]))
    return net(maker, TensorProto.STRING if keys == "words" else TensorProto.INT64, KINDS[values])


@pytest.mark.parametrize("keys", KEYS)
def test_a_row_gives_what_the_map_gives(keys: str) -> None:
    model, row = vectorizer(keys, "floats"), np.array([[4, 0, 5]], np.float32)
    given = {KEYS[keys][k]: row[0, k].item() for k in (0, 2)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [expected] = session.run(None, {"m": given})
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model)
        [y] = engine.predict("net", {"row": row}).values()
        [info] = engine.info("net").inputs
    np.testing.assert_allclose(np.asarray(y, float), expected)
    assert (info.name, info.shape and info.shape[1:]) == ("row", (3,))


def test_a_map_of_integers_is_a_row_of_integers() -> None:
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", vectorizer("words", "integers"))
        [y] = engine.predict("net", {"row": np.array([[4, 0, 5]])}).values()
        [info] = engine.info("net").inputs
    assert (info.dtype, y.tolist()) == ("int64", [[48, 0, 75]])


def test_the_values_of_a_map_can_be_explained_for_several_samples_at_once() -> None:
    rows = np.array([[1, 2, 3], [4, 0, 5]], np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", vectorizer("words", "floats"))
        answer = engine.attribute(AttributionRequest("net", {"row": rows}, "gradient", target=2))
    np.testing.assert_allclose(np.asarray(answer.layers["row"].values, float), [[0, 0, 18], [0, 0, 30]])


def test_a_sparse_map_of_numbers_is_a_row_as_well() -> None:
    maker = helper.make_node(
        "CastMap", ["m"], ["row"], domain=ML, cast_to="TO_FLOAT", map_form="SPARSE", max_map=4
    )
    model = net(maker, TensorProto.INT64, TensorProto.FLOAT)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [expected] = session.run(None, {"m": {1: 2.0, 3: 5.0}})
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model)
        [y] = engine.predict("net", {"row": np.array([[0, 2, 0, 5]], np.float32)}).values()
    np.testing.assert_allclose(np.asarray(y, float), expected)


def test_a_map_that_something_else_reads_is_refused_with_the_tensor_to_begin_at() -> None:
    model = vectorizer("words", "floats")
    model.graph.node.append(helper.make_node("Identity", ["m"], ["same"]))
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", model)
        with pytest.raises(ModelError, match=r"'m' is a map, .*DictVectorizer .*'row' as its input"):
            engine.info("net")


def test_a_trained_forest_answers_at_the_row_as_it_does_for_the_map(shared: Path) -> None:
    file = shared / "models" / "tree-vectorize-pipeline" / "model.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    keys = next(iter(onnx.load(file).graph.node)).attribute[0].ints
    rows = np.random.default_rng(0).normal(size=(5, len(keys))).astype(np.float32)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("forest", file)
        [found] = engine.predict("forest", {"variable": rows}).values()
        answer = engine.attribute(AttributionRequest("forest", {"variable": rows}, "occlusion"))
    for k, row in enumerate(rows):
        given = {key: value.item() for key, value in zip(keys, row, strict=True)}
        [expected] = session.run(None, {session.get_inputs()[0].name: given})
        np.testing.assert_allclose(found[k], expected[0], rtol=1e-6)
    assert answer.layers["variable"].values.shape == rows.shape
