"""Models that run in a process of their own: the same answers, and an end of that process is told and mended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_attribution import errors
from onnx_attribution.client import Client
from onnx_attribution.interventions import Edit
from onnx_attribution.server import app
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.service.isolated import IsolatedEngine
from onnx_attribution.server.settings import Settings
from onnx_attribution.values import Accepted, AttributionRequest, Completed, Revision
from tests.server.service.test_interrupt import ENDLESS, QUICK, X, wait_until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedEngine]:
    folder = tmp_path_factory.mktemp("models")
    engine = IsolatedEngine(provider="cpu", threads=1)
    for name, model in {"quick": QUICK, "endless": ENDLESS}.items():
        onnx.save(model, folder / f"{name}.onnx")
        engine.add(name, folder / f"{name}.onnx")
    yield engine
    engine.close()


def of(model: str, method: str = "gradient") -> AttributionRequest:
    return AttributionRequest(model, {"x": X}, method, target=0)


def test_answers_are_those_of_an_engine_of_this_process(engine: IsolatedEngine) -> None:
    with Engine(provider="cpu", threads=1) as own:
        own.add("quick", QUICK)
        wanted = own.attribute(of("quick"))
    events = list(engine.stream(of("quick")))
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Completed)
    (found,) = (event.attribution for event in events if isinstance(event, Revision))
    np.testing.assert_array_equal(found.layers["x"].values, wanted.layers["x"].values)
    assert engine.predict("quick", {"x": X})["y"] == pytest.approx(np.sin(X))
    assert engine.info("quick").state == "READY"
    assert engine.provider == "cpu"
    assert [layer.name for layer in engine.layers("quick")] == ["x", "y"]


def test_interventions_are_those_of_an_engine_of_this_process(engine: IsolatedEngine) -> None:
    edit = Edit("x", 0, to=2.0)
    values = engine.intervene("quick", {"x": X}, [edit], target=0).values
    np.testing.assert_allclose(values, np.full((1, len(X)), np.sin(2.0)), rtol=1e-5)
    with pytest.raises(errors.InvalidArgument, match="legal are 0"):
        engine.intervene("quick", {"x": X}, [Edit("x", 99)], target=0)


def test_errors_are_those_of_the_engine(engine: IsolatedEngine) -> None:
    with pytest.raises(errors.NotFound, match="nothing"):
        engine.info("nothing")
    with pytest.raises(errors.InvalidArgument):
        list(engine.stream(AttributionRequest("quick", {"x": X}, "gradient", target=99)))


def test_an_end_of_the_process_is_told_by_name_and_mended(engine: IsolatedEngine) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(list, engine.stream(of("endless", "deeplift_rescale")))
        time.sleep(1)
        assert engine._child is not None
        engine._child._process.kill()
        with pytest.raises(errors.NotReady, match="'endless' ran") as caught:
            running.result(10)
    assert caught.value.reason == "PROCESS_ENDED"
    assert engine.predict("quick", {"x": X})["y"] == pytest.approx(np.sin(X))


def test_a_server_over_it_ends_what_runs_at_the_deadline(engine: IsolatedEngine) -> None:
    settings = Settings(port=0, heartbeat_seconds=0.2)
    with app.background(engine, settings) as (address, _), Client(address) as client:
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            client.attribute("endless", {"x": X}, method="deeplift_rescale", target=0, timeout=1)
        assert time.monotonic() - began < 3
        assert client.predict("quick", {"x": X})["y"] == pytest.approx(np.sin(X))
        assert client.attribute("quick", {"x": X}, target=0).layers


def test_a_model_that_is_loaded_anew_is_known_to_the_next_process(
    engine: IsolatedEngine, tmp_path: Path
) -> None:
    onnx.save(QUICK, tmp_path / "late.onnx")
    assert engine.load("late", tmp_path / "late.onnx").state == "READY"
    assert engine._child is not None
    engine._child._process.kill()
    engine._child._process.join(5)
    time.sleep(0.2)
    assert {info.name for info in engine.models()} == {"quick", "endless", "late"}
    assert engine.remove("late", wait=5)
    assert {info.name for info in engine.models()} == {"quick", "endless"}


class Counted:
    """The rows of runs."""

    def __init__(self) -> None:
        self.rows = 0

    def ran(self, rows: int, requests: int, seconds: float) -> None:
        self.rows += rows


def test_its_runs_are_told_here(tmp_path: Path) -> None:
    onnx.save(QUICK, tmp_path / "quick.onnx")
    counted = Counted()
    with IsolatedEngine(provider="cpu", threads=1, observer=counted) as engine:
        engine.add("quick", tmp_path / "quick.onnx")
        request = AttributionRequest("quick", {"x": X}, "integrated_gradients", target=0, steps=32)
        list(engine.stream(request))
    assert counted.rows >= 32


def test_what_cannot_be_served_is_known_again_to_the_next_process(
    engine: IsolatedEngine, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    engine.add("broken", tmp_path / "broken.onnx")

    def is_known() -> bool:
        try:
            states = {info.name: info.state for info in engine.models()}
        except errors.NotReady:  # it has just ended
            return False
        return states["broken"] == "FAILED" and not client.health("models/broken")

    with app.background(engine, Settings(port=0)) as (address, _), Client(address) as client:
        wait_until(is_known)
        assert client.health("models/quick")
        assert engine._child is not None
        engine._child._process.kill()
        engine._child._process.join(5)
        wait_until(is_known)
    engine.remove("broken")
