"""Rules for relevance in place of those for gradients: each a table that the walk back follows."""
