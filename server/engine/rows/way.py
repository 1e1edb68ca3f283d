"""How a path is run through: evenly, or slowly where it leaves a point at which a network is singular."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Way:
    """Places t on a path from 0 at x' to 1 at x, and its alphas, sinh(bend t) / sinh(bend); without a bend they are t.

    What depends on alpha as sqrt(alpha^2 + width^2), as a normalisation of alpha x does, has no singularity near a path
    that is run through with `bend` = asinh(1 / width): sqrt(width^2 + width^2 sinh^2) is width cosh. Integrals of g dh
    do not depend on how a path is run through.
    """

    bend: float = 0.0

    @classmethod
    def from_width(cls, width: float) -> Way:
        """The one for something that happens within this much of alpha at x'."""
        return cls(float(np.arcsinh(1 / width)) if 0 < width < 1 else 0.0)

    def alpha(self, t: float) -> float:
        """How far along the path a place is."""
        return float(np.sinh(self.bend * t) / np.sinh(self.bend)) if self.bend and 0 < t < 1 else t

    def place(self, alpha: float) -> float:
        """The place where the path is so far along."""
        if not self.bend or not 0 < alpha < 1:
            return alpha
        return float(np.arcsinh(alpha * np.sinh(self.bend)) / self.bend)


STRAIGHT = Way()
