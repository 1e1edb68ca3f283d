"""Models that are run for an answer: rows of gradients, pairs of DeepLIFT, paths, changed and written files."""
