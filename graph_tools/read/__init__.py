"""Files as they are read: limits, weights, inputs on which a model runs."""
