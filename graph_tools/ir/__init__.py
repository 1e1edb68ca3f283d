"""Graphs as they are worked on: nodes and values emitted, shapes, weights, what a file holds."""
