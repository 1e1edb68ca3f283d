"""The server of the soak: the product's own, or one that is made to leak or to crash, which the soak has to find.

`python -m benchmarks.soaking.child {none,leak,crash} DIR`; the settings are the ONNX_ATTRIBUTION_* variables.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

from onnx_attribution.server import app
from onnx_attribution.server.operate.logs import CallLog
from onnx_attribution.server.service import status
from onnx_attribution.server.service.calls import Call
from onnx_attribution.server.service.threads import Stop
from onnx_attribution.server.settings import Settings

CONTROLS = ("none", "leak", "crash")
LEAK = 256 << 10
CRASH_AFTER = 20  # refusals
SENT = "sent-ns"
"""The metadata in which a caller says when it sent its call, by the clock that all processes share."""
TIMES = "refused after"


def spoil(control: str) -> None:
    """Has every refusal and every call that is left keep some memory, or one refusal end the process."""
    refuse, cancel, kept, count = status.to_status, Stop.cancel, list[bytes](), itertools.count()

    def spoilt(*arguments: Any) -> Any:
        if control == "leak":
            kept.append(os.urandom(LEAK))
        elif next(count) == CRASH_AFTER:
            os._exit(3)
        return refuse(*arguments)

    def left(stop: Stop) -> None:
        if control == "leak":
            kept.append(os.urandom(LEAK // 64))
        cancel(stop)

    vars(status)["to_status"] = spoilt
    setattr(Stop, "cancel", left)  # noqa: B010  # mypy: a method is not assigned to


class Timed(CallLog):
    """Also says of a refusal how long it was on its way to its handler, and how long there, in milliseconds."""

    def ended(self, call: Call) -> None:
        super().ended(call)
        sent = dict(call.metadata).get(SENT)
        if sent is not None and call.code == "RESOURCE_EXHAUSTED":
            way = call.began * 1000 - int(sent) / 1e6
            print(TIMES, way, (call.ended - call.began) * 1000, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1] != "none":
        spoil(sys.argv[1])
    vars(app)["CallLog"] = Timed
    app.serve(Settings(models=(Path(sys.argv[2]),)))
