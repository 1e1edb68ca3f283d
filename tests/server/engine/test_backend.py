"""Sessions compute what the file says: optimisations of onnxruntime that change it are switched off."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from onnx_attribution.graph_tools.ir.weights import Weights
from onnx_attribution.server.engine import weights
from onnx_attribution.server.engine.backend import Backend, Session
from onnx_attribution.values import Array
from tests.programs import parsed


@pytest.mark.parametrize("pads", [[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0]])
def test_a_pad_by_zeros_before_a_max_pool_keeps_its_zeros(pads: list[int], rng: np.random.Generator) -> None:
    model = parsed(f"""net (float[N,2,4,4] x) => (float[N,2,h,w] z) {{
  pads = Constant<value_ints = {pads}>()
  p = Pad(x, pads)
  z = MaxPool<kernel_shape=[2,2], pads=[0,0,0,0]>(p)
}}""")
    x = -rng.uniform(1, 2, size=(3, 2, 4, 4)).astype(np.float32)  # below the zeros of the pad
    padded = np.pad(x, list(zip(pads[:4], pads[4:], strict=True)))
    expected = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), axis=(2, 3)).max(axis=(-2, -1))
    np.testing.assert_array_equal(Backend("cpu").run(model, {"x": x}, ["z"])["z"], expected)


@pytest.mark.parametrize(("free", "disabled"), [(8 * 240, False), (8 * 240 - 1, True), (0, True)])
def test_weights_are_packed_where_the_memory_for_it_is_there_many_times(
    free: int, disabled: bool, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    model = parsed("net (float[N,6] x) => (float[N,10] z) { z = MatMul(x, w) }")
    weight = rng.normal(size=(6, 10)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    held = Weights(large=1)
    held.take(model.graph)
    monkeypatch.setattr(weights, "free_memory", lambda: free)
    given: list[tuple[str, str]] = []
    add = ort.SessionOptions.add_session_config_entry

    def noted(options: ort.SessionOptions, key: str, value: str) -> None:
        given.append((key, value))
        add(options, key, value)

    monkeypatch.setattr(ort.SessionOptions, "add_session_config_entry", noted)
    x = rng.normal(size=(2, 6)).astype(np.float32)
    found = Backend("cpu", 1).run(model, {"x": x}, ["z"])["z"].astype(np.float32)
    assert float(np.abs(found - x @ weight).max()) < 1e-5
    assert (("session.disable_prepacking", "1") in given) == disabled


def test_weights_are_packed_by_what_multiplies_by_them_once_each() -> None:
    model = parsed("""net (float[N,6] x, float[N,2,8,8] y, int64[N] i) => (float[N,6] z, float[N,6] e) {
  t = Transpose<perm = [1, 0]>(w)
  a = MatMul(x, w)
  z = Gemm(a, t)
  e = Gather(table, i)
  c = Conv(y, kernel)
}""")
    assert weights.packed_bytes(model, {"w": 240, "table": 9000, "kernel": 900}) == 480


def test_the_memory_that_is_free_is_less_than_the_machine_has() -> None:
    assert 0 <= weights.free_memory() < 1 << 50


def test_no_thread_is_busy_once_a_run_is_over(rng: np.random.Generator) -> None:
    model = parsed(
        "net (float[N,256] x) => (float[N,N] z) { t = Transpose<perm = [1, 0]>(x)  z = MatMul(x, t) }"
    )
    session = Backend("cpu", 2).session(model)
    x = rng.normal(size=(512, 256)).astype(np.float32)
    # A thread that spins takes the whole rest after every run; other tests' threads take only some of them.
    assert min(_spent_at_rest(session, x) for _ in range(10)) < 0.01


def _spent_at_rest(session: Session, x: Array) -> float:
    session.run({"x": x})
    spent = time.process_time()
    time.sleep(0.03)
    return time.process_time() - spent
