"""`python -m onnx_attribution.server DIR...`: serves the models below the folders; all else by variables."""

from __future__ import annotations

import sys
from pathlib import Path

from onnx_attribution.errors import AttributionError
from onnx_attribution.server.operate.signals import Signals


def main() -> int:
    Signals()  # until the server has its own
    from pydantic import ValidationError

    from onnx_attribution.server.app import serve
    from onnx_attribution.server.settings import Settings

    try:
        paths = tuple(map(Path, sys.argv[1:]))
        serve(Settings(models=paths) if paths else Settings())
    except ValidationError as error:
        print(*(f"{detail['loc']}: {detail['msg']}" for detail in error.errors()), sep="\n", file=sys.stderr)
        return 2
    except AttributionError as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
