"""Version 2 of KServe's protocol by hand-made bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from onnx_attribution import __version__
from onnx_attribution.errors import ModelError
from onnx_attribution.server.engine.engine import Engine
from onnx_attribution.server.service.rest.rest import Answer, Asked, Rest
from onnx_attribution.server.service.threads import Work
from tests.server.fake_engine import FakeEngine, W, X
from tests.server.service.rest.asking import ask, rest_of, said

LENGTH = "inference-header-content-length"
INFER = "/v2/models/linear/infer"
JSON_X = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": X.tolist()}


@pytest.fixture(scope="module")
def rest() -> Rest:
    return rest_of(FakeEngine({"failed": ModelError("no")}), max_samples=4)


def test_health_and_metadata(rest: Rest) -> None:
    assert said(ask(rest, "GET", "/v2/health/live")) == {"live": True}
    assert said(ask(rest, "GET", "/v2/health/ready")) == {"ready": True}
    for path in ("/v2", "/v2/"):
        found = said(ask(rest, "GET", path))
        assert found == {
            "name": "onnx-attribution",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
        }
    for path in ("/v2/models/linear", "/v2/models/linear/versions/1"):
        assert said(ask(rest, "GET", path)) == {
            "name": "linear",
            "versions": ["1"],
            "platform": "onnx_onnxv1",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        }
    assert "linear" in said(ask(rest, "GET", "/v2/models"))["models"]


def test_draining_server_is_not_ready() -> None:
    work = Work(workers=1, max_unary=1, max_streams=1, heartbeat=1)
    rest = rest_of(FakeEngine(), work)
    work.draining.set()
    assert ask(rest, "GET", "/v2/health/ready").status == 503
    assert ask(rest, "GET", "/v2/health/live").status == 200
    refused = ask(rest, "POST", INFER, {"inputs": [JSON_X]})
    assert (refused.status, said(refused)["reason"], refused.headers["retry-after"]) == (503, "DRAINING", "1")


@pytest.mark.parametrize(
    ("path", "status"),
    [("linear", 200), ("linear/versions/1", 200), ("linear/versions/2", 503), ("failed", 503), ("no", 404)],
)
def test_readiness_of_a_model(rest: Rest, path: str, status: int) -> None:
    if path != "linear/versions/2":  # the fake engine has no versions
        assert ask(rest, "GET", f"/v2/models/{path}/ready").status == status


@pytest.mark.parametrize("flat", [False, True])
def test_json_is_answered_with_json(rest: Rest, flat: bool) -> None:
    data = X.ravel().tolist() if flat else X.tolist()
    body = {"id": "7", "inputs": [{**JSON_X, "data": data}], "outputs": [{"name": "y"}]}
    answer = ask(rest, "POST", INFER, body)
    found = said(answer)
    assert (answer.status, found["model_name"], found["model_version"], found["id"]) == (
        200,
        "linear",
        "1",
        "7",
    )
    (y,) = found["outputs"]
    assert (y["name"], y["datatype"], y["shape"], y["data"]) == (
        "y",
        "FP32",
        [2, 2],
        (X @ W).ravel().tolist(),
    )
    assert answer.headers == {"content-type": "application/json"}


def binary(head: dict[str, Any], *parts: bytes) -> dict[str, Any]:
    data = json.dumps(head).encode()
    return {"body": data + b"".join(parts), "headers": {LENGTH: str(len(data))}}


BINARY_X = {"name": "x", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}


@pytest.mark.parametrize(
    "asked",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {
            "parameters": {"binary_data_output": False},
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        },
    ],
)
def test_binary_data_is_answered_with_binary_data(rest: Rest, asked: dict[str, Any]) -> None:
    answer = ask(rest, "POST", INFER, **binary({"inputs": [BINARY_X], **asked}, X.tobytes()))
    head = int(answer.headers[LENGTH])
    (y,) = json.loads(answer.body[:head])["outputs"]
    assert (y["shape"], y["parameters"]) == ([2, 2], {"binary_data_size": 16})
    assert answer.body[head:] == (X @ W).tobytes()
    assert answer.headers["content-type"] == "application/octet-stream"


def test_binary_input_may_be_answered_with_json(rest: Rest) -> None:
    asked = {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
    }
    answer = ask(rest, "POST", INFER, **binary({"inputs": [BINARY_X], **asked}, X.tobytes()))
    assert said(answer)["outputs"][0]["data"] == (X @ W).ravel().tolist()


@pytest.fixture(scope="module")
def real() -> Iterator[Rest]:
    """`text` returns its input; `two` has two inputs, of which one is an integer, and two outputs."""
    with Engine(provider="cpu", threads=1) as engine:
        head = '<ir_version: 8, opset_import: ["": 17]>'
        engine.add(
            "text", parse_model(f"{head} g (string[N, 2] x) => (string[N, 2] y) {{ y = Identity(x) }}")
        )
        two = """g (float[N, 2] a, int64[N, 2] b) => (int64[N, 2] c, float[N, 2] d)
                 { c = Add(b, b) e = Cast<to = 1>(b) d = Log(a) }"""
        engine.add("two", parse_model(f"{head} {two}"))
        yield rest_of(engine)


def test_inputs_of_both_forms_and_outputs_of_both_forms(real: Rest) -> None:
    a, b = np.array([[1, 0], [-1, 4]], np.float32), np.array([[1, 2], [3, 2**62]], np.int64)
    head = {
        "inputs": [
            {"name": "b", "datatype": "INT64", "shape": [2, 2], "data": [[1, 2], [3, 2**61]]},
            {"name": "a", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
        ],
        "outputs": [{"name": "d"}, {"name": "c", "parameters": {"binary_data": True}}],
    }
    answer = ask(real, "POST", "/v2/models/two/infer", **binary(head, a.tobytes()))
    length = int(answer.headers[LENGTH])
    d, c = json.loads(answer.body[:length])["outputs"]
    assert (d["name"], d["data"][:3], c["name"]) == ("d", [0, "-Infinity", "NaN"], "c")
    assert np.frombuffer(answer.body[length:], np.int64).tolist() == [2, 4, 6, 2**62]
    assert b.shape == (2, 2)


def test_text_in_both_forms(real: Rest) -> None:
    words = ["", "a", "häß", "dd"]
    raw = b"".join(len(one.encode()).to_bytes(4, "little") + one.encode() for one in words)
    given = {"name": "x", "datatype": "BYTES", "shape": [2, 2]}
    answer = ask(real, "POST", "/v2/models/text/infer", {"inputs": [{**given, "data": words}]})
    assert said(answer)["outputs"][0]["data"] == words
    head = {
        "inputs": [{**given, "parameters": {"binary_data_size": len(raw)}}],
        "parameters": {"binary_data_output": True},
    }
    answer = ask(real, "POST", "/v2/models/text/infer", **binary(head, raw))
    assert answer.body[int(answer.headers[LENGTH]) :] == raw


def infer(**given: Any) -> dict[str, Any]:
    return {"body": {"inputs": [{**JSON_X, **given}]}}


WRONG: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no json": ({"body": b"{"}, 400, "PARAMETER_INVALID", "no JSON"),
    "deep": ({"body": b"[" * 100_000}, 400, "PARAMETER_INVALID", "no JSON"),
    "no object": ({"body": []}, 400, "PARAMETER_INVALID", "an object"),
    "no inputs": ({"body": {}}, 400, "PARAMETER_INVALID", "inputs is a list"),
    "no name": ({"body": {"inputs": [{}]}}, 400, "PARAMETER_INVALID", "name is a text"),
    "no data": ({"body": {"inputs": [{**BINARY_X, "parameters": {}}]}}, 400, "INPUT_MISSING", "give data"),
    "both": (infer(parameters={"binary_data_size": 0}), 400, "INPUT_MISSING", "give data, or binary"),
    "shape": (infer(shape=[2, 4]), 400, "SHAPE_MISMATCH", "expected values for"),
    "shape word": (infer(shape=["N", 3]), 400, "SHAPE_MISMATCH", "list of integers"),
    "type": (infer(datatype="FLOAT"), 400, "DTYPE_MISMATCH", "no form in JSON"),
    "short": (binary({"inputs": [BINARY_X]}, b"1234"), 400, "BYTES_MISMATCH", "4 bytes are left"),
    "long": (binary({"inputs": [BINARY_X]}, bytes(25)), 400, "BYTES_MISMATCH", "the inputs have 24"),
    "negative": (
        binary({"inputs": [{**BINARY_X, "parameters": {"binary_data_size": -1}}]}), 400, "BYTES_MISMATCH", "is -1"
    ),
    "length": ({"body": b"{}", "headers": {LENGTH: "3"}}, 400, "BYTES_MISMATCH", "of the body's 2 bytes"),
    "no head": ({"body": X.tobytes(), "headers": {LENGTH: "0"}}, 400, "BYTES_MISMATCH", "always some"),
    "shared memory": (infer(parameters={"shared_memory_region": "r"}), 400, "PARAMETER_INVALID", "no shared memory"),
    "classes": (
        {"body": {"inputs": [JSON_X], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}},
        400, "PARAMETER_INVALID", "not ranked",
    ),
    "many samples": (infer(shape=[5, 3], data=[0] * 15), 400, "REQUEST_TOO_LARGE", "at most 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_json(rest: Rest, case: str) -> None:
    given, status, reason, text = WRONG[case]
    answer = ask(rest, "POST", INFER, **given)
    found = said(answer)
    assert (answer.status, found["reason"]) == (status, reason)
    assert text in found["error"]


def test_other_paths_and_methods_are_refused(rest: Rest) -> None:
    assert ask(rest, "GET", "/v2/models/linear/config").status == 404
    assert ask(rest, "GET", INFER).status == 405
    assert ask(rest, "GET", INFER).headers["allow"] == "POST"
    unknown = ask(rest, "POST", "/v2/models/no/infer", {"inputs": [JSON_X]})
    assert (unknown.status, said(unknown)["reason"]) == (404, "MODEL_NOT_FOUND")
    failed = ask(rest, "POST", "/v2/models/failed/infer", {"inputs": [JSON_X]})
    assert (failed.status, said(failed)["reason"]) == (400, "MODEL_LOAD_FAILED")


def test_failure_of_ours_says_no_more_than_an_incident() -> None:
    class Failing(FakeEngine):
        def predict(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("secret")

    answer = ask(rest_of(Failing()), "POST", INFER, {"inputs": [JSON_X]})
    assert answer.status == 500
    assert "incident" in said(answer)["error"]
    assert b"secret" not in answer.body


def test_bodies_beyond_the_room_are_refused_before_they_are_read() -> None:
    rest = rest_of(FakeEngine(), max_unary=1)
    reads = []

    async def main() -> tuple[Answer, Answer]:
        let = asyncio.Event()

        async def read() -> bytes:
            reads.append(1)
            await let.wait()
            return json.dumps({"inputs": [JSON_X]}).encode()

        first = asyncio.create_task(rest.answer(Asked("POST", INFER, {}, read)))
        await asyncio.sleep(0)
        second = await rest.answer(Asked("POST", INFER, {}, read))
        let.set()
        return await first, second

    first, second = asyncio.run(main())
    assert (first.status, second.status, said(second)["reason"], len(reads)) == (200, 429, "QUEUE_FULL", 1)
