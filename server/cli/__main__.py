"""`python -m onnx_attribution.server.cli`: the command `onnx-attribution` where no script is installed."""

from onnx_attribution.server.cli import main

if __name__ == "__main__":
    main()
