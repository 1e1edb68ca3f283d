"""What a process is told that serves."""

from __future__ import annotations

import sys

from onnx_attribution.server.operate.memory import keep_freed

__all__ = ["for_serving"]

SWITCH_SECONDS = 0.0005
"""After which a thread that computes lets the event loop run; Python's own 5 ms delay each answer several times."""


def for_serving() -> None:
    """Memory that is freed is kept, and threads that compute give way soon. For the whole process."""
    keep_freed()
    sys.setswitchinterval(SWITCH_SECONDS)
