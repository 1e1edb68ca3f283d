"""`python -m onnx_attribution.client.cli`: the command `onnx-attribution` where no script is installed."""

from onnx_attribution.client.cli import main

if __name__ == "__main__":
    main()
