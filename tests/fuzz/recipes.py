"""What kinds of models are drawn: each theme leans to one difficulty, and `mixed` takes several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """The difficulties of one model.

    `major` is where samples lie in the inputs: in front, behind time, or nowhere (the file knows no batch). `naming`
    is how their axis is declared: by one name, by one for each input, without a name, by the name of every axis, or as
    1. `bodies` and `functions` are how often a step is a node with a body or a call; `inputs` and `rank` are left to
    chance where they are 0; `several` asks for two samples at least.
    """

    major: Literal["batch", "time", "none"] = "batch"
    naming: Literal["one", "apart", "unnamed", "same", "fixed"] = "one"
    stale: bool = False
    bodies: float = 0.0
    functions: float = 0.0
    extreme: Literal["", "sample", "all"] = ""
    integers: Literal["", "cast", "table"] = ""
    nan: Literal["", "domain", "imputed"] = ""
    scalars: bool = False
    whole_branch: bool = False
    side: bool = False
    inputs: int = 0
    rank: int = 0
    several: bool = False


Draw = Callable[[np.random.Generator], Recipe]


def _often(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _one(rng: np.random.Generator, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def _mixed(rng: np.random.Generator) -> Recipe:
    """Two or three difficulties at once."""
    names = [name for name in THEMES if name != "mixed"]
    parts = [
        THEMES[str(name)](rng) for name in rng.choice(names, size=int(rng.integers(2, 4)), replace=False)
    ]
    plain, found = Recipe(), Recipe()
    for part in parts:
        changed = {k: v for k, v in vars(part).items() if v != getattr(plain, k)}
        found = replace(found, **changed)
    if found.major == "none":
        found = replace(found, naming="one", integers="")
    return replace(found, nan="") if found.integers else found


THEMES: Mapping[str, Draw] = {
    "plain": lambda rng: Recipe(functions=0.1, bodies=0.05),
    "stale shapes": lambda rng: Recipe(stale=True, bodies=_one(rng, 0, 0, 0.25), functions=_one(rng, 0, 0.2)),
    "baked batch": lambda rng: Recipe(naming="fixed", functions=0.1),
    "baked batch, bodies": lambda rng: Recipe(
        major=_one(rng, "batch", "time"), naming="fixed", bodies=0.6, rank=3, several=True
    ),
    "bodies": lambda rng: Recipe(bodies=0.5, rank=_one(rng, 0, 3), functions=0.1, stale=_often(rng, 0.3)),
    "extremes": lambda rng: Recipe(extreme="all", naming=_one(rng, "one", "one", "fixed"), several=True),
    "extremes of a sample": lambda rng: Recipe(extreme="sample", naming=_one(rng, "one", "fixed")),
    "integers": lambda rng: Recipe(integers="cast", inputs=_one(rng, 0, 0, 1)),
    "tokens": lambda rng: Recipe(integers="table", inputs=_one(rng, 0, 1, 1)),
    "not a number": lambda rng: Recipe(nan=_one(rng, "domain", "domain", "imputed"), several=True),
    "rank 0": lambda rng: Recipe(scalars=_often(rng, 0.7), rank=_one(rng, 1, 1, 2), several=True),
    "no batch": lambda rng: Recipe(major="none", scalars=_often(rng, 0.4), rank=_one(rng, 1, 2)),
    "time first": lambda rng: Recipe(
        major="time", naming=_one(rng, "one", "apart", "unnamed", "fixed"), bodies=0.3, inputs=_one(rng, 1, 2)
    ),
    "names apart": lambda rng: Recipe(naming=_one(rng, "apart", "unnamed", "same"), inputs=_one(rng, 2, 3)),
    "side outputs": lambda rng: Recipe(side=True, naming=_one(rng, "one", "fixed")),
    "whole branch": lambda rng: Recipe(whole_branch=True),
    "mixed": _mixed,
}

TURNS = (*THEMES, "baked batch, bodies", "stale shapes")
"""The order in which themes take turns; two come twice, because what they look for shows in few of their models."""
