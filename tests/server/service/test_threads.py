"""When computations are told to stop."""

from __future__ import annotations

import threading
import time

import pytest

from onnx_attribution.server.service.threads import Stop


def test_stop_says_deadline_near_with_two_slices_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = Stop(12, threading.Event())
    stop.resume()
    clock[0] = 4  # loading, which is no slice
    assert stop() is None
    clock[0] = 6
    stop.has_result = True
    assert stop() is None
    stop.pause()
    clock[0] = 7  # nobody computes, which is no part of the slice of 1.5 s
    stop.resume()
    clock[0] = 8.5
    assert stop() is None
    clock[0] = 10
    assert stop() == "deadline_near"
