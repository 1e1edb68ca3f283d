"""tritonclient, as it is, over gRPC and over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="tritonclient[grpc] is not installed")
pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")

import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.interop.serving import Addresses, differences, serving

KINDS: dict[str, Any] = {"grpc": tritonclient.grpc, "http": tritonclient.http}
X = np.array([[1, -2], [0.5, 3]], np.float32)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    folder: Path = tmp_path_factory.mktemp("models")
    with serving(folder) as found:
        yield found


def url_of(addresses: Addresses, kind: str) -> str:
    return {"grpc": addresses.grpc, "http": addresses.http.removeprefix("http://")}[kind]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(addresses: Addresses, kind: str) -> Iterator[Any]:
    client = KINDS[kind].InferenceServerClient(url_of(addresses, kind))
    yield client
    client.close()


def given(kind: str, array: np.ndarray[Any, Any], name: str = "x", **options: Any) -> list[Any]:
    one = KINDS[kind].InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    one.set_data_from_numpy(array, **options)
    return [one]


def test_messages_are_those_of_the_client() -> None:
    assert differences(service_pb2.DESCRIPTOR) == []


def test_server_and_models_are_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("square")
    assert client.is_model_ready("square", "1")
    assert not client.is_model_ready("square", "3")
    assert not client.is_model_ready("squares")


def test_metadata(client: Any, kind: str) -> None:
    options = {"as_json": True} if kind == "grpc" else {}
    assert client.get_server_metadata(**options)["name"] == "onnx-attribution"
    found = client.get_model_metadata("square", **options)
    assert (found["name"], found["versions"], found["platform"]) == ("square", ["1", "2"], "onnx_onnxv1")
    (x,) = found["inputs"]
    assert (x["name"], x["datatype"], [int(size) for size in x["shape"]]) == ("x", "FP32", [-1, 2])
    assert [one["name"] for one in found["outputs"]] == ["y", "z"]


def test_all_outputs_of_the_latest_version_and_of_one_that_is_named(client: Any, kind: str) -> None:
    latest = client.infer("square", given(kind, X), request_id="7")
    assert np.array_equal(latest.as_numpy("y"), X + X)
    assert np.array_equal(latest.as_numpy("z"), -X)
    first = client.infer("square", given(kind, X), model_version="1")
    assert np.array_equal(first.as_numpy("y"), X * X)
    response = latest.get_response()
    if kind == "grpc":
        assert (response.id, response.model_version) == ("7", "2")
    else:
        assert (response["id"], response["model_version"]) == ("7", "2")


def test_one_output_by_name(client: Any, kind: str) -> None:
    found = client.infer("square", given(kind, X), outputs=[KINDS[kind].InferRequestedOutput("z")])
    assert np.array_equal(found.as_numpy("z"), -X)
    assert found.as_numpy("y") is None


@pytest.mark.parametrize(
    ("model", "array", "expected"),
    [
        ("text", [[b"", b"a"], [b"h\xc3\xa4\xc3\x9f", b"dd"]], [[b"", b"a"], [b"h\xc3\xa4\xc3\x9f", b"dd"]]),
        ("whole", np.array([[2**60, -1]], np.int64), np.array([[2**61, -2]], np.int64)),
        ("half", np.array([[0.5, -1]], np.float16), np.array([[1, -2]], np.float16)),
        ("truth", np.array([[True, False]]), np.array([[False, True]])),
    ],
)
def test_other_types(client: Any, kind: str, model: str, array: Any, expected: Any) -> None:
    array = np.array(array, object) if model == "text" else array
    found = client.infer(model, given(kind, array)).as_numpy("y")
    assert found.tolist() == np.array(expected, found.dtype).tolist()


def test_requests_side_by_side(client: Any, kind: str) -> None:
    if kind == "http":
        waiting = [client.async_infer("square", given(kind, X)) for _ in range(4)]
        found = [one.get_result().as_numpy("y") for one in waiting]
    else:
        done: list[Any] = []

        def keep(result: Any, error: Any) -> None:
            done.append((result, error))

        for _ in range(4):
            client.async_infer("square", given(kind, X), keep)
        end = time.monotonic() + 10
        while len(done) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        assert [error for _, error in done] == [None] * 4
        found = [result.as_numpy("y") for result, _ in done]
    assert [one.tolist() for one in found] == [(X + X).tolist()] * 4


def test_what_is_wrong_is_said(client: Any, kind: str) -> None:
    for model, array, text in (
        ("squares", X, "no model 'squares'"),
        ("square", X.astype(np.int64), "takes float32"),
        ("square", X[:, :1], "input 'x' has shape"),
    ):
        with pytest.raises(InferenceServerException, match=text):
            client.infer(model, given(kind, array))
    outputs = [KINDS[kind].InferRequestedOutput("y", class_count=2)]
    with pytest.raises(InferenceServerException, match="classes are not ranked"):
        client.infer("square", given(kind, X), outputs=outputs)
    with pytest.raises(InferenceServerException, match="no version '9'"):
        client.infer("square", given(kind, X), model_version="9")


def test_asynchronous_clients(addresses: Addresses, kind: str) -> None:
    async def main() -> Any:
        module = KINDS[kind].aio
        async with module.InferenceServerClient(url_of(addresses, kind)) as client:
            assert await client.is_model_ready("square")
            return (await client.infer("square", given(kind, X))).as_numpy("y")

    assert np.array_equal(asyncio.run(main()), X + X)


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_binary_data_and_json_over_http(addresses: Addresses, sent: bool, wanted: bool) -> None:
    with tritonclient.http.InferenceServerClient(url_of(addresses, "http")) as client:
        outputs = [tritonclient.http.InferRequestedOutput("y", binary_data=wanted)]
        found = client.infer("square", given("http", X, binary_data=sent), outputs=outputs)
    assert np.array_equal(found.as_numpy("y"), X + X)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(addresses: Addresses, algorithm: str) -> None:
    for kind in KINDS:
        client = KINDS[kind].InferenceServerClient(url_of(addresses, kind))
        options = (
            {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
            if kind == "http"
            else {"compression_algorithm": algorithm}
        )
        found = client.infer("square", given(kind, X), **options)
        client.close()
        assert np.array_equal(found.as_numpy("y"), X + X)
