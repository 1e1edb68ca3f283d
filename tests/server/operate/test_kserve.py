"""KServe's protocols over a port."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from onnx_attribution.server import app
from onnx_attribution.server.service.access import Role
from onnx_attribution.server.service.tokens import add_token
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine, W, X

BODY = json.dumps({"instances": X.tolist()}).encode()


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def address(engine: FakeEngine) -> Iterator[str]:
    settings = Settings(port=0, kserve=True, max_request_mib=1, unary_seconds=2)
    with app.background(engine, settings) as (_, server):
        yield f"http://127.0.0.1:{server.http_port}"


def post(url: str, body: bytes, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, named), timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_prediction_and_explanation(address: str) -> None:
    status, found = post(f"{address}/v1/models/linear:predict", BODY)
    assert (status, found["predictions"]) == (200, (X @ W).tolist())
    status, found = post(f"{address}/v1/models/linear:explain", BODY)
    assert [one["layers"]["x"]["values"] for one in found["explanations"]] == (X * W[:, 0]).tolist()


def test_metadata_and_health(address: str) -> None:
    for path in (
        "/",
        "/v1/models",
        "/v2",
        "/v2/",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/linear/ready",
    ):
        with urllib.request.urlopen(address + path, timeout=5) as response:
            assert json.load(response)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_read(address: str, encoding: str, compress: Any) -> None:
    url = f"{address}/v1/models/linear:predict"
    assert post(url, compress(BODY), content_encoding=encoding)[0] == 200
    status, found = post(url, BODY, content_encoding=encoding)
    assert (status, "not compressed" in found["error"]) == (400, True)
    status, found = post(url, compress(bytes(2 << 20)), content_encoding=encoding)
    assert (status, found["reason"]) == (413, "MESSAGE_TOO_LARGE")
    status, found = post(url, BODY, content_encoding="br")
    assert (status, "gzip or deflate" in found["error"]) == (400, True)


def test_large_bodies_are_refused_before_and_while_they_come(address: str) -> None:
    url = f"{address}/v1/models/linear:predict"
    assert post(url, bytes((1 << 20) + 1))[0] == 413
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=5)
    connection.request("POST", "/v1/models/linear:predict", iter([bytes(1 << 19)] * 3), encode_chunked=True,
                       headers={"transfer-encoding": "chunked"})  # fmt: skip
    assert connection.getresponse().status == 413
    connection.close()


def test_body_that_does_not_come_is_not_waited_for(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as caller:
        caller.sendall(b"POST /v1/models/linear:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert b"504" in caller.recv(1000).split(b"\r\n")[0]


def test_caller_that_leaves_ends_what_runs(address: str, engine: FakeEngine) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /v1/models/slow:explain HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n"
    engine.computing.clear()
    engine.ended.clear()
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=5) as caller:
        caller.sendall(head.encode() + BODY)
        assert engine.computing.wait(5)
    assert engine.ended.wait(5)
    assert time.monotonic() - began < 1.5  # its time would be over after two seconds


def test_other_paths_and_methods(address: str) -> None:
    status, found = post(f"{address}/v1/models/linear", b"")
    assert (status, "takes GET" in found["error"]) == (405, True)
    status, found = post(f"{address}/v2/nothing", b"")
    assert (status, "no POST /v2/nothing" in found["error"]) == (404, True)


def test_calls_are_counted_and_named(address: str) -> None:
    post(f"{address}/v1/models/linear:explain", BODY)
    post(f"{address}/v1/models/no:predict", BODY)
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    ended = [line for line in lines if line.startswith("grpc_server_handled_total")]
    assert any('"Attribute"' in line and '"http"' in line and '"OK"' in line for line in ended)
    assert any('"ModelInfer"' in line and '"http"' in line and '"NotFound"' in line for line in ended)
    requests = [line for line in lines if line.startswith("attribution_requests_total")]
    assert any('"neuron_ig"' in line and '"linear"' in line for line in requests)
    post(f"{address}/v1/models/linear:predict", BODY)
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    requests = [line for line in lines if line.startswith("attribution_requests_total")]
    assert any('"predict"' in line and '"linear"' in line and '"ok"' in line for line in requests)


def test_paths_are_there_only_where_they_are_asked_for(engine: FakeEngine) -> None:
    with (
        app.background(engine, Settings(port=0)) as (_, server),
        pytest.raises(urllib.error.HTTPError) as caught,
    ):
        urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2", timeout=5)
    with caught.value as error:
        assert error.code == 404


CA = {"client_ca": Path("ca.pem"), "certificate": Path("server.crt"), "key": Path("server.key")}


@pytest.mark.parametrize("given", [{"http_host": "0.0.0.0"}, {"http": False}, CA])
def test_open_or_missing_port_must_be_meant(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"allow_insecure|no-http|set token_file"):
        Settings(kserve=True, **given)
    assert Settings(kserve=True, http_host="0.0.0.0", allow_insecure=True).kserve


def test_tokens_and_roles_hold_over_http_and_are_asked_for_before_the_body(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    tokens = {role: add_token(file, f"{role}-er", role) for role in Role}
    predict, metadata = "/v1/models/linear:predict", "/v2/models/linear"
    with app.background(FakeEngine(), Settings(port=0, kserve=True, token_file=file)) as (_, server):
        url = f"http://127.0.0.1:{server.http_port}"

        def status(path: str, body: bytes | None, token: str = "") -> int:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(url + path, body, headers), timeout=5
                ) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        assert [status(path, None) for path in ("/", "/v2/health/live", "/v2/health/ready", metadata)] == [
            200,
            200,
            200,
            401,
        ]
        assert [status(predict, BODY, token) for token in ("", "wrong", *tokens.values())] == [
            401,
            401,
            403,
            200,
            200,
        ]
        assert status(metadata, None, tokens[Role.READ]) == 200
        assert status("/v1/models/no:predict", BODY) == 401  # whether there is one is not told
        with socket.create_connection(("127.0.0.1", server.http_port or 0), timeout=5) as caller:
            caller.sendall(f"POST {predict} HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n".encode())
            assert b" 401 " in caller.recv(1000).split(b"\r\n")[0]
