"""Choose Your Neuron (NIWT): importance of units per class, and what follows from it. Needs numpy only."""
