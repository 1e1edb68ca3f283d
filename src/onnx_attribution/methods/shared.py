"""What parameters mean that several methods have, and their bounds."""

from __future__ import annotations

from typing import Literal

MAX_STEPS, MAX_DRAWS, MAX_SEED = 16384, 1 << 20, 1_000_000_000
FIXED_STEPS = 64
"""The steps of a fixed quadrature that are not named."""
Quadrature = Literal[
    "auto",
    "trapezoid",
    "left",
    "right",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "gausslegendre",
]

MULTIPLY_BY_INPUTS = "Multiply by the difference to the baseline, or by the activation."
GROUPS = (
    "By source, integers from 0 that broadcast to one sample: elements of one number are replaced together, across "
    "sources too."
)
WINDOWS = "By source, the sizes of a window that moves over the last axes; other axes are taken whole."
STRIDES = "By source, how far the window moves; by default its size, so that windows do not overlap."
SEED = "The same seed gives the same draws, for every sample and target, whatever shares a run."
NEURON = (
    "By the name of its layer, the index of the neuron in one sample; with fewer numbers than axes all neurons whose "
    "index begins so, as those of a channel."
)
STEPS = (
    "Segments of the path, or Captum's n_steps with its quadratures; without, as many as the tolerance needs, "
    f"or {FIXED_STEPS} of a quadrature that is named."
)
QUADRATURE = (
    "Where the steps lie and what they weigh; auto lays them where the path needs them, or makes a trapezoid "
    "of steps that are named; from riemann_left on Captum's."
)
