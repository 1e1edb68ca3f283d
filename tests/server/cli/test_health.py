"""`health` says whether a server serves, by its exit status."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
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
