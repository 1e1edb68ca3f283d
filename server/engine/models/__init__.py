"""Loaded models with their sessions; a model's card; the registry of all."""
