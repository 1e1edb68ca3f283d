"""The log has one line a call, and never an input."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import structlog

from onnx_attribution.client import Client
from onnx_attribution.errors import NotFound
from onnx_attribution.server import app
from onnx_attribution.server.operate.logs import CallLog, configure
from onnx_attribution.server.service.calls import Call
from onnx_attribution.server.settings import Settings
from tests.server.fake_engine import FakeEngine
from tests.server.operate.ports import until

SECRET = 4.242424


@pytest.fixture
def own_log() -> Iterator[None]:
    """The configuration of the log that a test may change."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_call_is_one_line_of_json_without_its_inputs(
    own_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", "json")
    given = {"x": np.full((1, 3), SECRET, np.float32)}
    with (
        app.background(FakeEngine(), Settings(port=0), listeners=[CallLog()]) as (address, _),
        Client(address) as client,
    ):
        assert client.health()
        client.attribute("linear", given, method="gradient")
        with pytest.raises(NotFound):
            client.predict("nothing", given)
        said = ""

        def are_two() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return said.count("\n") == 2

        until(are_two)
    good, bad = map(json.loads, said.splitlines())
    assert (good["call"], good["code"], good["level"]) == ("AttributionService/StreamAttribute", "OK", "info")
    assert (good["model"], good["method"], len(good["request_id"])) == ("linear", "gradient", 32)
    assert 0 < good["seconds"] < 5
    assert (bad["code"], bad["reason"], bad["model"]) == ("NOT_FOUND", "MODEL_NOT_FOUND", "nothing")
    assert "4.24" not in said


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_caller_names_cannot_begin_a_line(
    form: str, own_log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", form)  # type: ignore[arg-type]
    call = Call("onnx_attribution.v1.AttributionService", "Predict", model="a\nb call code=OK\x1b[2J")
    CallLog().ended(call)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b[2J" not in said


def test_a_level_leaves_out_what_is_below_it(own_log: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure("error")
    CallLog().ended(Call("onnx_attribution.v1.AttributionService", "Predict"))
    assert capsys.readouterr().err == ""
    CallLog().ended(Call("onnx_attribution.v1.AttributionService", "Predict", code="INTERNAL"))
    assert "INTERNAL" in capsys.readouterr().err
