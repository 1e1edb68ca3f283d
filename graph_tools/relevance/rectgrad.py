"""RectGrad (Kim et al. 2019): a rectifier, whose output is a, lets pass the relevance R where a R is above a threshold.

The threshold is a quantile of a R over all units of a layer in one sample, so that a run is of one sample; or a number.
With 0 it is guided backpropagation: where a R > 0, both are above 0. Rectifiers are those of `guided`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value
from onnx_attribution.graph_tools.operators import VJP, NodeView, RuleTable
from onnx_attribution.graph_tools.operators.gates import above, fits
from onnx_attribution.graph_tools.operators.registry import Gradients
from onnx_attribution.graph_tools.relevance.guided import table_of

TINY = 1e-10
"""What the authors add to the mean of a window."""


@dataclass(frozen=True)
class Threshold:
    """Which relevance passes: where a R is above its `quantile`, in percent, or above `tau` where that is given;
    `absolute`: where |a R| is. `proportional`: a max pool hands what arrives to all elements of a window, in
    proportion."""

    quantile: float = 98.0
    tau: float | None = None
    absolute: bool = False
    proportional: bool = False


@lru_cache(maxsize=64)
def rectgrad(threshold: Threshold) -> RuleTable:
    """The table of a threshold."""

    def rectify(op: Emitter, node: NodeView, g: Value, moving: int) -> Value:
        product = op("Mul", node.z, g)
        if threshold.absolute:
            product = op("Abs", product)
        product.shape = node.z.shape
        tau = threshold.tau
        if fits(node, product):
            moved = (
                product if tau is not None else op("Sub", product, _quantile(op, product, threshold.quantile))
            )
            moved.shape = product.shape
            if (counts := above(op, moved, tau or 0.0)) is not None:
                return op("Mul", g, counts)
        bound = _quantile(op, product, threshold.quantile) if tau is None else op.like(product, tau)
        return op("Where", op("Greater", product, bound), g, op.like(g, 0))

    table = table_of(rectify)
    if threshold.proportional:
        for name, pool in (("MaxPool", max_pool), ("GlobalMaxPool", global_max_pool)):
            table["", name] = replace(VJP["", name], vjp=pool)
    return table


def _quantile(op: Emitter, values: Value, percent: float) -> Value:
    """The quantile of all elements, between two of them linearly, as numpy's percentile."""
    flat = op("Reshape", values, op.ints([-1]))
    count = op("Cast", op("Reshape", op.size(values), op.ints([1])), to=11)  # float64
    place = op("Mul", op("Sub", count, op.like(count, 1)), op.like(count, percent / 100))
    below = op("Floor", place)
    share = op.cast(op("Sub", place, below), values.dtype)
    kept = op("Cast", op("Sub", count, below), to=7)
    top, places = op.multi("TopK", 2, flat, kept, axis=0, largest=1, sorted=0)
    two = op("Min", kept, op.ints([2]))
    ends, ranks = op.multi("TopK", 2, top, two, axis=0, largest=0, sorted=1)
    places.dtype = ranks.dtype = kept.dtype
    low = op("Gather", ends, op.ints([0]), axis=0)
    high = op("Gather", ends, op("Sub", two, op.ints([1])), axis=0)
    return op("Add", low, op("Mul", share, op("Sub", high, low)))


def max_pool(op: Emitter, node: NodeView, g: Value | None, *_: Value | None) -> Gradients:
    """In proportion to the elements of each window: x times the relevance over the mean, spread over the window.

    Behind a rectifier these are not below 0; of both signs their mean may be near 0, and the shares without bound.
    """
    if any(d != 1 for d in node.attribute("dilations") or [1]):
        raise NotDifferentiable(
            f"no proportional redistribution at {node.operator} (node {node.name!r}) with windows that have gaps; "
            "leave proportional out",
            reason=Reason.FORM_WITHOUT_RULE, node=node.name, operator=node.operator, tensor=node.z.name,
        )  # fmt: skip
    own = {k: v for k, v in node.attributes.items() if k not in ("storage_order", "dilations")}
    return _shared(op, replace(node, operator="AveragePool", attributes=own), g)


def global_max_pool(op: Emitter, node: NodeView, g: Value) -> Gradients:
    return _shared(op, replace(node, operator="GlobalAveragePool"), g)


def _shared(op: Emitter, mean: NodeView, g: Value | None) -> Gradients:
    x = mean.input(0)
    if g is None:
        return (op.zeros_like(x),)
    made = mean.again(op, x)
    made.dtype, made.shape = x.dtype, mean.z.shape
    view = replace(mean, outputs=(made,))
    share = op("Div", g, op("Add", made, op.like(made, TINY)))
    (spread,) = VJP["", mean.operator].vjp(op, view, share)
    assert spread is not None
    return (op("Mul", x, spread),)
