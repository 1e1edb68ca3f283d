"""The server of the soak: the product's own, or one that is made to leak or to crash, which the soak has to find.

`python -m benchmarks.soaking.child {none,leak,crash} DIR`; the settings are the ONNX_ATTRIBUTION_* variables.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

from onnx_attribution.server.app import serve
from onnx_attribution.server.service import status
from onnx_attribution.server.settings import Settings

CONTROLS = ("none", "leak", "crash")
LEAK = 256 << 10
CRASH_AFTER = 20  # refusals


def spoil(control: str) -> None:
    """Has every refusal keep some memory, or one of them end the process."""
    refuse, kept, count = status.to_status, list[bytes](), itertools.count()

    def spoilt(*arguments: Any) -> Any:
        if control == "leak":
            kept.append(os.urandom(LEAK))
        elif next(count) == CRASH_AFTER:
            os._exit(3)
        return refuse(*arguments)

    vars(status)["to_status"] = spoilt


if __name__ == "__main__":
    if sys.argv[1] != "none":
        spoil(sys.argv[1])
    serve(Settings(models=(Path(sys.argv[2]),)))
