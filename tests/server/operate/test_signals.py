"""No signal of a process that serves is missed: not while it waits, not while it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ONNX_ATTRIBUTION_PORT": "0"}


def test_a_signal_at_any_step_of_the_wait_ends_it() -> None:
    script = """
import os, signal, sys, threading
from onnx_attribution.server.operate.signals import Signals

for step in range(1, 15):
    signals, seen = Signals(), 0
    signals.expect()

    def trace(frame, event, argument):
        global seen
        seen += 1
        if seen == step:
            signal.raise_signal(signal.SIGINT)
        return trace

    def send():
        global seen
        if seen < step:  # the wait has fewer steps and waits already
            seen = step
            os.kill(os.getpid(), signal.SIGINT)

    late = threading.Timer(0.3, send)
    late.start()
    sys.settrace(trace)
    received = signals.wait()
    sys.settrace(None)
    late.join()
    assert received == signal.SIGINT, step
print("none is missed")
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert (result.returncode, result.stdout) == (0, "none is missed\n"), result.stderr


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "command",
    [["onnx_attribution.server.cli", "serve"], ["onnx_attribution.server"]],
    ids=["command line", "module"],
)
def test_a_process_that_starts_ends_at_its_first_signal(
    command: list[str], digits_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    # A shell's background process is started with SIGINT ignored, which Python leaves so until a handler is set.
    for number in (signal.SIGINT, signal.SIGTERM):
        for delay in (0.3, 0.9, 1.5):
            process = subprocess.Popen(
                [sys.executable, "-m", *command, str(digits_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=ENVIRONMENT,
                preexec_fn=_default_signals,
            )
            processes.append(process)
            sleep(delay)
            process.send_signal(number)
            begun = monotonic()
            process.wait(timeout=20)
            assert monotonic() - begun < 10
            # Before Python has started (which aborts, where that finds it half made), while modules are imported, or
            # after a drain.
            assert process.returncode in (-number, -signal.SIGABRT, 128 + number, 0, 1)


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def test_the_second_signal_ends_the_process_whatever_it_does() -> None:
    script = """
import signal, time
from onnx_attribution.server.operate.signals import Signals
signals = Signals()
signals.expect()
print("ready", flush=True)
print(signals.wait(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT
