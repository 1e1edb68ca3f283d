"""The published experiments of DeepLIFT, repeated: `python -m benchmarks.deeplift.digit_flip` and `.tal_gata`."""
