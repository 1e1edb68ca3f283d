"""Shares of contributions, or of a mass that is sent back by positive terms, of which those below tau are dropped."""

from __future__ import annotations

import numpy as np

from tests.definitions.network import HIDDEN, SOURCE, Floats, Net


def sent(x: Floats, w: Floats, r: Floats, absolute: bool) -> Floats:
    """The mass of the inputs of one sample, from that of the outputs."""
    found = np.zeros(len(x))
    for j, mass in enumerate(r):
        terms = [abs(a * b) if absolute else max(a * b, 0.0) for a, b in zip(x, w[:, j], strict=True)]
        if sum(terms) > 0:
            found += mass * np.array(terms) / sum(terms)
    return found


def cut(r: Floats, tau: float) -> Floats:
    return np.where(np.abs(r) >= tau, r, 0)


def positive(net: Net, x: Floats, tau: float, first: str) -> dict[str, Floats]:
    h = np.maximum(x @ net.w1 + net.b1, 0)
    a = np.maximum(h @ net.w2 + net.b2, 0)
    r = cut(sent(a, net.v[:, None], np.ones(1), False), tau)
    r = cut(sent(h, net.w2, r, False), tau)
    absolute = first == "absolute" or (first == "auto" and bool((x < 0).any()))
    return {HIDDEN: r, SOURCE: cut(sent(x, net.w1, r, absolute), tau)}


def signed(net: Net, x: Floats, tau: float) -> dict[str, Floats]:
    found = {}
    for layer in (HIDDEN, SOURCE):
        terms = (net.at(layer, x[None]) * net.gradient(layer, x[None]))[0]
        found[layer] = cut(terms / max(np.abs(terms).sum(), 1e-300), tau)
    return found


def attributions(
    net: Net,
    layer: str,
    x: Floats,
    baseline: Floats,
    *,
    form: str = "signed",
    tau: float | None = None,
    budget: float = 0.1,
    first: str = "auto",
) -> Floats:
    found = []
    for row in x:
        if form == "positive":
            found.append(positive(net, row, tau or 0.0, first)[layer])
            continue
        least = tau
        if least is None:  # the largest shares, as many as the budget has room for
            shares = np.sort(np.abs(signed(net, row, 0.0)[layer]))[::-1]
            least = shares[max(int(budget * len(shares)), 1) - 1]
        found.append(signed(net, row, least)[layer])
    return np.array(found)


CHANGED = {"form": "positive", "tau": 0.15}
