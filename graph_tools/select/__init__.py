"""What names mean in a graph: sources, targets, layers, cuts, channels, logits."""
