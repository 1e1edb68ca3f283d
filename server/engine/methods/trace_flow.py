"""fb_trace: what flows between the strongest units of layers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_attribution.graph_tools.ir.emit import element_type
from onnx_attribution.graph_tools.select.links import links_between
from onnx_attribution.server.engine.methods.trace_shares import (
    Layers,
    laid,
    products,
    samples_and_channels,
    sizes_of,
    trace_of,
    walked,
)
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import AtInput, Floats, Recipe, contribution
from onnx_attribution.server.engine.request.resolve import Resolved
from onnx_attribution.server.engine.request.targets import per_sample
from onnx_attribution.server.engine.rows.points import rows_at
from onnx_attribution.supports import Edge, LayerSupport, Unit

Flow = Generator[int, None, list[tuple[int, Edge]]]
"""Edges with the number of their sample."""
Supports = dict[str, list[LayerSupport]]


def _ahead(model: LoadedModel, names: Sequence[str]) -> dict[str, list[str]]:
    """By layer those before it of which a way leads there that crosses no other."""
    found: dict[str, list[str]] = {}
    for before, behind in links_between(model.nodes, names):
        found.setdefault(behind, []).append(before)
    return found


def _only(resolved: Resolved, name: str, values: Floats, units: Sequence[Unit | None]) -> Floats:
    """The values of one unit of each sample, 0 elsewhere; None: of none."""
    laid_out, axis = samples_and_channels(resolved, name, values)
    found = np.zeros_like(laid_out)
    for k, unit in enumerate(units):
        if unit is None:
            continue
        place: tuple[int | slice, ...] = unit.unit
        if axis is not None:
            place = (*[slice(None)] * axis, unit.unit[0])
        found[(k, *place)] = laid_out[(k, *place)]
    return found.reshape(values.shape)


def _through(
    resolved: Resolved, found: Layers, supports: Supports, behind: str, units: Sequence[Unit | None]
) -> Iterator[tuple[int, Edge]]:
    """The edges from the named units of layers to one unit of each sample of the layer behind them."""
    for name, shares in found.items():
        laid_out, axis = samples_and_channels(resolved, name, shares)
        for k, to in enumerate(units):
            if to is None:
                continue
            for unit in supports[name][k].top:
                part = laid_out[k] if axis is None else np.moveaxis(laid_out[k], axis, 0)
                share = float(np.sum(part[unit.unit]))
                if share:
                    yield k, Edge(name, unit.unit, behind, to.unit, share)


def _asked_of(
    resolved: Resolved, behind: str, layers: Sequence[str], units: Floats, kind: np.dtype[Any]
) -> Resolved:
    """The same question of a layer's units, by their weights, in place of the target."""
    choice = replace(resolved.choice, target=behind, layers=tuple(layers))
    like = [np.empty(units.shape[1:], kind) for _ in resolved.samples.runs]
    samples = resolved.samples.weighted(behind, units, like)
    return replace(resolved, choice=choice, samples=samples, selection=units)


def _ranks(supports: Sequence[LayerSupport], top: int) -> Iterator[list[Unit | None]]:
    """The first named unit of each sample, then the second, and so on."""
    for rank in range(top):
        units = [one.top[rank] if rank < len(one.top) else None for one in supports]
        if any(unit is not None for unit in units):
            yield units


def signed_flow(
    model: LoadedModel, resolved: Resolved, supports: Supports, kept: Layers, tau: Floats, memory: int
) -> Flow:
    """What of a contribution goes through a unit: by its gradient alone."""
    edges: list[tuple[int, Edge]] = []
    plain = replace(resolved, recipe=Recipe(AtInput(), contribution))
    terms, _ = yield from products(model, plain, memory)
    sizes = sizes_of(resolved, terms)
    for behind, before in _ahead(model, list(supports)).items():
        kind = element_type(model.tensors[behind])
        own = replace(plain, choice=replace(plain.choice, layers=(behind,)))
        parts = list[Floats]()
        for rows in rows_at(
            model, own, [(k, 1.0) for k in range(own.samples.count)], memory, activations=False
        ):
            parts.append(np.asarray(rows.layers[behind][0], np.float64))
            yield rows.evaluated
        gradient = np.concatenate(parts)
        for units in _ranks(supports[behind], trace_of(resolved).top):
            asked = _asked_of(plain, behind, before, _only(resolved, behind, gradient, units), kind)
            found, _ = yield from products(model, asked, memory)
            shares = {name: one / sizes[name] for name, one in found.items()}
            edges += _through(resolved, shares, supports, behind, units)
    return edges


def positive_flow(
    model: LoadedModel, resolved: Resolved, supports: Supports, kept: Layers, tau: Floats, memory: int
) -> Flow:
    """What of a mass comes through a unit: its own is sent on alone, by the same thresholds."""
    edges: list[tuple[int, Edge]] = []
    for behind, before in _ahead(model, list(supports)).items():
        kind = element_type(model.tensors[behind])
        for units in _ranks(supports[behind], trace_of(resolved).top):
            mass = _only(resolved, behind, kept[behind], units)
            sizes = per_sample(mass)
            numbers = np.flatnonzero(sizes > 0)
            begins = np.where(laid(sizes, mass) > 0, mass, 1.0)  # of others something, which is not asked for
            asked = _asked_of(resolved, behind, before, begins, kind)
            found, _ = yield from walked(model, asked, tau[numbers] / sizes[numbers], numbers, memory)
            shares = {}
            for name, one in found.items():
                shares[name] = np.zeros((len(sizes), *one.shape[1:]))
                shares[name][numbers] = one * laid(sizes[numbers], one)
            edges += _through(resolved, shares, supports, behind, units)
    return edges
