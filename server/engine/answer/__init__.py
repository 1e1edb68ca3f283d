"""Sums of rows to an answer: reduction, error estimates, refinement, warnings."""
