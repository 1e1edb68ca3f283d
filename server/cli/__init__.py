"""The command `onnx-attribution`; its own dependencies come with the `server` extra."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says which extra to install and exits with status 2."""
    try:
        from onnx_attribution.server.cli.app import app
    except ModuleNotFoundError as error:
        # Our own modules are always there: their absence is a bug and shows its traceback.
        if error.name is None or error.name.partition(".")[0] == "onnx_attribution":
            raise
        print(
            f"onnx-attribution: the command line needs {error.name}; "
            "install it with: pip install 'onnx-attribution[server]' (or [gpu])",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    app()
