"""Rows of a path or of samples: where they lie, how many there are, how they share runs."""
