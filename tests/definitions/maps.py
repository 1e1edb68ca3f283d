"""Class activation maps, position by position, of gradients and values of one sample, `[channels, *positions]`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tests.definitions.network import HIDDEN, Floats, Net

Weigh = Callable[[list[float], list[float]], list[float]]
"""From gradients and values of one channel, position by position, to the weight of each."""


def counted(g: float, sign: str) -> float:
    return {"signed": g, "positive": max(g, 0.0), "absolute": abs(g)}[sign]


def mapped(
    gradient: Floats,
    activation: Floats,
    weigh: Weigh,
    *,
    relu_attributions: bool = False,
    attr_dim_summation: bool = True,
) -> Floats:
    """The map `[1 or channels, *positions]`: each channel's values, times the weights of its positions."""
    places = list(itertools.product(*map(range, gradient.shape[1:])))
    found = np.zeros((1 if attr_dim_summation else len(gradient), *gradient.shape[1:]))
    for channel in range(len(gradient)):
        g = [float(gradient[(channel, *place)]) for place in places]
        a = [float(activation[(channel, *place)]) for place in places]
        for place, weight, value in zip(places, weigh(g, a), a, strict=True):
            found[(0 if attr_dim_summation else channel, *place)] += weight * value
    return np.where(found > 0, found, 0.0) if relu_attributions else found


def of_net(net: Net, x: Floats, weigh: Weigh, channel_axis: int, **parameters: bool) -> Floats:
    """The maps of the hidden layer before its axes are squeezed, `[samples, 1, units]`."""
    pairs = zip(net.gradient(HIDDEN, x), net.hidden(x), strict=True)
    if channel_axis == 1:
        return np.stack([mapped(g[None], a[None], weigh, **parameters) for g, a in pairs])
    return np.stack([mapped(g[:, None], a[:, None], weigh, **parameters).T for g, a in pairs])


def linear(values: Sequence[float], size: int, corners: bool) -> Iterator[float]:
    """One axis at another size."""
    old = len(values)
    for k in range(size):
        at = k * (old - 1) / max(size - 1, 1) if corners else (k + 0.5) * old / size - 0.5
        at = min(max(at, 0.0), old - 1.0)
        low = int(at)
        high = min(low + 1, old - 1)
        yield values[low] + (at - low) * (values[high] - values[low])


def sized(values: Floats, sizes: Sequence[int], how: str) -> Floats:
    """An array at another size, axis by axis."""
    for axis, size in enumerate(sizes):
        lines = np.moveaxis(values, axis, -1)
        made = np.empty((*lines.shape[:-1], size))
        for place in np.ndindex(*lines.shape[:-1]):
            line = lines[place].tolist()
            nearest = [line[k * len(line) // size] for k in range(size)]
            made[place] = nearest if how == "nearest" else list(linear(line, size, how == "linear_corners"))
        values = np.moveaxis(made, -1, axis)
    return values


LAYER = "h1"
