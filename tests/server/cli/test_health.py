"""`health` says whether a server serves, by its exit status."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.server.cli.commands import run


@pytest.fixture(scope="module")
def server(digits_path: Path) -> Iterator[str]:
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, Settings(port=0)) as (address, _):
            yield address


def test_a_server_that_serves_is_status_0(server: str) -> None:
    for more in ((), ("--model", "digits")):
        result = run("health", "--server", server, *more)
        assert (result.exit_code, result.stdout) == (0, "SERVING\n"), result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_variables_of_serve_say_whom_to_ask(
    host: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNX_ATTRIBUTION_HOST", host)
    monkeypatch.setenv("ONNX_ATTRIBUTION_PORT", server.rpartition(":")[2])
    shown = json.loads(run("health", "--json").stdout)
    assert shown == {"address": server, "service": "", "state": "SERVING"}


def test_an_unknown_model_is_status_1_and_named(server: str) -> None:
    result = run("health", "--server", server, "--model", "nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "models/nothing" in result.stderr
    assert "SERVICE_UNKNOWN" in result.stderr


def test_nobody_who_listens_is_status_1_within_the_time() -> None:
    with socket.socket() as taken:  # bound and silent: nobody else can come to listen there
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("health", "--server", address, "--seconds", "0.2")
    assert result.exit_code == 1
    assert f"{address}: UNREACHABLE" in result.stderr


@pytest.mark.parametrize(("code", "state"), [(200, "SERVING"), (503, "NOT_SERVING")])
def test_a_server_that_encrypts_is_asked_over_http(
    code: int, state: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    for name in ("certificate", "key"):
        (tmp_path / name).write_text("")
        monkeypatch.setenv(f"ONNX_ATTRIBUTION_{name.upper()}", str(tmp_path / name))
    with HTTPServer(("127.0.0.1", 0), Ready) as listening:
        threading.Thread(target=listening.handle_request, daemon=True).start()
        monkeypatch.setenv("ONNX_ATTRIBUTION_HTTP_PORT", str(listening.server_port))
        result = run("health", "--json")
    assert json.loads(result.stdout)["state"] == state
    assert result.exit_code == (0 if state == "SERVING" else 1)
