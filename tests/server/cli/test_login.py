"""The command line and a server that asks who calls."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.certificates import Authority
from tests.server.cli.commands import explained, run

ROOT = Path(__file__).parents[3]


def test_commands_bring_certificate_and_token(
    tmp_path: Path, digits_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, file = Authority(tmp_path), tmp_path / "tokens"
    server, alice = ours.pair("server"), ours.pair("alice")
    token = run("token", file, "alice", "--role", "attribute").stdout.strip()
    settings = Settings(
        port=0, certificate=server.certificate, key=server.key, client_ca=ours.roots, token_file=file
    )
    with Engine(provider="cpu") as engine:
        engine.add("digits", digits_path)
        with background(engine, settings) as (address, _):
            where = ("--server", address, "--ca", ours.roots)
            known = (*where, "--certificate", alice.certificate, "--key", alice.key)
            assert json.loads(run("layers", "digits", *known, "--token", token, "--json").stdout)["layers"]
            assert "neuron_ig" in run("methods", *known, "--token", token).stdout
            assert "digits" in run("models", *known, "--token", token).stdout
            assert "SERVING" in run("health", *known).stdout  # for which nobody needs a token
            stranger = run("layers", "digits", *where)
            assert (stranger.exit_code, "client certificate" in stranger.stderr) == (1, True)
            nameless = run("layers", "digits", *known)
            assert (nameless.exit_code, "needs credentials" in nameless.stderr) == (1, True)
            monkeypatch.setenv("ONNX_ATTRIBUTION_TOKEN", token)
            found = explained("digits", *known, "--input", image, "--method", "gradient", "--target", "3")
            assert found["method"] == "gradient"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--certificate", "a.crt", "--key", "a.key"), "give --ca"),
        (("--ca", "nowhere.pem"), "cannot read 'nowhere.pem'"),
    ],
)
def test_login_that_makes_no_connection_is_refused(options: tuple[str, ...], why: str) -> None:
    result = run("layers", "digits", "--server", "127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert why in result.stderr


@pytest.mark.parametrize(
    ("name", "role", "why"), [("alice", "emperor", "no role; there are"), ("a b", "read", "is no name")]
)
def test_token_for_nobody_is_refused(tmp_path: Path, name: str, role: str, why: str) -> None:
    result = run("token", tmp_path / "tokens", name, "--role", role)
    assert result.exit_code == 2
    assert why in result.stderr
    assert not (tmp_path / "tokens").exists()


def test_serve_takes_certificate_and_tokens(tmp_path: Path, digits_path: Path) -> None:
    ours, file = Authority(tmp_path), tmp_path / "tokens"
    server = ours.pair("server")
    token = run("token", file, "alice", "--role", "read").stdout.strip()
    command = [
        sys.executable,
        "-m",
        "onnx_attribution.server.cli",
        "serve",
        digits_path.parent,
        "--port",
        "0",
        "--json",
    ]
    secure = ["--certificate", server.certificate, "--key", server.key, "--token-file", file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [*map(str, command), *map(str, secure)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            text = process.stdout.readline()
            found = re.search(
                r'"address": "([^"]+)"', text if "address" in text else text + process.stdout.readline()
            )
            assert found is not None
            listed = run("layers", "digits", "--server", found[1], "--ca", ours.roots, "--token", token)
            assert listed.exit_code == 0, listed.output
            refused = run("layers", "digits", "--server", found[1], "--ca", ours.roots)
            assert refused.exit_code == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
