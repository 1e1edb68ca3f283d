"""`onnx-attribution page`: it prints the address of the page, and ends with Ctrl-C."""

from __future__ import annotations

import html
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from onnx_attribution.server.app import background
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.settings import Settings
from tests.certificates import Authority
from tests.server.cli.commands import model, run
from tests.server.web.visitor import Visitor, opened


@contextmanager
def visited(*arguments: str | Path, browser: str = "") -> Iterator[Visitor]:
    """Somebody who has opened the page of the command, which then ends with Ctrl-C."""
    command = [sys.executable, "-m", "onnx_attribution.server.cli", "page", *arguments]
    command += [] if browser else ["--no-open"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": browser},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.endswith("(Ctrl-C ends it)\n"), process.stderr and process.stderr.read()
            yield opened(line.split()[0])
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0


def test_models_of_a_server_are_chosen_from_and_compared(tmp_path: Path, digits_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(digits_path.with_name("digits.npz"))["images"][:1])
    with Engine() as engine:
        engine.add("digits", digits_path)
        engine.add("fixed", digits_path.with_name("digits_fixed.onnx"))
        with (
            background(engine, Settings(port=0, http=False)) as (address, _),
            visited("--server", address) as visitor,
        ):
            text = visitor.get("/").text
            assert 'href="/explain?model=digits"' in text
            assert 'href="/explain?model=fixed"' in text
            assert "Choose a file" in visitor.get("/explain", model="digits").text
            key = visitor.upload(tmp_path / "x.npy", "digits")["key"]
            asked = {"model": "digits", "input": key, "method": "deeplift_rescale", "b.model": "fixed"}
            assert f"explain digits --server {address}" in visitor.final(**asked, side=0)
            assert f"explain fixed --server {address}" in visitor.final(**asked, side=1)
            assert visitor.get("/explain", **asked).text.count('data-piece="/prediction') == 2
            assert "<small>fixed</small>" in visitor.get("/prediction", **asked, side=1).text


@pytest.mark.parametrize(
    ("role", "word"),
    [("attribute", "together contribute"), ("read", "PERMISSION_DENIED"), ("", "needs credentials")],
)
def test_the_page_may_do_what_its_token_allows(
    tmp_path: Path, digits_path: Path, role: str, word: str
) -> None:
    ours, file = Authority(tmp_path), tmp_path / "tokens"
    server = ours.pair("server")
    token = run("token", file, "alice", "--role", role or "read").stdout.strip()
    np.save(tmp_path / "x.npy", np.load(digits_path.with_name("digits.npz"))["images"][:1])
    settings = Settings(port=0, http=False, certificate=server.certificate, key=server.key, token_file=file)
    with Engine() as engine:
        engine.add("digits", digits_path)
        login: list[str | Path] = ["--ca", ours.roots, *((["--token", token]) if role else [])]
        with (
            background(engine, settings) as (address, _),
            visited("--server", address, *login) as visitor,
        ):
            if not role:
                assert word in visitor.get("/").text
                return
            key = visitor.upload(tmp_path / "x.npy", "digits")["key"]
            text = visitor.final(model="digits", input=key, method="gradient")
            assert word in text
            assert token not in text
            assert ("--ca" in text) == (role == "attribute")


def test_a_file_of_several_inputs_takes_a_file_for_each(tmp_path: Path) -> None:
    text = "two (float[N,3] a, float[N,3] b) => (float[N,1] y) { d = Mul(a, b) y = ReduceMax <axes=[1]> (d) }"
    file = model(tmp_path, text)
    for name, values in {"first": [1.0, 2.0, 3.0], "second": [3.0, 5.0, 1.0]}.items():
        np.save(tmp_path / f"{name}.npy", np.array([values], np.float32))
    with visited(file) as visitor:
        began = visitor.upload(tmp_path / "first.npy", "text.onnx", input="a")
        assert began["missing"] == ["b"]
        ended = visitor.upload(tmp_path / "second.npy", "text.onnx", input="b", **{"with": began["key"]})
        found = visitor.final(model="text.onnx", input=ended["key"], method="gradient_x_activation")
        # The largest product is 2 · 5, of which gradient times input gives 10 to each input.
        assert found.count("together contribute 10<") == 2
        assert "--input a=first.npy --input b=second.npy" in found


def test_the_browser_is_given_a_file_that_this_user_alone_can_read(tmp_path: Path, digits_path: Path) -> None:
    """The arguments of a program are seen by every user of the machine: the key is not among them."""
    told, script = tmp_path / "told", tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$@" > {told}.part\nmv {told}.part {told}\n')
    script.chmod(0o755)
    with visited(digits_path, browser=f"{script} %s") as visitor:
        end = time.monotonic() + 20
        while not told.exists() and time.monotonic() < end:
            time.sleep(0.05)
        given = told.read_text().strip()
        file = Path(urlsplit(given).path)
        key = urlsplit(visitor.url).query
        assert key not in given
        assert html.escape(visitor.url) in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not file.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "name a file, or a server"),
        (["none.onnx"], "no file"),
        (["--server", "nonsense"], "HOST:PORT"),
        (["--server", "127.0.0.1:1", "--shape", "x=1"], "--shape"),
    ],
)
def test_what_cannot_be_opened_is_said(arguments: list[str], word: str) -> None:
    done = run("page", "--no-open", *arguments)
    assert done.exit_code == 2
    assert word in done.stderr
