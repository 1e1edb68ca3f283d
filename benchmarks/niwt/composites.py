"""Images of composites, drawn in code: a shape with a texture on a background, 72 classes of three attributes each.

Colours, places, sizes and angles vary from image to image and say nothing of the class. Of the 72 classes a seed keeps
18 back, so that every shape, texture and background is among those that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]
Field = Callable[[Floats, Floats], Truth]
"""From coordinates, in units of the shape's radius, to truth."""

SIZE, UNSEEN = 28, 18


def _ring(u: Floats, v: Floats) -> Truth:
    r = np.hypot(u, v)
    return np.asarray((r < 1) & (r > 0.5))


SHAPES: dict[str, Field] = {
    "disc": lambda u, v: np.asarray(np.hypot(u, v) < 0.9),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.8,
    "triangle": lambda u, v: (v > -0.7) & (1.75 * abs(u) + v < 1),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.33) & (np.maximum(abs(u), abs(v)) < 1),
    "ring": _ring,
    "bar": lambda u, v: (abs(u) < 1.1) & (abs(v) < 0.4),
}
TEXTURES: dict[str, Field] = {
    "plain": lambda i, j: np.ones(np.broadcast_shapes(i.shape, j.shape), bool),
    "striped": lambda i, j: (i + 0 * j) % 4 < 2,
    "chequered": lambda i, j: (i // 2 + j // 2) % 2 < 1,
    "dotted": lambda i, j: ~((i % 3 < 1) & (j % 3 < 1)),
}
BACKGROUNDS = ("even", "graded", "noisy")
CLASSES = tuple(product(SHAPES, TEXTURES, BACKGROUNDS))
NAMES = tuple("-".join(parts) for parts in CLASSES)
ATTRIBUTES = (*SHAPES, *TEXTURES, *BACKGROUNDS)


def descriptions() -> Floats:
    """1 where a class has an attribute: `[classes, attributes]`."""
    return np.array([[float(one in parts) for one in ATTRIBUTES] for parts in CLASSES])


def split(seed: int) -> tuple[list[int], list[int]]:
    """Classes that are seen and those that are not, as indices; every attribute is seen with others of every kind."""
    described = descriptions()
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(CLASSES))
        seen, unseen = np.sort(order[UNSEEN:]), np.sort(order[:UNSEEN])
        together = described[seen].T @ described[seen]
        wanted = described.T @ described > 0
        if (together[wanted] > 0).all():
            return seen.tolist(), unseen.tolist()


def drawn(classes: NDArray[np.integer], seed: int) -> NDArray[np.float32]:
    """An image `[3, 28, 28]` in 0..1 of each class in the list."""
    random = np.random.default_rng(seed)
    n = len(classes)
    down, right = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    at = random.uniform(10, 18, (2, n, 1, 1))
    radius, angle = random.uniform(7, 9.5, (n, 1, 1)), random.uniform(-0.25, 0.25, (n, 1, 1))
    x, y = (right - at[0]) / radius, (down - at[1]) / radius
    u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    i, j = down + random.integers(0, 12, (n, 1, 1)), right + random.integers(0, 12, (n, 1, 1))
    inside = np.zeros((n, SIZE, SIZE), bool)
    filled = np.zeros((n, SIZE, SIZE), bool)
    ground = np.zeros((n, SIZE, SIZE))
    kinds = [CLASSES[k] for k in classes]
    for name, shape in SHAPES.items():
        own = np.array([kind[0] == name for kind in kinds])
        inside[own] = shape(u[own], v[own])
    for name, texture in TEXTURES.items():
        own = np.array([kind[1] == name for kind in kinds])
        filled[own] = texture(i[own], j[own])
    tilt = random.uniform(0, 2 * np.pi, (n, 1, 1))
    grade = (np.cos(tilt) * (right - 13.5) + np.sin(tilt) * (down - 13.5)) / 38 + 0.5
    noise = random.uniform(0, 1, (n, SIZE, SIZE))
    for name, values in (("even", 0 * grade + 0.5), ("graded", grade), ("noisy", noise)):
        own = np.array([kind[2] == name for kind in kinds])
        ground[own] = values[own]
    bright, dark = random.uniform(0.6, 1, (n, 3)), random.uniform(0, 0.35, (n, 3))
    ink = np.where((inside & filled)[:, None], bright[..., None, None], dark[..., None, None])
    back = random.uniform(0.2, 0.6, (n, 3, 1, 1)) * (0.4 + 1.2 * ground[:, None])
    image = np.where(inside[:, None], ink, back) + random.normal(0, 0.03, (n, 3, SIZE, SIZE))
    return np.clip(image, 0, 1).astype(np.float32)
