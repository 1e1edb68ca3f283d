"""What runs share is copied to the device once; runs go to the device that has the fewest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Barrier, Thread
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from onnx_attribution.errors import InvalidArgument, ModelError
from onnx_attribution.methods import NeuronIG
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend, Devices, Held, Session
from onnx_attribution.server.engine.rows import along, evaluate
from onnx_attribution.values import Array, AttributionRequest
from tests.programs import parsed

MODEL = parsed("""net (float[N,3] x, float[3,4] w, float s) => (float[N,4] z, float[N,4] t) {
  y = MatMul(x, w)
  z = Mul(y, s)
  t = Tanh(z)
}""")

NET = """net (float[N,3] x) => (float[N,2] z) <float[3,2] w = {1, -2, 3, 0.5, 0.25, 2}> {
  h = Tanh(x)
  z = MatMul(h, w)
}"""


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the arrays that are made resident, as they are."""
    made = ort.OrtValue.ortvalue_from_numpy
    shapes: list[tuple[int, ...]] = []

    def counted(array: np.ndarray[Any, Any], *device: Any) -> Any:
        shapes.append(array.shape)
        return made(array, *device)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", counted)
    return shapes


def test_bound_runs_give_what_plain_ones_do_and_copy_shared_inputs_once(
    uploads: list[tuple[int, ...]], rng: np.random.Generator
) -> None:
    session = Backend("cpu", 1).session(MODEL)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((5, 3), (3, 4)))
    held = session.hold({"x": x, "w": w, "of another model": x})
    for s in (np.asarray(number, np.float32) for number in (1, -2)):
        expected = session.run({"x": x, "w": w, "s": s})
        for found in (session.run_keeping({**held, "s": s}, ())[0], session.run({**held, "s": s})):
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)
    assert uploads == [(5, 3), (3, 4)]


def test_arrays_in_any_order_and_type_are_read_as_they_are(rng: np.random.Generator) -> None:
    model = parsed("""net (float16[N,M] x, bool[N,M] c, double[N,M] y) => (double[N,M] z) {
  w = Cast<to=11>(x)
  z = Where(c, w, y)
}""")
    x, y = rng.normal(size=(4, 3)).astype(np.float16).T, rng.normal(size=(6, 8))[::2, ::2]
    c = rng.normal(size=(3, 4)) > 0
    session = Backend("cpu", 1).session(model)
    found, _ = session.run_keeping({**session.hold({"x": x, "c": c}), "y": y}, ())
    np.testing.assert_array_equal(found["z"], np.where(c, x.astype(float), y))


def test_a_kept_output_stays_for_later_runs_and_is_fetched_on_demand(
    uploads: list[tuple[int, ...]], rng: np.random.Generator
) -> None:
    model = parsed("net (float[N] x, float[N] g) => (float[N] y, float[N] z) { y = Add(x, g) z = Mul(y, y) }")
    x, g = (rng.normal(size=4).astype(np.float32) for _ in range(2))
    session = Backend("cpu", 1).session(model)
    held, expected = session.hold({"x": x, "g": g}), x
    for _ in range(3):
        found, kept = session.run_keeping(held, ["y"])
        expected = expected + g
        assert list(found) == ["z"]
        np.testing.assert_array_equal(found["z"], expected * expected)
        held["x"] = kept["y"]
    np.testing.assert_array_equal(held["x"].array(), expected)
    assert len(uploads) == 2


@pytest.mark.parametrize(("method", "copied"), [("neuron_ig", 4), ("deeplift_rescale", 2)])
def test_a_request_of_many_bound_runs_copies_what_they_share_once(
    method: str, copied: int, monkeypatch: pytest.MonkeyPatch, uploads: list[tuple[int, ...]]
) -> None:
    """As on a device, where nothing is on the host: the same numbers, from the same runs."""
    monkeypatch.setattr(evaluate, "MAX_ROWS", 4)
    monkeypatch.setattr(along, "_inside", lambda *_: True)  # as with layers too large to leave the program
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    hold = Session.hold

    def on_device(session: Session, inputs: Mapping[str, Array], also: Sequence[str] = ()) -> dict[str, Held]:
        return {name: replace(held, on_host=None) for name, held in hold(session, inputs, also).items()}

    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", parsed(NET))
        named = NeuronIG(steps=9, quadrature="trapezoid") if method == "neuron_ig" else method
        request = AttributionRequest("net", {"x": x}, named, ["h"], target=1)
        expected = engine.attribute(request).layers["h"].values
        uploads.clear()
        monkeypatch.setattr(Session, "hold", on_device)
        found = engine.attribute(request).layers["h"].values
    np.testing.assert_array_equal(found, expected)
    assert len(uploads) == copied


