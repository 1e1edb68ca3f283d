"""What attributions cost, beside onnxruntime alone, torch and Captum: `make bench`, or `python -m benchmarks`."""
