"""Layer-wise relevance propagation through both layers, term by term (10.1371/journal.pone.0130140)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.definitions.network import HIDDEN, Floats, Net

RULES: dict[str, tuple[str, str, str]] = {
    "none": ("", "", ""),
    "epsilon_plus": ("zplus", "epsilon", ""),
    "epsilon_plus_flat": ("zplus", "epsilon", "flat"),
    "epsilon_alpha2_beta1": ("alpha_beta", "epsilon", ""),
    "epsilon_alpha2_beta1_flat": ("alpha_beta", "epsilon", "flat"),
    "epsilon_gamma_box": ("gamma", "epsilon", "box"),
}


def away(z: Floats, epsilon: float) -> Floats:
    return z + np.where(z < 0, -epsilon, epsilon)


def shared(x: Floats, w: Floats, b: Floats, r: Floats, rule: str, **given: Any) -> Floats:
    """The relevance of x where z = x W + b has the relevance r: `[samples, inputs]`."""
    epsilon, gamma = given.get("epsilon", 1e-9), given.get("gamma", 0.25)
    alpha, beta = given.get("alpha", 2.0), given.get("beta", 1.0)
    b = 0 * b if given.get("zero_bias", False) else b
    terms = x[:, :, None] * w  # [samples, inputs, units]
    z = terms.sum(axis=1) + b
    plus, minus = np.maximum, np.minimum
    if given.get("form") == "captum" and rule in ("zplus", "alpha_beta", "gamma"):
        changed = plus(w, 0) if rule != "gamma" else w + gamma * plus(w, 0)
        return shared(x, changed, b, r, "epsilon", epsilon=epsilon)
    match rule:
        case "epsilon":
            part = terms / away(z, epsilon)[:, None]
        case "zplus" | "alpha_beta":
            up = plus(terms, 0) / away(plus(terms, 0).sum(axis=1) + plus(b, 0), epsilon)[:, None]
            down = (
                minus(terms, 0) / away(minus(terms, 0).sum(axis=1) + minus(b, 0) - 1e-300, epsilon)[:, None]
            )
            part = up if rule == "zplus" else alpha * up - beta * down
        case "gamma":
            sides = []
            for side in (plus, minus):
                more = terms + gamma * side(terms, 0)
                sides.append(more / away(more.sum(axis=1) + b + gamma * side(b, 0), epsilon)[:, None])
            part = np.where((z > 0)[:, None], sides[0], np.where((z < 0)[:, None], sides[1], 0))
        case "w2" | "flat":
            weights = w**2 if rule == "w2" else np.where(w == 0, 0, 1.0)  # a kernel reaches so far
            part = np.broadcast_to(weights / weights.sum(axis=0), terms.shape)
        case _:
            assert rule == "box"
            box = terms - given["low"] * plus(w, 0) - given["high"] * minus(w, 0)
            part = box / away(box.sum(axis=1), epsilon)[:, None]
    return np.asarray((part * r[:, None]).sum(axis=2))


def attributions(net: Net, layer: str, x: Floats, baseline: Floats, **given: Any) -> Floats:
    convolution, dense, first = RULES[given.get("composite", "none")]
    rule = given.get("rule", "epsilon")
    convolution, dense = convolution or rule, dense or rule
    if given.get("first", "same") != "same":
        first = given["first"]
    h = net.hidden(x)
    a = np.maximum(net.z2(h), 0)
    out = net.from_hidden(h)[:, None]
    found = shared(a, net.v[:, None], np.zeros(1), out, dense, **given)
    found = shared(h, net.w2, net.b2, found, dense, **given)
    return found if layer == HIDDEN else shared(x, net.w1, net.b1, found, first or convolution, **given)


CHANGED = {"composite": "epsilon_alpha2_beta1_flat", "epsilon": 1e-3}
