"""`python -m onnx_attribution.server DIR...`: serves the models below the folders; all else by variables."""

from __future__ import annotations

import sys
from pathlib import Path

from onnx_attribution.errors import AttributionError
from onnx_attribution.server.operate.signals import Signals


def main() -> int:
    Signals()  # until the server has its own
    from onnx_attribution.server.app import serve
    from onnx_attribution.server.settings import read

    try:
        paths = tuple(map(Path, sys.argv[1:]))
        serve(read({"models": paths} if paths else {}))
    except AttributionError as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