@pytest.mark.parametrize("method", ["gradient", "neuron_ig", "deeplift_rescale", "deeplift_reveal_cancel"])
def test_targets_that_share_a_run_have_their_numbers_on_a_device_too(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    hold = Session.hold

    def on_device(session: Session, inputs: Mapping[str, Array], also: Sequence[str] = ()) -> dict[str, Held]:
        return {name: replace(held, on_host=None) for name, held in hold(session, inputs, also).items()}

    monkeypatch.setattr(Session, "hold", on_device)
    with Engine(provider="cpu", threads=1) as engine:
        engine.add("net", parsed(NET))
        request = AttributionRequest("net", {"x": x}, method, ["h"], targets=[1, 0])
        found = engine.attribute(request).layers["h"].values
        for k, target in enumerate((1, 0)):
            alone: Any = engine.attribute(request.changed(target=target)).layers["h"].values
            np.testing.assert_allclose(found[k], alone, rtol=1e-6, atol=1e-6)


def test_a_failing_bound_run_says_what_is_wrong(rng: np.random.Generator) -> None:
    session = Backend("cpu", 1).session(MODEL)
    held = session.hold({"x": rng.normal(size=(5, 7)).astype(np.float32)})
    with pytest.raises(ModelError, match="dimensions"):
        session.run_keeping({**held, "w": np.ones((3, 4), np.float32), "s": np.ones((), np.float32)}, ())
    with pytest.raises(ModelError, match="cannot run"):
        session.run_keeping({**held, "s": np.ones((), np.float32)}, ())


def test_runs_go_where_there_are_the_fewest() -> None:
    devices = Devices("cuda", (2, 5))
    with devices.taken() as first, devices.taken() as second:
        assert {first, second} == {0, 1}
        with devices.taken(second), devices.taken() as third:
            assert third == first
    with devices.taken() as again:
        assert again == 0


def test_concurrent_runs_are_spread_over_sessions_of_their_own() -> None:
    model = parsed("net (float[N] x) => (float[N] z) { z = Relu(x) }")
    meeting, ran = Barrier(2, timeout=20), []

    class Met:
        """A session whose runs wait for each other."""

        def __init__(self, place: int) -> None:
            self.place = place
            self.session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs

        def run(self, *given: Any) -> Any:
            ran.append(self.place)
            meeting.wait()
            return self.session.run(*given)

    session = Session(Met(0), (), Devices("cpu", (0, 0)), Met)
    for _ in range(2):
        threads = [Thread(target=session.run, args=({"x": np.ones(2, np.float32)},)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ran) == [0, 0, 1, 1]


def test_devices_are_of_cuda_and_each_named_once() -> None:
    with pytest.raises(InvalidArgument, match="of CUDA"):
        Backend("cpu", devices=[0, 1])
    with pytest.raises(InvalidArgument, match="each named once"):
        Backend("cpu", devices=[1, 1])
    with pytest.raises(InvalidArgument, match="from 0"):
        Backend("cpu", devices=[-1])


def test_a_cuda_session_gets_its_device_and_no_tf32_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnx_attribution.server.engine.backend._has_device", lambda number=0: number < 4)
    given: list[Any] = []

    def made(text: bytes, options: Any, *, providers: Any, **_: Any) -> Any:
        given.append(providers)
        return ort_session(text, options, providers=["CPUExecutionProvider"])

    ort_session = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", made)
    Backend("cuda").session(MODEL)
    Backend("cuda", tf32=True, devices=[3]).session(MODEL)
    assert [providers[0] for providers in given] == [
        ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"}),
        ("CUDAExecutionProvider", {"device_id": "3", "use_tf32": "1"}),
    ]
    with pytest.raises(ModelError, match="no CUDA device 7"):
        Backend("cuda", devices=[3, 7])
