"""Whatever becomes of a request, nothing of what it holds is written anywhere by the server: values, names, tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from onnx_attribution.client import Client
from onnx_attribution.errors import AttributionError
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.operate.logs import CallLog, configure
from onnx_attribution.server.service.tokens import add_token
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Array, AttributionRequest, Event
from tests.programs import parsed

NUMBER = 8675309.0
WORD = "geheimnis"
SECRETS = ("8675309", "8.675309", "8.67531", WORD, "0009044b", "pqrs")
"""The number in the forms that it may be printed in, a word, the number's bytes, and a part of a wrong token."""


class Failing(Engine):
    """Fails where nobody expects it, with the inputs at hand."""

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        found = super().predict(model, inputs, outputs)
        if model == "broken":
            raise RuntimeError("broken")
        return found

    def stream(self, request: AttributionRequest, **options: Any) -> Iterator[Event]:
        yield from super().stream(request, **options)
        if request.model == "broken":
            raise RuntimeError("broken")


@pytest.fixture
def plain_log() -> Iterator[None]:
    """The log as `serve` writes it."""
    before = structlog.get_config()
    configure()
    yield
    structlog.configure(**before)


def test_log_holds_nothing_of_a_request(
    tmp_path: Path, plain_log: None, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens"
    token, wrong = add_token(file, "alice", "admin"), "pqrs" * 8
    x = np.array([[NUMBER, 1, 2]], np.float32)
    with Failing(provider="cpu", threads=1) as engine:
        line = parsed("g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }")
        engine.add("line", line)
        engine.add("broken", line)
        engine.add("words", parsed("g (string[N] x) => (string[N] y) { y = Identity(x) }"))
        engine.add("rows", parsed("g (float[N, 3] x, int64[N] k) => (y) { y = Gather(x, k) }"))
        settings = Settings(port=0, token_file=file)
        with app.background(engine, settings, listeners=[CallLog()]) as (address, _):
            with Client(address, token=token) as client:
                attempts: list[Callable[[], Any]] = [
                    lambda: client.predict("line", {"x": x}),
                    lambda: client.attribute("line", x, target=0, method="integrated_gradients"),
                    lambda: client.attribute("line", x, target=0, baselines={"x": x}, method="gradient"),
                    lambda: client.predict("line", {"x": x[:, :2]}),
                    lambda: client.predict("line", {"x": np.array([[WORD] * 3])}),
                    lambda: client.predict("line", {WORD: x}),
                    lambda: client.attribute("line", np.where(x > 2, np.nan, x), target=0),
                    lambda: client.attribute("line", x, target=int(NUMBER)),
                    lambda: client.attribute("line", x, target=0, layers=[WORD]),
                    lambda: client.predict("words", {"x": np.array([WORD])}),
                    lambda: client.predict("rows", {"x": x, "k": np.array([int(NUMBER)])}),
                    lambda: client.predict("broken", {"x": x}),
                    lambda: client.attribute("broken", x, target=0),
                ]  # fmt: skip
                for attempt in attempts:
                    with suppress(AttributionError):
                        attempt()
            with Client(address, token=wrong) as client, suppress(AttributionError):
                client.predict("line", {"x": x})
    out, log = capfd.readouterr()
    assert log.count("internal error") == 2  # it is the log that is looked at
    assert "RuntimeError: broken" in log
    assert "caller=alice" in re.sub(r"\x1b\[\d*m", "", log)
    found = [secret for secret in (*SECRETS, token) if secret in (log + out).lower() or secret in log + out]
    assert not found, log
