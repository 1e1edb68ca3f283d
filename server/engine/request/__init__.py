"""A request to arrays: names to tensors, inputs, samples, baselines, the target's weights."""
