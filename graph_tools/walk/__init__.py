"""The one walk backward: gradients, and secants between a sample and its reference."""
